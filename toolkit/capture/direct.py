# SPDX-License-Identifier: Apache-2.0
"""Past the page cache, where that is quicker: the disk fetches whole blocks from our memory itself (O_DIRECT).

At high rates the page cache can cost more than everything else: each page is taken from the system, filled by copying
and written back. A slow disk wants it all the same, because it takes in a burst. So both are tried, and timed.
"""

from __future__ import annotations

import contextlib
import os
import time

from toolkit.capture.layout import Bytes

__all__ = ["BLOCK", "LEAST", "Direct"]

BLOCK = 4096  # bytes: what no disk finds too small; the page size, so that no page is written both ways
LEAST = 1 << 20  # bytes below which the page cache is taken: they mean that there is no hurry
_TRY_AGAIN = 64  # pieces after which the slower way is tried once more: at first, then more and more rarely
_RAREST = 4096
_WEIGHT = 0.3  # of the last piece in a way's average


class Direct:
    """Whole blocks of one file, by the way that takes less time."""

    def __init__(self, fd: int) -> None:
        """fd: the file, open for writing."""
        self._fd = fd
        self._direct: int | None = None  # the same file, opened for the other way; -1: it cannot
        self._cost: list[float] = [0.0, 0.0]  # s a byte: through the page cache, past it; 0: not known
        self._past = False  # which way was the faster one
        self._pause, self._left = _TRY_AGAIN, _TRY_AGAIN  # pieces from one try to the next, and to go

    def write(self, data: Bytes, position: int) -> int:
        """Write whole blocks from memory that begins with a block to `position`, a multiple of BLOCK; bytes written.

        OSError as the kernel gives it.
        """
        past = self._choose()
        began = time.perf_counter()
        try:
            written = os.pwrite(self._direct if past and self._direct is not None else self._fd, data, position)
        except OSError:
            if not past:
                raise
            # A file system that says so only now, or has no room: the other way tells.
            self._close(-1)
            return os.pwrite(self._fd, data, position)
        cost = (time.perf_counter() - began) / max(written, 1)
        known = self._cost[past]
        self._cost[past] = cost if not known else known + _WEIGHT * (cost - known)
        return written

    def close(self) -> None:
        """Let go of the second descriptor. Repeatable."""
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
        faster = past < cached or not past
        if not cached:
            return not faster
        if faster != self._past:  # another one than before
            self._past, self._pause, self._left = faster, _TRY_AGAIN, _TRY_AGAIN
        self._left -= 1
        if self._left > 0:
            return faster
        # A try can take ten times as long as what it is tried against.
        self._pause = self._left = min(2 * self._pause, _RAREST)
        return not faster
