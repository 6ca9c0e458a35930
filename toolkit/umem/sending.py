# SPDX-License-Identifier: Apache-2.0
"""The sending side of a Socket: its TX and completion rings, which check and record who owns each frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import whole
from toolkit.abi.if_xdp import XDPDesc
from toolkit.errors import ArgumentError, FrameError
from toolkit.rings import CompletionQueue, RingMemory, TXQueue
from toolkit.rings.frames import FrameStore
from toolkit.rings.memory import U32
from toolkit.rings.txqueue import as_descs
from toolkit.umem.descriptor_check import Limits
from toolkit.umem.ledger import FREE, RETIRED, RETURNED, TX, USER, Addresses, FrameNumbers, Ledger, owner_code
from toolkit.umem.transfer import Account

__all__ = ["OwnedCompletion", "OwnedTX", "SendAccount"]

_SEND = "cannot send"


class SendAccount(Account):
    """Frames that a Socket gives the kernel to send (TX ring) and gets back when sent (completion ring)."""

    def __init__(self, ledger: Ledger, holder: int) -> None:
        super().__init__(ledger, holder)
        self.sending = owner_code(TX, holder)
        # Frames that the user has through this Socket: peeked in the completion ring, and not freed yet.
        self.at_hand = owner_code(USER, holder)

    @property
    def sending_frames(self) -> int:
        """Frames that the kernel holds for sending. Counts the whole array."""
        return len(self.ledger.numbers_of(self.sending))

    def free_at_hand(self) -> None:
        """Free every frame that the completion ring returned and nobody freed. After an interrupt."""
        with self.ledger.lock:
            self.ledger.reassign(self.at_hand, FREE)

    def close(self, *, retire: bool) -> None:
        """Free all frames of this account; `retire` those that the kernel may still be reading. Takes no lock."""
        self.transfer = None
        self.ledger.disown(self.sending, RETIRED if retire else FREE)
        self.ledger.disown(self.at_hand, FREE)


class OwnedTX(TXQueue):
    """The TX ring of a Socket. A frame in it belongs to the kernel until the completion ring returns it.

    FrameError, and nothing is published, when a frame is not the user's, is named twice, or a descriptor is not within
    its frame or has options that the socket was not bound for: the kernel would drop it, and never return its frame.
    """

    def __init__(
        self,
        memory: RingMemory,
        account: SendAccount,
        limits: Limits,
        wake: Callable[[], bool] | None = None,
    ) -> None:
        """Produce into the ring in `memory`. limits: of the descriptors."""
        super().__init__(memory, wake)
        self._account = account
        self._limits = limits

    def put(self, entries: npt.NDArray[Any], *, distinct: bool = False, otherwise: int | None = None) -> int:
        """Do TXQueue.put(). distinct: the caller knows that no frame is named twice; otherwise that is checked.

        otherwise: owner code of the frames if an interrupt keeps them from being published, by default the one before.
        """
        self._account.settle()
        descs, index = self._fitting(as_descs(entries))
        if len(descs):
            self._limits.check(descs)
            self._memory.write(index, descs)
            self._begin(descs[:, 0], distinct=distinct, otherwise=otherwise)
            self._publish(index, len(descs))
            self._account.end()
        return len(descs)

    def submit(self, n: int) -> None:
        """Do TXQueue.submit()."""
        self._account.settle()
        n = self._reserved(n, "submit")
        if n:
            index = self._published_to()
            descs = self._memory.read(index, n)
            self._limits.check(descs)
            self._begin(descs[:, 0])
            self._memory.store(self._memory.producer, index + n)
            self._account.end()

    def put_one(self, desc: XDPDesc, *, otherwise: int | None = None) -> bool:
        """Do put() for one descriptor, without NumPy's fixed costs. False when the ring is full."""
        account, memory, index = self._account, self._memory, self._cached_producer
        if account.transfer is not None:
            account.settle()
        if not self.free():
            return False
        if memory.load(memory.producer) != index:
            raise self.reserved_before("put_one")
        self._limits.check_one(desc)
        self.set(index, desc)
        address, ledger = desc.addr, account.ledger
        with ledger.lock:
            before = ledger.claim_one(address, None, _SEND)
            was = before if otherwise is None else otherwise
            account.transfer = self, self._published_to, index, (address,), was, account.sending
            ledger.set_one(address, account.sending)
        self._cached_producer = index = (index + 1) & U32
        memory.store(memory.producer, index)
        account.transfer = None
        return True

    def put_free(self, n: int, write: Callable[[Addresses], npt.NDArray[np.uint64]]) -> None:
        """Take `n` free frames, have `write` fill them and return their descriptors, and publish those, unchecked.

        The caller knows that the ring has room. FrameError when there are fewer frames.
        """
        account, index = self._account, self._cached_producer
        account.settle()
        addresses = account.begin_free(self, self._published_to, n, account.sending)
        self._memory.write(index, write(addresses))
        self._publish(index, n)
        account.end()

    def resync(self) -> None:
        """Drop unpublished reservations; frames of an interrupted call that were not published are whose they were."""
        self._account.settle()
        super().resync()

    def settle(self) -> None:
        """Make frames and index agree after an interrupt; what is reserved stays so."""
        self._account.settle()

    def rewind(self, index: int) -> None:
        """Go on at `index`: see Account.settle()."""
        self._cached_producer = index

    def _begin(self, addresses: Addresses, *, distinct: bool = False, otherwise: int | None = None) -> None:
        account, position = self._account, self._published_to
        account.begin(self, position, addresses, account.sending, None, _SEND, distinct=distinct, otherwise=otherwise)

    def _published_to(self) -> int:
        return self._memory.load(self._memory.producer)


class OwnedCompletion(CompletionQueue):
    """The completion ring of a Socket. A frame that it returns belongs to the user, or is free after free_all().

    FrameError when an entry names a frame that was not sent, or one twice.
    """

    def __init__(self, memory: RingMemory, account: SendAccount) -> None:
        """Consume the ring in `memory`."""
        super().__init__(memory)
        self._account = account

    def peek(self, limit: int | None = None) -> tuple[int, int]:
        """Do CompletionQueue.peek(); the frames are the user's."""
        account = self._account
        account.settle()
        n = self._wanted(self.available(), limit)
        index = self._cached_consumer
        if n:
            addresses = self._memory.read(index, n)
            account.begin(self, self._peeked_to, addresses, account.at_hand, account.sending, RETURNED)
            self._cached_consumer = (index + n) & U32
            account.end()
        return n, index

    def cancel(self, n: int) -> None:
        """Do CompletionQueue.cancel(); the frames are the kernel's again. FrameError when one was passed on."""
        account = self._account
        account.settle()
        n = self._peeked(n, "cancel")
        if n:
            index, tried = (self._cached_consumer - n) & U32, "cannot cancel the peek of"
            addresses = self._memory.read(index, n)
            account.begin(self, self._peeked_to, addresses, account.sending, account.at_hand, tried)
            self._cached_consumer = index
            account.end()

    def take(self, limit: int | None = None) -> Addresses:
        """Do CompletionQueue.take(); the frames are the user's."""
        limit = self.size if limit is None else whole("limit", limit, 0)
        self.available(limit)  # unlike peek(), also when some entries are known
        n, index = self.peek(limit)
        addresses = self._memory.read(index, n)
        self.release(n)
        return addresses

    def free_all(self, umem: FrameStore) -> int:
        """Put every frame that was sent on the free stack of `umem`; return how many.

        When an entry is wrong, the frames that were sent are freed all the same, and no entry comes again.
        """
        account, memory = self._account, self._memory
        if account.transfer is not None:
            account.settle()
        n = self.available(self.size)
        if not n:
            return 0
        if getattr(umem, "ledger", None) is not account.ledger:
            raise ArgumentError("this completion ring belongs to a Socket on another UMEM. Next step: pass that UMEM.")
        index = self._cached_consumer
        if memory.load(memory.consumer) != index:  # the user holds entries: these are released after his
            addresses = self.take()
            umem.free_frames(addresses)
            return len(addresses)
        addresses = memory.read(index, n)
        wrong = self._free(index, addresses, getattr(umem, "wipe", None))
        if wrong is not None:
            raise wrong
        return n

    def _free(self, index: int, addresses: Addresses, wipe: Callable[[FrameNumbers], None] | None) -> FrameError | None:
        """Take entries and free their frames; if one is wrong, free those that were sent, and return the error."""
        account, ledger = self._account, self._account.ledger
        end = (index + len(addresses)) & U32
        with ledger.lock:
            ledger.mend()
            numbers, wrong = self._sent(addresses)
            sent = numbers.view(np.uint64) << np.uint64(ledger.shift)
            account.transfer = self, self._released_to, index, sent, account.sending, FREE
            self._cached_consumer = end
            self._memory.store(self._memory.consumer, end)
            ledger.push(numbers, wipe)
        account.transfer = None
        return wrong

    def _sent(self, addresses: Addresses) -> tuple[FrameNumbers, FrameError | None]:
        """Return the numbers of those of the frames that were sent, and what is wrong if these are not all."""
        ledger, sending = self._account.ledger, self._account.sending
        numbers = ledger.numbers(addresses)
        try:
            ledger.claim(numbers, addresses, sending, RETURNED)
        except FrameError as wrong:
            return np.unique(numbers[ledger.belong(numbers, sending)]), wrong
        return numbers, None

    def resync(self) -> None:
        """Drop every peek that was not released: see OwnedRX.resync()."""
        account, ledger = self._account, self._account.ledger
        account.settle()
        if n := self.unreleased:
            index = (self._cached_consumer - n) & U32
            addresses = self._memory.read(index, n)
            with ledger.lock:
                done = account.passed_on(addresses, account.at_hand)
                self._memory.store(self._memory.consumer, index + done)
                ledger.swap(addresses[done:], account.at_hand, account.sending)
        super().resync()

    def rewind(self, index: int) -> None:
        """Go on at `index`: see Account.settle()."""
        self._cached_consumer = index

    def _peeked_to(self) -> int:
        return self._cached_consumer

    def _released_to(self) -> int:
        return self._memory.load(self._memory.consumer)
