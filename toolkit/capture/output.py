# SPDX-License-Identifier: Apache-2.0
"""Output: what a capture is written to: a file, a pipe, standard output."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from toolkit._base.access import Access
from toolkit._base.careful import Allowed, Folder, own_descriptor
from toolkit.capture.direct import BLOCK, LEAST, Direct
from toolkit.capture.pack import Bytes
from toolkit.errors import write_error

__all__ = ["Output", "address", "check_target", "joined"]

_BUFFERS = 512  # buffers of one writev(): half of the kernel's limit
_AT_ONCE = 1 << 20  # bytes written to a pipe at a time, so that progress shows with a slow reader


def check_target(path: Path, *, force: bool) -> None:
    """Raise what Output() would raise for an existing file or a read-only directory. Creates nothing."""
    if own_descriptor(str(path)) is None:
        with Folder.of(path) as folder:
            folder.check(path.name, force=force)


class Output:
    """One open file or pipe. Not buffered: the kernel has the data when write() returns. For the writing thread."""

    def __init__(
        self,
        path: Path | None,
        *,
        folder: Folder | None = None,
        access: Access | None = None,
        allowed: Allowed | None = None,
    ) -> None:
        """Create the file at `path`; None, /dev/stdout and the like are a descriptor that is open already.

        folder: the directory in which a file is created; None: that of `path`. access: who may read it.
        allowed: returns whether an existing file of that name is replaced; None: never.
        SystemCallError when that is refused.
        """
        self.name = "standard output" if path is None else str(path)
        self.size = 0  # bytes written
        self.removed = False  # whether the file had been removed when it was closed; written by close()
        self.left: os.stat_result | None = None  # the file as it was when it was closed
        self._folder: Folder | None = None  # of a file that we made: only such a file can be cut back and removed
        self.path = path
        given = 1 if path is None else own_descriptor(str(path))
        if path is None or given is not None:
            try:
                self._fd = os.dup(1 if given is None else given)
            except OSError as refused:
                raise write_error(refused, self.name) from None
        else:
            self._make(path, Folder.of(path) if folder is None else folder.copy(), access or Access(), allowed)
        self._direct = Direct(self._fd) if self._folder is not None else None

    def _make(self, path: Path, folder: Folder, access: Access, allowed: Allowed | None) -> None:
        try:
            stream = folder.stream(path.name)
            self._fd = folder.create(path.name, access, allowed=allowed) if stream is None else stream
        except BaseException:
            folder.close()
            raise
        if stream is None:
            self._folder = folder
        else:
            folder.close()

    def write(self, data: Sequence[bytes | Bytes]) -> None:
        """Write all of `data`. OSError from the kernel; `size` then has the bytes that were written."""
        pieces = joined(data) if self._direct is not None else data
        small: list[memoryview] = []
        for piece in pieces:
            if self._direct is not None and isinstance(piece, np.ndarray) and len(piece) >= LEAST:
                self._write(small)
                small = []
                piece = self._write_blocks(self._direct, piece)
            small.append(memoryview(piece).cast("B"))
            if len(small) == _BUFFERS:
                self._write(small)
                small = []
        self._write(small)

    def _write_blocks(self, direct: Direct, data: Bytes) -> Bytes:
        """Write the whole blocks of a large piece, and the bytes before them; return the bytes behind them."""
        head = -self.size % BLOCK
        if address(data[head:]) % BLOCK:
            return data  # its offset in a block is not that of the file
        self._write([memoryview(data[:head])])
        data = data[head:]
        while len(data) >= BLOCK:
            whole = len(data) // BLOCK * BLOCK
            written = direct.write(data[:whole], self.size)
            self.size += written
            data = data[written:]
            if written % BLOCK:
                break
        return data

    def _write(self, views: list[memoryview]) -> None:
        views = [view for view in views if len(view)]
        while views:
            written = os.pwritev(self._fd, views, self.size) if self._folder else self._write_some(views)
            self.size += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def _write_some(self, views: list[memoryview]) -> int:
        """Write to a pipe, at most _AT_ONCE bytes; wait if the pipe is not blocking."""
        try:
            if len(views[0]) >= _AT_ONCE:
                return os.write(self._fd, views[0][:_AT_ONCE])
            ends = accumulate(len(view) for view in views)
            return os.writev(self._fd, views[: sum(end <= _AT_ONCE for end in ends)])
        except BlockingIOError:  # another process that shares the pipe has set O_NONBLOCK
            waiting = select.poll()
            waiting.register(self._fd, select.POLLOUT)
            waiting.poll(1000)
            return 0

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._fd < 0

    def discard(self) -> None:
        """Close it and, if it is a file, remove it: without its beginning no reader can use it."""
        if self._folder is not None and self.path is not None and not self.closed:
            with contextlib.suppress(OSError):
                self._folder.remove(self.path.name, self._fd)
        self.size = 0
        self.abandon()

    def cut(self, size: int) -> bool:
        """Cut the file back to `size` bytes. False when that is not possible."""
        if self._folder is None:
            return False
        try:
            os.ftruncate(self._fd, size)
        except OSError:
            return False
        self.size = size
        return True

    def tail(self, at: int, size: int) -> bytes:
        """Read `size` bytes back from position `at`."""
        return os.pread(self._fd, size, at)

    def close(self) -> None:
        """Close it. Repeatable. OSError when earlier data could not be written (network file systems)."""
        if self._direct is not None and not self.closed:
            self._direct.close(self.size)
            self.left = os.fstat(self._fd)
            self.removed = self.left.st_nlink == 0
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if self._folder is not None:
            self._folder.close()
        if fd >= 0:
            os.close(fd)

    def abandon(self) -> None:
        """Close it as it is, in a forked child: the parent goes on writing."""
        if self._direct is not None:
            self._direct.abandon()
        with contextlib.suppress(OSError):
            self._close()


def address(data: Bytes) -> int:
    """Return the memory address of an array."""
    where: int = data.__array_interface__["data"][0]
    return where


def joined(pieces: Sequence[bytes | Bytes]) -> list[bytes | Bytes]:
    """Join arrays that follow one another in the same memory."""
    found: list[bytes | Bytes] = []
    for piece in pieces:
        last = found[-1] if found else None
        if (
            isinstance(piece, np.ndarray)
            and isinstance(last, np.ndarray)
            and isinstance(piece.base, np.ndarray)
            and piece.base is last.base
            and address(last) + len(last) == address(piece)
        ):
            begin = address(last) - address(piece.base)
            found[-1] = piece.base[begin : begin + len(last) + len(piece)]
        else:
            found.append(piece)
    return found
