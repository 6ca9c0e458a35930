# SPDX-License-Identifier: Apache-2.0
"""Waiting for the copies of a Tee: on its BPF ring buffer, which knows nothing of the interface."""

from __future__ import annotations

import select

from toolkit.program import Link
from toolkit.wait.feed import ASK_EVERY
from toolkit.wait.waiter import Waiter

__all__ = ["TeeWaiter"]


class TeeWaiter(Waiter):
    """A Waiter whose one descriptor is a ring buffer's. It sleeps ("poll"), and never drives anything."""

    def __init__(self, ring: int, link: Link, where: str) -> None:
        """`ring`: the ring buffer's descriptor, the caller's. `link`: what tells whether the program runs."""
        super().__init__([], where)
        self._ring = ring
        self._link = link
        self._poll.register(ring, select.POLLIN)

    def fds(self) -> tuple[int, ...]:
        """Return the descriptor to wait for elsewhere than in wait()."""
        return (self._ring,)

    def _raise_if_unfed(self) -> None:
        """Raise when no copies come any more, as the link tells: nothing else does."""
        if not self._link.closed and (loss := self._link.lost(ASK_EVERY)) is not None:
            raise loss.error(f"cannot receive on {self._where} any more")
