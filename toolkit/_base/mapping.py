# SPDX-License-Identifier: Apache-2.0
"""Mappings that a forked child does not inherit: of anonymous memory (Mapping), and of files (map_file)."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import weakref

from toolkit._base import fork
from toolkit.abi import libc

__all__ = ["Mapping", "map_file"]


def _fill_hole(address: int, length: int) -> None:
    """Map zeros, in a forked child, so that views of packets that it still has do not crash it."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | libc.MAP_FIXED_NOREPLACE
    with contextlib.suppress(OSError):
        libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags)


class _Window:
    """Memory of a file that map_file() mapped, until its last view is gone."""

    def __init__(self, address: int, length: int) -> None:
        self._address, self._length = address, length
        fork.track(self)

    def close(self) -> None:
        libc.munmap(self._address, self._length)

    def _after_fork_in_child(self) -> None:
        _fill_hole(self._address, self._length)


def map_file(fd: int, length: int, *, offset: int = 0, writable: bool = True) -> memoryview:
    """Map `length` shared bytes of a file or a kernel object, from `offset` on: a memoryview of format "B".

    They are unmapped with the last view of them. A forked child reads zeros instead, and keeps nothing open;
    mmap.mmap() would keep a duplicate of the descriptor, which the child would inherit. OSError from the kernel.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address = libc.mmap(0, length, protection, mmap.MAP_SHARED, fd, offset)
    block = (ctypes.c_char * length).from_address(address)
    window = _Window(address, length)
    # Not at exit: another thread may still use it then.
    weakref.finalize(block, window.close).atexit = False
    libc.madvise(address, length, mmap.MADV_DONTFORK)
    view = memoryview(block).cast("B")
    return view if writable else view.toreadonly()


class Mapping(mmap.mmap):
    """Memory that a forked child does not inherit; the child reads zeros instead.

    It lives as long as any view of it, perhaps longer than the UMEM, and is tracked by itself for that reason.
    """

    address = 0  # of the first byte; written by keep_from_children() only

    def keep_from_children(self) -> None:
        """Exclude the memory from forks, and have the child map zeros there."""
        libc.libc()  # loaded before any fork, because loading takes a lock
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self))
        self.madvise(mmap.MADV_DONTFORK)
        fork.track(self)

    def _after_fork_in_child(self) -> None:
        if not self.closed:
            _fill_hole(self.address, len(self))
