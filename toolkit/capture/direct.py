# SPDX-License-Identifier: Apache-2.0
"""Past the page cache, where that is quicker: the disk fetches whole blocks from our memory itself (O_DIRECT).

At high rates the page cache can cost more than everything else: each page is taken from the system, filled by copying
and written back. A slow disk wants it all the same, because it takes in a burst. So both are tried, and timed.
"""

from __future__ import annotations

import contextlib
import os
import time

from toolkit.abi.libc import sched_yield
from toolkit.capture.pack import Bytes
from toolkit.capture.preallocate import Ahead

__all__ = ["BLOCK", "LEAST", "Direct"]

BLOCK = 4096  # bytes: what no disk finds too small; the page size, so that no page is written both ways
LEAST = 1 << 20  # bytes below which the page cache is taken: they mean that there is no hurry
_CACHED = 1 << 20  # bytes through the page cache at once: what lies in the processor's own cache still
_PAST = 4 << 20  # bytes past it at once: more is no quicker, and who waits for a slow disk sees that something moves
_WEIGHT = 0.3  # of the last piece in a way's average
_OUTLIER = 3.0  # times the average, which is the most that one piece counts for: a stall says little of the next piece
_SOON, _LATE = 0.02, 2.0  # seconds to the next try of the slower way: doubled each time that it is the slower one again


class Direct:
    """Whole blocks of one file, by the way that takes less time."""

    def __init__(self, fd: int) -> None:
        """fd: the file, open for writing."""
        self._fd = fd
        self._ahead = Ahead(fd)
        self._direct: int | None = None  # the same file, opened for the other way; -1: it cannot
        self._cost: list[float] = [0.0, 0.0]  # s a byte: through the page cache, past it; 0: not known
        self._pause = _SOON  # seconds from one try of the slower way to the next
        self._next = 0.0  # CLOCK_MONOTONIC s: when that is

    def write(self, data: Bytes, position: int) -> int:
        """Write whole blocks from memory that begins with a block to `position`, a multiple of BLOCK; bytes written.

        These are not always all.

        OSError as the kernel gives it.
        """
        past = self._choose()
        data = data[: _PAST if past else _CACHED]
        began = time.perf_counter()
        self._ahead.reach(position, position + len(data))
        try:
            written = os.pwrite(self._direct if past and self._direct is not None else self._fd, data, position)
        except OSError:
            if not past:
                raise
            # A file system that says so only now, or has no room: the other way tells.
            self._close(-1)
            return os.pwrite(self._fd, data, position)
        self._note(past, (time.perf_counter() - began) / max(written, 1))
        if not past:
            sched_yield()  # who receives on this CPU is in more of a hurry, and real-time threads are not interrupted
        return written

    def close(self, size: int) -> None:
        """Let go of the second descriptor, and of what the file, `size` bytes long, does not need. Repeatable."""
        self._close(None)
        self._ahead.trim(size)

    def abandon(self) -> None:
        """Let go of the second descriptor only: the file is somebody else's, who writes on."""
        self._close(None)

    def _close(self, state: int | None) -> None:
        fd, self._direct = self._direct, state
        if fd is not None and fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _choose(self) -> bool:
        """Return whether to go past the page cache."""
        if self._direct is None:
            try:
                flags = os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC
                self._direct = os.open(f"/proc/self/fd/{self._fd}", flags)
            except OSError:  # not this file system
                self._direct = -1
        if self._direct < 0:
            return False
        cached, past = self._cost
        if not cached or not past:
            return not past  # that one first: it does not wait for memory
        return (past < cached) != (time.monotonic() >= self._next)

    def _note(self, past: bool, cost: float) -> None:
        """Take in what a piece cost. The slower way's average is forgotten: it was tried to see how it is now."""
        known, other = self._cost[past], self._cost[not past]
        tried = not known or (other and other < known)
        if not tried:
            cost = known + _WEIGHT * (min(cost, _OUTLIER * known) - known)
        self._cost[past] = cost
        if tried:
            self._pause = min(2 * self._pause, _LATE) if cost > other else _SOON
            self._next = time.monotonic() + self._pause
