# SPDX-License-Identifier: Apache-2.0
"""Descriptor: a file descriptor with one owner: closed once, closed by garbage collection, dead in a forked child."""

from __future__ import annotations

import contextlib
import os
import weakref

from toolkit._base import fork
from toolkit.errors import closed_error

__all__ = ["Descriptor"]


def _close(cell: list[int]) -> None:
    """Close the descriptor in the cell, at most once. Runs in finalizers: no locks, no errors."""
    with contextlib.suppress(IndexError, OSError):
        os.close(cell.pop())


class Descriptor(fork.NotCopied):
    """One file descriptor."""

    __slots__ = ("__weakref__", "_cell", "_finalizer", "_inherited", "_what")

    def __init__(self, fd: int, what: str) -> None:
        """Take over `fd`. what: the name of the object behind it, for errors."""
        self._what = what
        self._inherited = False
        self._cell = [fd]
        self._finalizer = weakref.finalize(self, _close, self._cell)
        fork.track(self)

    @property
    def fd(self) -> int:
        """The descriptor's number. ClosedError after close(), and in a forked child."""
        try:
            return self._cell[0]
        except IndexError:
            why = "belongs to the parent process, and this is a forked child" if self._inherited else "is closed"
            raise closed_error(f"{self._what} {why}") from None

    @property
    def closed(self) -> bool:
        """Whether the descriptor is gone."""
        return not self._cell

    def close(self) -> None:
        """Close the descriptor. Repeatable."""
        self._finalizer()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child's copy."""
        return self._inherited

    def _after_fork_in_child(self) -> None:
        self._inherited = True
        self._finalizer()
