# SPDX-License-Identifier: Apache-2.0
"""Custody: one Socket's side of the ledger. Its rings tell it when frames change hands; it keeps and checks the owners.

The rule is the same for all four rings: to peek takes custody, to publish gives it.
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
    """Frames that a Socket lends to the kernel (fill ring) and gets back with packets (RX ring)."""

    def __init__(self, ledger: Ledger, holder: int) -> None:
        self._ledger = ledger
        self._holder = holder  # immutable: the Socket's number on its UMEM
        self._posted = owner_code(RX, holder)
        self._received = owner_code(RECEIVED, holder)
        # (ring index, addresses) between lend() and settle(): frames that are the kernel's in the ledger and may not
        # have reached the fill ring yet. Only an interrupt leaves it set.
        self.pending: tuple[int, Addresses] | None = None

    def taken(self, addresses: Addresses) -> None:
        """Note that the RX ring returned frames."""
        self._ledger.move(addresses, self._received, self._posted, RETURNED)

    def taken_one(self, address: int) -> None:
        """The same for one frame."""
        if not self._ledger.swap_one(address, self._posted, self._received):
            self._ledger.move_one(address, self._received, self._posted, RETURNED)

    def put_back(self, addresses: Addresses) -> None:
        """Note that a peek was cancelled."""
        self._ledger.move(addresses, self._posted, self._received, "cannot cancel the peek of")

    def given(self, addresses: Addresses, *, distinct: bool = False) -> None:
        """Note that frames of the user go into the fill ring."""
        ledger = self._ledger
        ledger.move(addresses, self._posted, None, "cannot lend to the kernel", distinct=distinct)
        ledger.posted_at[ledger.numbers(addresses)] = time.monotonic_ns()

    def given_one(self, address: int) -> None:
        """The same for one frame."""
        ledger = self._ledger
        ledger.move_one(address, self._posted, None, "cannot lend to the kernel")
        ledger.posted_at[address >> ledger.shift] = time.monotonic_ns()

    def post(self, store: Any, n: int, index: int) -> Addresses:
        """Take `n` free frames for the fill ring, to be published from `index` on; pending until settle()."""
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
        """Forget the pending frames. They are free again unless the ring's `producer` index has passed theirs."""
        ledger, pending = self._ledger, self.pending
        if pending is not None and pending[0] == producer:
            with ledger.lock:
                # Interrupted early, lend() had not marked them: then they may be the sending thread's by now.
                ledger.swap(pending[1], self._posted, FREE)
                ledger.rebuild()
        self.pending = None

    def reclaim(self, store: Any, addresses: Addresses, release: Callable[[], None]) -> None:
        """Refuse: only a completion ring returns frames that were sent."""
        raise ArgumentError("a fill or RX ring does not return frames that were sent")

    def forget_received(self, still_in_ring: Addresses) -> None:
        """Free every received frame but those that the RX ring will return again: after an interrupted receive."""
        ledger = self._ledger
        with ledger.lock:
            ledger.swap(still_in_ring, self._received, self._posted)  # first: at no moment are they free
            ledger.owner[ledger.owner == self._received] = FREE
            ledger.rebuild()

    def restore(self, addresses: Addresses) -> None:
        """Note that an interrupted peek is forgotten: what it took is the kernel's again."""
        with self._ledger.lock:
            self._ledger.swap(addresses, self._received, self._posted)

    def end(self, *, linger: float = 0.0) -> None:
        """Free all frames of this side: the Socket is gone. Without a lock, for finalizers too.

        linger: seconds for which the driver may still write to what it was lent (zero-copy).
        """
        self.pending = None
        if linger:
            self._ledger.disown_later(self._posted, owner_code(RETIRED, self._holder), linger)
        else:
            self._ledger.disown(self._posted, FREE)
        self._ledger.disown(self._received, FREE)


class SendAccount:
    """Frames that a Socket hands to the kernel to send (TX ring) and gets back sent (completion ring)."""

    def __init__(self, ledger: Ledger, holder: int) -> None:
        self._ledger = ledger
        self._holder = holder  # immutable: the Socket's number on its UMEM
        self._sending = owner_code(TX, holder)
        self._received = owner_code(RECEIVED, holder)  # of the same Socket: what it answers
        # Frames that are the user's through this Socket: taken for sending, or returned sent and not free yet.
        self._at_hand = owner_code(USER, holder)
        # (ring index, addresses) of frames that are being put into the TX ring. Only an interrupt leaves it set.
        self.pending: tuple[int, Addresses | tuple[int, ...]] | None = None
        # Frames between the completion ring and the free stack, by reclaim(). Only an interrupt leaves it set.
        self.returning: Addresses | None = None

    def taken(self, addresses: Addresses) -> None:
        """Note that the completion ring returned frames."""
        self._ledger.move(addresses, self._at_hand, self._sending, RETURNED)

    def taken_one(self, address: int) -> None:
        """The same for one frame."""
        self._ledger.move_one(address, self._at_hand, self._sending, RETURNED)

    def put_back(self, addresses: Addresses) -> None:
        """Note that a peek was cancelled."""
        self._ledger.move(addresses, self._sending, self._at_hand, "cannot cancel the peek of")

    def given(self, addresses: Addresses, *, distinct: bool = False) -> None:
        """Note that frames of the user go into the TX ring."""
        if self.returning is not None:
            self._finish_returning()
        self._ledger.move(addresses, self._sending, None, "cannot send", distinct=distinct)

    def given_one(self, address: int) -> None:
        """The same for one frame."""
        if self.returning is not None:
            self._finish_returning()
        if not self._ledger.swap_one(address, self._received, self._sending):
            self._ledger.move_one(address, self._sending, None, "cannot send")

    def post(self, store: Any, n: int, index: int) -> Addresses:
        """Refuse: only a fill ring lends free frames."""
        raise ArgumentError("a TX ring does not lend free frames")

    def settle(self, producer: int) -> None:
        """Refuse, likewise."""
        raise ArgumentError("a TX ring does not lend free frames")

    def prepare(self, n: int, index: int) -> Addresses:
        """Take `n` free frames to write packets into, for the TX ring from `index` on; pending until sent().

        They are the kernel's in the ledger from here on: one pass over the owners instead of two.
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
        """Note that the pending frames were published."""
        self.pending = None

    def reclaim(self, store: Any, addresses: Addresses, release: Callable[[], None]) -> None:
        """Free frames that the completion ring returned, in one pass over the owners; `release` gives up their entries.

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
            self._finish_returning()  # each frame that was sent is free, once, whatever else the ring says
            raise
        self.returning = None

    def restore(self, addresses: Addresses) -> None:
        """Note that an interrupted peek is forgotten: what it took is the kernel's again."""
        with self._ledger.lock:
            self._ledger.swap(addresses, self._at_hand, self._sending)

    def recover(self, producer: int, still_in_ring: Addresses) -> None:
        """Put frames in their places after an interrupted send: what never reached the TX ring is free again.

        producer: the TX ring's. still_in_ring: what the completion ring will return again.
        """
        ledger, pending = self._ledger, self.pending
        with ledger.lock:
            if self.returning is not None:  # a few may be free again, and somebody else's already: only the rest
                ledger.swap(self.returning, self._sending, self._at_hand)
            ledger.swap(still_in_ring, self._at_hand, self._sending)
            if pending is not None and pending[0] == producer:
                ledger.swap(np.asarray(pending[1], dtype=np.uint64), self._sending, FREE)
            ledger.owner[ledger.owner == self._at_hand] = FREE
            ledger.rebuild()
        self.pending = self.returning = None

    def _finish_returning(self) -> None:
        """Do the rest of a reclaim() that was interrupted, before any of its frames can be sent anew.

        The Sender sees to its own in recover(); this is for a free_all() that somebody else called.
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
        """Free all frames of this side, or retire them where the kernel may still be reading them."""
        self.pending = None
        self._ledger.disown(self._sending, RETIRED if retire else FREE)
        self._ledger.disown(self._at_hand, FREE)  # what the completion ring returned and nobody freed
