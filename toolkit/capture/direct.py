# SPDX-License-Identifier: Apache-2.0
"""Direct: write past the page cache where that is quicker: the disk reads whole blocks from our memory (O_DIRECT).

At high rates the page cache can cost more than everything else: each page is allocated, filled by copying, and written
back. With a slow disk it is still better, because it absorbs a burst. So both ways are tried, and timed.
"""

from __future__ import annotations

import contextlib
import os
import time

from toolkit.abi.libc import FALLOC_FL_KEEP_SIZE, fallocate, sched_yield
from toolkit.capture.pack import Bytes

__all__ = ["BLOCK", "LEAST", "Direct"]

BLOCK = 4096  # bytes: enough for every disk; the page size, so that no page is written both ways
LEAST = 1 << 20  # bytes: a smaller piece goes through the page cache, since the rate is low
_CACHED = 1 << 20  # bytes written through the page cache at a time: they are still in the CPU's cache
_PAST = 4 << 20  # bytes written past it at a time: more is not quicker, and progress would show later
_WEIGHT = 0.3  # weight of the last piece in the average of its way
_OUTLIER = 3.0  # one piece counts for at most this multiple of the average: a stall says little about the next piece
_SOON, _LATE = 0.02, 2.0  # seconds to the next try of the slower way; doubled each time that it is slower again
_AHEAD = 64 << 20  # bytes taken ahead at most: of a killed capture they stay on the disk until the file is removed


class Direct:
    """Writes whole blocks of one file, the quicker way. For the writing thread."""

    def __init__(self, fd: int) -> None:
        """Write to the file `fd`, which is open for writing."""
        self._fd = fd
        self._ahead = Ahead(fd)
        self._direct: int | None = None  # the same file, opened with O_DIRECT; -1: that is not possible
        self._cost: list[float] = [0.0, 0.0]  # seconds a byte: through the page cache, past it; 0: not known
        self._pause = _SOON  # seconds between two tries of the slower way
        self._next = 0.0  # CLOCK_MONOTONIC s: time of the next try

    def write(self, data: Bytes, position: int) -> int:
        """Write whole blocks to `position`, a multiple of BLOCK; return the bytes written, perhaps fewer than given.

        data: memory that begins at a block's boundary. OSError from the kernel.
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
            # The file system refuses O_DIRECT only now, or it is full: writing the other way shows which.
            self._close(-1)
            return os.pwrite(self._fd, data, position)
        self._note(past, (time.perf_counter() - began) / max(written, 1))
        if not past:
            sched_yield()  # let a receiving thread on this CPU run, in case this is a real-time thread
        return written

    def close(self, size: int) -> None:
        """Close the second descriptor, and free blocks behind the file's end at `size` bytes. Repeatable."""
        self._close(None)
        self._ahead.trim(size)

    def abandon(self) -> None:
        """Close only the second descriptor: another process goes on writing."""
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
            except OSError:  # not supported by this file system
                self._direct = -1
        if self._direct < 0:
            return False
        cached, past = self._cost
        if not cached or not past:
            return not past  # past the cache first: that does not wait for memory
        return (past < cached) != (time.monotonic() >= self._next)

    def _note(self, past: bool, cost: float) -> None:
        """Record the cost of a piece. For the slower way it replaces the average: the try shows the present cost."""
        known, other = self._cost[past], self._cost[not past]
        tried = not known or (other and other < known)
        if not tried:
            cost = known + _WEIGHT * (min(cost, _OUTLIER * known) - known)
        self._cost[past] = cost
        if tried:
            self._pause = min(2 * self._pause, _LATE) if cost > other else _SOON
            self._next = time.monotonic() + self._pause


class Ahead:
    """Blocks of one file that only grows, allocated by the thousand before they are written. For the writing thread.

    Through ext4's page cache a byte of a new file costs 40 % less if its block is already allocated. The blocks are
    behind the file's end, so that the file never shows more than what was written.
    """

    def __init__(self, fd: int) -> None:
        """Allocate for the file `fd`, which is open for writing."""
        self._fd = fd
        self._until = 0  # allocated to here; written by reach() and trim()
        self._able = True  # whether the file system supports it, and has room

    def reach(self, begin: int, end: int) -> None:
        """Allocate blocks for the bytes from `begin` to `end`, and for as many more, at most 64 MB."""
        if end <= self._until or not self._able:
            return
        begin, until = max(begin, self._until), end + min(end, _AHEAD)
        try:
            fallocate(self._fd, FALLOC_FL_KEEP_SIZE, begin, until - begin)
        except OSError:  # not supported by the file system, or nearly full: then write() fails
            self._able = False
        else:
            self._until = until

    def trim(self, size: int) -> None:
        """Free the blocks behind the end of the file, to which we wrote `size` bytes."""
        if self._until > size:
            self._until = 0
            with contextlib.suppress(OSError):
                # The present end: another process may have emptied the file, or appended to it.
                os.ftruncate(self._fd, os.fstat(self._fd).st_size)
