# SPDX-License-Identifier: Apache-2.0
"""The receiving side of a Socket: its RX and fill rings, which check and record who owns each frame.

A whole Batch need not be written into the owner array and out of it again. While the RX ring keeps the order of the
fill ring (see Order), borrow() leaves the array as it is and remembers the frames as one entry of Ledger.borrowed;
give_back() posts them again from there. Whoever asks for single frames meanwhile has the ledger write them down first,
and then they go back one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import whole
from toolkit.abi.if_xdp import XDP_RING_NEED_WAKEUP, XDPDesc
from toolkit.errors import ArgumentError
from toolkit.rings import FillQueue, RingMemory, RXQueue
from toolkit.rings.fillqueue import as_addresses
from toolkit.rings.frames import FrameStore
from toolkit.rings.memory import U32
from toolkit.umem.descriptor_check import Limits
from toolkit.umem.ledger import FREE, RECEIVED, RETIRED, RETURNED, RX, Addresses, Ledger, owner_code
from toolkit.umem.order import Order
from toolkit.umem.transfer import Account

__all__ = ["Borrowed", "OwnedFill", "OwnedRX", "ReceiveAccount"]

_FEW = 16  # packets below which Python is quicker than NumPy
_POST = "cannot post to the fill ring"


def _nothing(taking: int) -> None:
    """Do nothing."""


# The frames of a Batch that are remembered as a whole: (key in Ledger.borrowed, index of the first in the RX ring, the
# addresses of byte 0 of each, and where the kernel puts packets in them, for Order.post(); both as bytes, u64 each).
Borrowed = tuple[int, int, bytes, bytes]


class ReceiveAccount(Account):
    """Frames that a Socket posts to the kernel (fill ring) and gets back with packets (RX ring)."""

    def __init__(self, ledger: Ledger, holder: int) -> None:
        super().__init__(ledger, holder)
        self.posted = owner_code(RX, holder)
        self.received = owner_code(RECEIVED, holder)

    def free_received(self) -> None:
        """Free every frame that was received and not given back. After an interrupt."""
        with self.ledger.lock:
            self.ledger.reassign(self.received, FREE)

    def close(self, *, linger: float = 0.0) -> None:
        """Free all frames of this account, since the Socket is gone. Never waits for its own thread (finalizers).

        linger: seconds during which the driver may still write to the posted frames (zero-copy).
        """
        self.transfer = None
        ledger = self.ledger
        if ledger.lock.locked():
            # Perhaps by this thread, in which a finalizer runs; by another, it may be freeing them: nothing is written.
            for key, (code, _) in list(ledger.borrowed.items()):
                if code == self.received:
                    ledger.borrowed.pop(key, None)  # in the owner array they are posted
        else:
            with ledger.lock:
                ledger.write_down()
        if linger:
            ledger.disown_later(self.posted, owner_code(RETIRED, self.holder), linger)
        else:
            ledger.disown(self.posted, FREE)
        ledger.disown(self.received, FREE)


class OwnedRX(RXQueue):
    """The RX ring of a Socket. A frame that it returns belongs to the user until it is posted, sent or freed.

    FrameError when an entry names a frame that the kernel does not have, or one twice, or (except in peek()) does not
    stay within its frame. Then nothing is taken, and each later call raises the same.
    """

    def __init__(self, memory: RingMemory, account: ReceiveAccount, order: Order, limits: Limits) -> None:
        """Consume the ring in `memory`. order: of the fill ring. limits: of the descriptors."""
        super().__init__(memory)
        self.received = account.received  # owner code of the frames that it returned
        self._account = account
        self._order = order
        self._limits = limits
        order.start(memory)

    def peek(self, limit: int | None = None) -> tuple[int, int]:
        """Do RXQueue.peek(); the frames are the user's."""
        self._account.settle()
        n = self._wanted(self.available(), limit)
        index = self._cached_consumer
        if n:
            self._receive(index, self._addresses(index, n), self._peeked_to)
            self._cached_consumer = (index + n) & U32
            self._account.end()
        return n, index

    def cancel(self, n: int) -> None:
        """Do RXQueue.cancel(); the frames are the kernel's again. FrameError when the user has passed one on."""
        account = self._account
        account.settle()
        n = self._peeked(n, "cancel")
        if n:
            index, tried = (self._cached_consumer - n) & U32, "cannot cancel the peek of"
            frames = self._addresses(index, n)
            account.begin(self, self._peeked_to, frames, account.posted, account.received, tried)
            self._cached_consumer = index
            account.end()

    def take(self, limit: int | None = None, first: Callable[[int], None] = _nothing) -> npt.NDArray[np.uint64]:
        """Do RXQueue.take(); the frames are the user's, and each is entered in the owner array.

        first: called with the number of entries, once they have proved right and before any is taken.
        """
        index, entries = self._next(limit)
        self._take_each(index, entries, first)
        return entries

    def borrow(
        self, limit: int | None = None, first: Callable[[int], None] = _nothing
    ) -> tuple[npt.NDArray[np.uint64], Borrowed | None]:
        """Do take() for a Batch; return (descriptors, its frames if they are remembered as a whole).

        They go back by OwnedFill.give_back(), if nobody has asked for single ones until then.
        """
        # Written out, since each call that it saves shows in batches of one.
        account, memory, index = self._account, self._memory, self._cached_consumer
        if account.transfer is not None:
            account.settle()
            index = self._cached_consumer
        limit = self.size if limit is None else limit
        n = (self._cached_producer - index) & U32
        if n < limit or n == 0:
            n = self.available(limit)
        if n > limit:
            n = self._wanted(n, limit)
        entries = memory.read(index, n)
        if not n:
            first(0)
            return entries, None
        if memory.load(memory.consumer) != index:
            raise self._peeked_before()
        known = self._order.next(index, entries[:, 0])
        if known is None:
            self._take_each(index, entries, first)
            return entries, None
        frames, packets, offset = known
        lengths = entries[:, 1]
        longest = max(lengths.tolist()) if n < _FEW else int(np.maximum.reduce(lengths))
        # In Python's integers, which do not wrap; an option makes a length large.
        if offset + longest > self._limits.frame_size:
            self._limits.check(entries)
        first(n)
        self._order.take(index)
        account.transfer = self, self._released_to, index, frames, account.posted, account.received
        self._cached_consumer = end = (index + n) & U32
        memory.store(memory.consumer, end)
        key = account.holder << 32 | index
        account.ledger.borrowed[key] = account.received, frames
        account.transfer = None
        return entries, (key, index, frames, packets)

    def take_one(self) -> XDPDesc | None:
        """Do take() for one descriptor, without NumPy's fixed costs. None when no packet waits."""
        account, memory = self._account, self._memory
        if account.transfer is not None:
            account.settle()
        if not self.available():
            return None
        index = self._cached_consumer
        if memory.load(memory.consumer) != index:
            raise self._peeked_before()
        desc = self.get(index)
        address, ledger = desc.addr, account.ledger
        if ledger.borrowed or ledger.owner_of(address) != account.posted:
            with ledger.lock:
                ledger.claim_one(address, account.posted, RETURNED)
        if not self._order.next_one(index, address) and self._order.kept:
            self._order.leave()
        account.transfer = self, self._released_to, index, (address,), account.posted, account.received
        # Without the lock: no other thread changes a frame that the kernel has for receiving.
        ledger.set_one(address, account.received)
        self._cached_consumer = index = (index + 1) & U32
        memory.store(memory.consumer, index)
        account.transfer = None
        return desc

    def resync(self) -> None:
        """Drop every peek that was not released: the frames are the kernel's again, and the next peek returns them.

        Entries up to the last whose frame was passed on count as released: such a frame would be in two places.
        """
        account, ledger = self._account, self._account.ledger
        account.settle()
        if n := self.unreleased:
            index = (self._cached_consumer - n) & U32
            addresses = self._addresses(index, n)
            with ledger.lock:
                done = account.passed_on(addresses, account.received)
                self._memory.store(self._memory.consumer, index + done)
                ledger.swap(addresses[done:], account.received, account.posted)
        super().resync()

    def settle(self) -> None:
        """Make frames and index agree after an interrupt; what is peeked stays so."""
        self._account.settle()

    def rewind(self, index: int) -> None:
        """Go on at `index`: see Account.settle()."""
        self._cached_consumer = index

    def posted_ns(self, rx_index: int, n: int) -> npt.NDArray[np.int64]:
        """Return when the frames of a Batch that was borrowed as a whole were posted: see Order.posted_ns()."""
        return self._order.posted_ns(rx_index, n)

    def _next(self, limit: int | None) -> tuple[int, npt.NDArray[np.uint64]]:
        """Return the next entries, at most `limit`, and the index of the first; nothing is taken yet."""
        if self._account.transfer is not None:
            self._account.settle()
        limit = self.size if limit is None else whole("limit", limit, 0)
        n = min(self.available(limit), limit)
        index = self._cached_consumer
        if n and self._memory.load(self._memory.consumer) != index:
            raise self._peeked_before()
        return index, self._memory.read(index, n)

    @staticmethod
    def _peeked_before() -> ArgumentError:
        return ArgumentError(
            "cannot take others: entries are peeked and not released. Next step: release() or cancel() them first."
        )

    def _take_each(self, index: int, entries: npt.NDArray[np.uint64], first: Callable[[int], None]) -> None:
        """Check entries frame by frame, enter them in the owner array, and take them."""
        if len(entries):
            self._limits.check(entries)
            self._receive(index, entries[:, 0], self._released_to, first)
            self._cached_consumer = index = (index + len(entries)) & U32
            self._memory.store(self._memory.consumer, index)
            self._account.end()
        else:
            first(0)

    def _receive(
        self, index: int, addresses: Addresses, position: Callable[[], int], first: Callable[[int], None] = _nothing
    ) -> None:
        """Begin a transfer of frames that the RX ring names, to the user."""
        account, order, ledger = self._account, self._order, self._account.ledger
        known = order.next(index, addresses) is not None
        numbers = ledger.numbers(addresses)
        with ledger.lock:
            ledger.claim(numbers, addresses, account.posted, RETURNED, distinct=known)
        first(len(numbers))
        if known:
            ledger.posted_at[numbers] = order.posted_ns(index, len(numbers))
        elif order.kept:
            order.leave()
        order.take(self._released_to())  # entries that are peeked and not released may come again: see cancel()
        # What is with the kernel for receiving is not changed by any other thread, so the claim still holds.
        with ledger.lock:
            account.transfer = self, position, position(), addresses, account.posted, account.received
            ledger.owner[numbers] = account.received

    def _addresses(self, index: int, n: int) -> Addresses:
        return self._memory.read(index, n)[:, 0]

    def _peeked_to(self) -> int:
        return self._cached_consumer

    def _released_to(self) -> int:
        return self._memory.load(self._memory.consumer)


class OwnedFill(FillQueue):
    """The fill ring of a Socket. A frame that is posted belongs to the kernel until the RX ring returns it."""

    def __init__(
        self,
        memory: RingMemory,
        account: ReceiveAccount,
        wake: Callable[[], bool] | None = None,
        *,
        headroom: int = 0,
    ) -> None:
        """Produce into the ring in `memory`. headroom: that of the UMEM."""
        super().__init__(memory, wake)
        self._account = account
        self._in_frame = np.array(-1 << account.ledger.shift & (1 << 64) - 1, dtype=np.uint64)
        self.order = Order(account.ledger, memory, headroom)

    def put(self, entries: Addresses, *, distinct: bool = False, was: int | None = None) -> int:
        """Do FillQueue.put() with frames of the user, all or none of those that fit. Addresses may be anywhere in them.

        distinct: the caller knows that no frame is named twice; otherwise that is checked. was: the owner code that
        each must have, by default any of the user. FrameError when one is not the user's, or is named twice.
        """
        self._account.settle()
        entries, index = self._fitting(as_addresses(entries))
        if len(entries):
            frames = entries & self._in_frame
            self._memory.write(index, frames)
            self._begin(index, frames, distinct=distinct, was=was)
            self._publish(index, len(entries))
            self._account.end()
        return len(entries)

    def submit(self, n: int) -> None:
        """Do FillQueue.submit(): FrameError, and nothing is published, as in put()."""
        self._account.settle()
        n = self._reserved(n, "submit")
        if n:
            index = self._published_to()
            self._begin(index, self._memory.read(index, n) & self._in_frame)
            self._memory.store(self._memory.producer, index + n)
            self._account.end()

    def give_back(self, borrowed: Borrowed, rx_index: int, most: int) -> bool:
        """Post the frames of a Batch again. False when somebody asked for single ones, or there is no room.

        rx_index: of the RX ring, the next to be taken. most: frames that the kernel may have for receiving.
        """
        key, _, frames, packets = borrowed
        account, memory, index, n = self._account, self._memory, self._cached_producer, len(frames) >> 3
        if ((index - rx_index) & U32) + n > most or memory.load(memory.producer) != index:
            return False
        if (self._cached_consumer - index) & U32 < n and self.free(n) < n:
            return False
        account.transfer = self, self._published_to, index, frames, account.received, account.posted
        withdrawn = account.ledger.withdraw(key)
        if withdrawn:
            self.order.post(index, frames, packets)
            memory.write_raw(index, frames)
            self._cached_producer = index = (index + n) & U32
            memory.store(memory.producer, index)
        account.transfer = None
        return withdrawn

    @property
    def asks(self) -> bool:
        """Do needs_wakeup without its fence, for calls that come again soon: they see what this one missed."""
        return bool(self._memory.load(self._memory.flags) & XDP_RING_NEED_WAKEUP)

    def resync(self) -> None:
        """Drop unpublished reservations; frames of an interrupted call that were not posted are whose they were."""
        self._account.settle()
        super().resync()

    def rewind(self, index: int) -> None:
        """Go on at `index`: see Account.settle()."""
        self._cached_producer = index

    def _postable(self, umem: FrameStore, limit: int | None) -> int:
        self._account.settle()
        return super()._postable(umem, limit)

    def _post(self, umem: FrameStore, n: int) -> None:
        account, index = self._account, self._cached_producer
        if getattr(umem, "ledger", None) is not account.ledger:
            raise ArgumentError("this fill ring belongs to a Socket on another UMEM. Next step: pass that UMEM.")
        frames = account.begin_free(self, self._published_to, n, account.posted)
        self.order.post(index, frames.tobytes())
        self._memory.write(index, frames)
        self._publish(index, n)
        account.end()

    def _begin(self, index: int, frames: Addresses, *, distinct: bool = False, was: int | None = None) -> None:
        account = self._account
        account.begin(self, self._published_to, frames, account.posted, was, _POST, distinct=distinct)
        self.order.post(index, frames.tobytes())

    def _published_to(self) -> int:
        return self._memory.load(self._memory.producer)
