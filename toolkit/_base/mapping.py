# SPDX-License-Identifier: Apache-2.0
"""Memory that stays with this process when it forks."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import weakref

from toolkit._base import fork
from toolkit.abi import libc

__all__ = ["Mapping", "map_file"]


def _fill_hole(address: int, length: int) -> None:
    """In a forked child: a view of a packet that it still has must not point into a hole."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | libc.MAP_FIXED_NOREPLACE
    with contextlib.suppress(OSError):
        libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags)


class _Window:
    """Memory of a file that map_file() mapped, until nobody looks at it any more."""

    def __init__(self, address: int, length: int) -> None:
        self._address, self._length = address, length
        fork.track(self)

    def close(self) -> None:
        libc.munmap(self._address, self._length)

    def _after_fork_in_child(self) -> None:
        _fill_hole(self._address, self._length)


def map_file(fd: int, length: int, *, offset: int = 0, writable: bool = True) -> memoryview:
    """Share `length` bytes of a file or a kernel object, from `offset` on: a memoryview of format "B".

    They are unmapped when the last view of them goes. A forked child finds zeros in their place, and holds nothing:
    mmap.mmap() keeps a duplicate of the descriptor, which the child would inherit. OSError as the kernel gives it.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address = libc.mmap(0, length, protection, mmap.MAP_SHARED, fd, offset)
    block = (ctypes.c_char * length).from_address(address)
    window = _Window(address, length)
    # Not at exit: a thread may still be looking then.
    weakref.finalize(block, window.close).atexit = False
    libc.madvise(address, length, mmap.MADV_DONTFORK)
    view = memoryview(block).cast("B")
    return view if writable else view.toreadonly()


class Mapping(mmap.mmap):
    """Memory that a forked child does not inherit; it finds zeros in its place.

    Tracked by itself: it lives as long as any view of it, which may be longer than the UMEM.
    """

    address = 0  # of the first byte; written by keep_from_children() only

    def keep_from_children(self) -> None:
        """Take the memory out of what a fork copies, and have the child fill the hole."""
        libc.libc()  # found before any fork: its child takes no lock
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self))
        self.madvise(mmap.MADV_DONTFORK)
        fork.track(self)

    def _after_fork_in_child(self) -> None:
        if not self.closed:
            _fill_hole(self.address, len(self))
