# SPDX-License-Identifier: Apache-2.0
"""Closable: an object that any thread may close while others use it: once, as a whole, never in a forked child.

It is open, closing, closed, or dead in a forked child. Whoever waits inside it is woken, and whoever is inside it gets
out before anything is taken down.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

from toolkit._base import fork
from toolkit._base.uninterrupted import uninterrupted
from toolkit.errors import ClosedError, ToolkitError, closed_error

__all__ = ["CLOSED", "CLOSE_TIMEOUT", "Closable", "stuck"]

CLOSE_TIMEOUT = 5.0  # seconds that close() waits for whoever is inside
_WHOLE_TIMEOUT = 15.0  # seconds for all steps: only a lock that the interrupted caller holds can take that long

# Why every call raises. "" while the object is open.
CLOSED = "closed"
DEAD = "dead: it belongs to the parent of a fork"

C = TypeVar("C", bound="Closable")


class Closable(fork.NotCopied, ABC):
    """Base of what owns something of the kernel's. Use it as a context manager."""

    _why_dead = CLOSED  # until __init__

    def __init__(self, subject: str, *guards: threading.Lock) -> None:
        """subject: what it is, for errors. guards: each is held by a thread that is inside one of its calls.

        Call fork.track() when there is something that a forked child must give up.
        """
        self._subject = subject
        self._guards = guards
        self._close_lock = threading.Lock()
        self._down = False  # whether _take_down() has finished
        self._why_dead = ""

    def __enter__(self: C) -> C:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def closed(self) -> bool:
        """Whether close() has begun, or this process is a fork of the owner."""
        return bool(self._why_dead)

    def _check_open(self) -> None:
        """Raise ClosedError once close() has begun, or in a forked child."""
        if self._why_dead:
            raise self._closed_error()

    def _closed_error(self) -> ClosedError:
        return closed_error(f"{self._subject} is {self._why_dead}")

    def close(self) -> None:
        """Release everything. Repeatable, from any thread.

        Waits up to 5 s for a thread that is inside another call; ToolkitError if it stays there.
        """
        if self._why_dead == DEAD:
            return
        self._why_dead = CLOSED
        if not self._down:
            uninterrupted(self._close, timeout=_WHOLE_TIMEOUT, stuck=stuck(self._subject))

    def _close(self) -> None:
        with self._close_lock, contextlib.ExitStack() as held:  # another thread may be closing: return when it is done
            if self._down:
                return
            self._wake()
            for guard in self._guards:
                if not guard.acquire(timeout=CLOSE_TIMEOUT):
                    raise ToolkitError(stuck(self._subject))
                held.callback(guard.release)
            self._take_down()
            self._down = True

    def _wake(self) -> None:
        """Make threads that wait inside a call return. May be called several times."""

    @abstractmethod
    def _take_down(self) -> None:
        """Release everything, when no other thread is inside. Called again by the next close() if it raised."""

    def _after_fork_in_child(self) -> None:
        if not self._down:
            self._why_dead = DEAD
            self._abandon()

    @abstractmethod
    def _abandon(self) -> None:
        """Close this process's copies of what the parent of a fork owns. Must not raise or lock."""


def stuck(subject: str) -> str:
    """Return the text of an error: `subject` cannot be closed, because a call is still inside it."""
    return (
        f"cannot close {subject}: a call is still inside it. Likely cause: close() was called from a signal handler "
        "that interrupted that call. Next step: set a flag in the handler, and close outside of it."
    )
