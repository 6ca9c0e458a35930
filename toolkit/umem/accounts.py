# SPDX-License-Identifier: Apache-2.0
"""Accounts: one Socket's side of the ledger. Its rings report when frames change owner; it records and checks that.

The rule is the same for all four rings: peeking an entry takes its frame from the kernel, publishing one gives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from toolkit.errors import ArgumentError, FrameError
from toolkit.umem.ledger import FREE, RECEIVED, RETIRED, RETURNED, RX, TX, USER, Addresses, Ledger, owner_code

__all__ = ["ReceiveAccount", "SendAccount"]


class ReceiveAccount:
    """Frames that a Socket posts to the kernel (fill ring) and gets back with packets (RX ring).

    Used by the receiving thread; the Ledger's lock protects what the sending thread shares. Implements rings.Owners.
    """

    def __init__(self, ledger: Ledger, holder: int) -> None:
        self._ledger = ledger
        self._holder = holder  # immutable: the Socket's number on its UMEM
        self._posted = owner_code(RX, holder)
        self._received = owner_code(RECEIVED, holder)
        # (ring index, addresses) between post() and settle(): frames that the ledger counts as the kernel's, and that
        # may not have reached the fill ring yet. Only an interrupt leaves it set.
        self.pending: tuple[int, Addresses] | None = None

    def taken(self, addresses: Addresses) -> None:
        """Record that the RX ring returned frames."""
        self._ledger.move(addresses, self._received, self._posted, RETURNED)

    def taken_one(self, address: int) -> None:
        """Do taken() for one frame."""
        if not self._ledger.swap_one(address, self._posted, self._received):
            self._ledger.move_one(address, self._received, self._posted, RETURNED)

    def put_back(self, addresses: Addresses) -> None:
        """Record that a peek was cancelled."""
        self._ledger.move(addresses, self._posted, self._received, "cannot cancel the peek of")

    def given(self, addresses: Addresses, *, distinct: bool = False) -> None:
        """Record that frames of the user go into the fill ring."""
        ledger = self._ledger
        ledger.move(addresses, self._posted, None, "cannot post to the fill ring", distinct=distinct)
        ledger.posted_at[ledger.numbers(addresses)] = time.monotonic_ns()

    def given_one(self, address: int) -> None:
        """Do given() for one frame."""
        ledger = self._ledger
        ledger.move_one(address, self._posted, None, "cannot post to the fill ring")
        ledger.posted_at[address >> ledger.shift] = time.monotonic_ns()

    def post(self, store: Any, n: int, index: int) -> Addresses:
        """Take `n` free frames for the fill ring, to be published from `index` on; they are pending until settle()."""
        ledger = self._ledger
        if getattr(store, "ledger", None) is not ledger:
            raise ArgumentError("this fill ring belongs to a Socket on another UMEM. Next step: pass that UMEM.")
        with ledger.lock:
            addresses: Addresses = ledger.top(n)
            self.pending = (index, addresses)
            ledger.give(addresses, self._posted)
        ledger.posted_at[ledger.numbers(addresses)] = time.monotonic_ns()
        return addresses

    def settle(self, producer: int) -> None:
        """End the pending state. The frames are free again unless the ring's `producer` index has passed theirs."""
        ledger, pending = self._ledger, self.pending
        if pending is not None and pending[0] == producer:
            with ledger.lock:
                # swap(), since an early interrupt leaves them unmarked: the sending thread may have taken them by now.
                ledger.swap(pending[1], self._posted, FREE)
                ledger.rebuild()
        self.pending = None

    def reclaim(self, store: Any, addresses: Addresses, release: Callable[[], None]) -> None:
        """Refuse: only a completion ring returns frames that were sent."""
        raise ArgumentError(
            "a fill or RX ring does not return frames that were sent. Next step: ask the completion ring."
        )

    def forget_received(self, still_in_ring: Addresses) -> None:
        """Free every received frame, except those that the RX ring will return again. After an interrupted receive."""
        ledger = self._ledger
        with ledger.lock:
            ledger.swap(still_in_ring, self._received, self._posted)  # first, so that they are never free in between
            ledger.owner[ledger.owner == self._received] = FREE
            ledger.rebuild()

    def restore(self, addresses: Addresses) -> None:
        """Undo an interrupted peek: those of the frames that it took are the kernel's again."""
        with self._ledger.lock:
            self._ledger.swap(addresses, self._received, self._posted)

    def end(self, *, linger: float = 0.0) -> None:
        """Free all frames of this account, since the Socket is gone. Takes no lock, so finalizers may call it.

        linger: seconds during which the driver may still write to the posted frames (zero-copy).
        """
        self.pending = None
        if linger:
            self._ledger.disown_later(self._posted, owner_code(RETIRED, self._holder), linger)
        else:
            self._ledger.disown(self._posted, FREE)
        self._ledger.disown(self._received, FREE)


class SendAccount:
    """Frames that a Socket gives the kernel to send (TX ring) and gets back when sent (completion ring).

    Used by the sending thread; the Ledger's lock protects what the receiving thread shares. Implements rings.Owners.
    """

    def __init__(self, ledger: Ledger, holder: int) -> None:
        self._ledger = ledger
        self._holder = holder  # immutable: the Socket's number on its UMEM
        self._sending = owner_code(TX, holder)
        self._received = owner_code(RECEIVED, holder)  # received frames of the same Socket: it may send them back
        # Frames that the user owns through this Socket: returned by the completion ring, and not free yet.
        self._at_hand = owner_code(USER, holder)
        # (ring index, addresses) of frames on their way into the TX ring. Only an interrupt leaves it set.
        self.pending: tuple[int, Addresses | tuple[int, ...]] | None = None
        # Frames between the completion ring and the free stack; written by reclaim(). Only an interrupt leaves it set.
        self.returning: Addresses | None = None

    def taken(self, addresses: Addresses) -> None:
        """Record that the completion ring returned frames."""
        self._ledger.move(addresses, self._at_hand, self._sending, RETURNED)

    def taken_one(self, address: int) -> None:
        """Do taken() for one frame."""
        self._ledger.move_one(address, self._at_hand, self._sending, RETURNED)

    def put_back(self, addresses: Addresses) -> None:
        """Record that a peek was cancelled."""
        self._ledger.move(addresses, self._sending, self._at_hand, "cannot cancel the peek of")

    def given(self, addresses: Addresses, *, distinct: bool = False) -> None:
        """Record that frames of the user go into the TX ring."""
        if self.returning is not None:
            self._finish_returning()
        self._ledger.move(addresses, self._sending, None, "cannot send", distinct=distinct)

    def given_one(self, address: int) -> None:
        """Do given() for one frame."""
        if self.returning is not None:
            self._finish_returning()
        if not self._ledger.swap_one(address, self._received, self._sending):
            self._ledger.move_one(address, self._sending, None, "cannot send")

    def post(self, store: Any, n: int, index: int) -> Addresses:
        """Refuse: free frames are posted to a fill ring only."""
        raise ArgumentError("free frames cannot be posted to a TX ring. Next step: post them to a fill ring.")

    def settle(self, producer: int) -> None:
        """Refuse, as post() does."""
        raise ArgumentError("free frames cannot be posted to a TX ring. Next step: post them to a fill ring.")

    def prepare(self, n: int, index: int) -> Addresses:
        """Take `n` free frames to write packets into, for the TX ring from `index` on; they are pending until sent().

        The ledger counts them as the kernel's at once, which needs one pass over the owners instead of two.
        """
        ledger = self._ledger
        if self.returning is not None:
            self._finish_returning()
        with ledger.lock:
            addresses: Addresses = ledger.top(n)
            self.pending = (index, addresses)
            ledger.give(addresses, self._sending)
        return addresses

    def sent(self) -> None:
        """Record that the pending frames were published."""
        self.pending = None

    def reclaim(self, store: Any, addresses: Addresses, release: Callable[[], None]) -> None:
        """Free frames that the completion ring returned; `release` releases their ring entries.

        In between they are in no ring and not free: an interrupt leaves them in `returning`.
        """
        ledger = self._ledger
        if getattr(store, "ledger", None) is not ledger:
            raise ArgumentError("this completion ring belongs to a Socket on another UMEM. Next step: pass that UMEM.")
        if self.returning is not None:
            self._finish_returning()
        self.returning = addresses
        release()
        try:
            store.recycle(addresses, self._sending)
        except FrameError:
            self._finish_returning()  # frees, once, each named frame that the kernel had for sending, and no other
            raise
        self.returning = None

    def restore(self, addresses: Addresses) -> None:
        """Undo an interrupted peek: those of the frames that it took are the kernel's again."""
        with self._ledger.lock:
            self._ledger.swap(addresses, self._at_hand, self._sending)

    def recover(self, producer: int, still_in_ring: Addresses) -> None:
        """Put the owners right after an interrupted send: frames that never reached the TX ring are free again.

        producer: the TX ring's producer index. still_in_ring: frames that the completion ring will return again.
        """
        ledger, pending = self._ledger, self.pending
        with ledger.lock:
            if self.returning is not None:  # swap(): some may be free already, and have another owner by now
                ledger.swap(self.returning, self._sending, self._at_hand)
            ledger.swap(still_in_ring, self._at_hand, self._sending)
            if pending is not None and pending[0] == producer:
                ledger.swap(np.asarray(pending[1], dtype=np.uint64), self._sending, FREE)
            ledger.owner[ledger.owner == self._at_hand] = FREE
            ledger.rebuild()
        self.pending = self.returning = None

    def _finish_returning(self) -> None:
        """Finish a reclaim() that was interrupted, before any of its frames can be sent again.

        The Sender does that for its own calls in recover(); this is for a free_all() that the user called.
        """
        assert self.returning is not None
        with self._ledger.lock:
            self._ledger.swap(self.returning, self._sending, FREE)
            self._ledger.rebuild()
        self.returning = None

    @property
    def sending_frames(self) -> int:
        """Frames that the kernel holds for sending. Counts the whole array."""
        return len(self._ledger.numbers_of(self._sending))

    def end(self, *, retire: bool) -> None:
        """Free all frames of this account; `retire` those that the kernel may still be reading. Takes no lock."""
        self.pending = None
        self._ledger.disown(self._sending, RETIRED if retire else FREE)
        self._ledger.disown(self._at_hand, FREE)  # returned by the completion ring, and never freed
