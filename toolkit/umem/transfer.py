# SPDX-License-Identifier: Apache-2.0
"""Account: one side of a Socket in the ledger, with a journal of one entry: the Transfer that is under way.

A transfer changes the owner of frames together with an index of a ring. An interrupt in between leaves its entry, and
one rule makes both agree again: if the index has moved past the entry's, the frames belong to the new owner, else to
the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from toolkit.umem.ledger import FREE, Addresses, Ledger, as_array

__all__ = ["Account", "Transfer"]


class Ring(Protocol):
    """A ring, as far as a transfer needs it."""

    def rewind(self, index: int) -> None:
        """Go on at `index`: the entries from there on were not taken, or not published."""


# Frames that change owner together with an index of a ring: (ring, position, at, addresses, was, now). position reads
# the index that the transfer moves, and `at` is its value before; was and now are owner codes, was perhaps one a frame.
# A plain tuple, since one is made for every batch.
Transfer = tuple[
    Ring,
    Callable[[], int],
    int,
    Addresses | bytes | Sequence[int],
    int | npt.NDArray[np.uint32],
    int,
]


class Account:
    """Base of ReceiveAccount and SendAccount. Used by one thread; the Ledger's lock protects what threads share."""

    def __init__(self, ledger: Ledger, holder: int) -> None:
        """Keep the accounts of socket number `holder` of the ledger's UMEM."""
        self.ledger = ledger
        self.holder = holder  # immutable
        # Set before the first step of a transfer, None after the last. Only an interrupt leaves it set.
        self.transfer: Transfer | None = None

    def begin(
        self,
        ring: Ring,
        position: Callable[[], int],
        addresses: Addresses,
        now: int,
        was: int | None,
        tried: str,
        *,
        distinct: bool = False,
        otherwise: int | None = None,
    ) -> None:
        """Give frames to owner `now`, all or none, by a transfer; end() ends it once the ring's index has moved.

        was, tried, distinct, FrameError: as in Ledger.claim(). otherwise: their owner if an interrupt keeps the index
        from moving, by default the one before.
        """
        ledger = self.ledger
        numbers = ledger.numbers(addresses)
        with ledger.lock:
            before = ledger.claim(numbers, addresses, was, tried, distinct=distinct)
            self.transfer = ring, position, position(), addresses, before if otherwise is None else otherwise, now
            ledger.owner[numbers] = now

    def begin_free(self, ring: Ring, position: Callable[[], int], n: int, now: int) -> Addresses:
        """Do begin() with `n` free frames; return their addresses, shape (n,), u64. FrameError when there are fewer."""
        ledger = self.ledger
        with ledger.lock:
            addresses = ledger.top(n)
            self.transfer = ring, position, position(), addresses, FREE, now
            ledger.give(addresses, now)
        return addresses

    def end(self) -> None:
        """End a transfer: frames and index agree."""
        self.transfer = None

    def passed_on(self, addresses: Addresses, code: int) -> int:
        """Return how many of the entries that were peeked are processed: up to the last whose frame `code` lost.

        That is, it was freed, posted or sent since, or a later entry names it again. The caller holds the lock.
        """
        numbers = self.ledger.numbers(addresses)
        _, last = np.unique(numbers[::-1], return_index=True)
        lost = np.ones(len(numbers), dtype=np.bool_)
        lost[len(numbers) - 1 - last] = False
        lost |= ~self.ledger.belong(numbers, code)
        return int(np.flatnonzero(lost)[-1]) + 1 if lost.any() else 0

    def settle(self) -> None:
        """Make frames and index agree again after an interrupt; without effect when no transfer is under way."""
        transfer, ledger = self.transfer, self.ledger
        if transfer is None:
            return
        ring, position, index, addresses, was, now = transfer
        moved = position() != index
        with ledger.lock:
            # Only frames that still have the other owner: a free one may have been taken by another thread.
            if moved:
                ledger.swap(as_array(addresses), was, now)
            else:
                ledger.swap(as_array(addresses), now, was)
        if not moved:
            ring.rewind(index)
        self.transfer = None
