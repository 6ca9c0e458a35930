# SPDX-License-Identifier: Apache-2.0
"""What happens at fork: in the child every open object is dead and its descriptors are closed; the parent is
unaffected.

A forked child inherits the file descriptors of sockets, maps and links, and mappings of rings. Two processes on one
ring would corrupt it, and a descriptor in the child would keep a program attached after its owner ended. So every
object with such a descriptor or mapping is tracked here, and the child closes its copies before it runs anything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from typing import NoReturn, Protocol, TypeVar

from toolkit.abi import libc

__all__ = ["Mapping", "NotCopied", "map_file", "track", "tracked"]


F = TypeVar("F")


class Forkable(Protocol):
    """An object that owns something that a forked child must not use."""

    def _after_fork_in_child(self) -> None:
        """Close this process's copies of file descriptors and mark the object dead. Must not raise or lock."""


class NotCopied:
    """Base of classes that own a descriptor or a mapping: they cannot be copied or pickled.

    A copy would close the descriptor of the original, and in another process the number has no meaning.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: it stands for something of this process in the "
            "kernel. Next step: make another one where it is needed."
        )


# Written by track() and by garbage collection; read in a new child, which has one thread.
_live: weakref.WeakSet[Forkable] = weakref.WeakSet()
_hooked = False


def track(owner: Forkable) -> None:
    """Call `owner._after_fork_in_child()` in every forked child of this process."""
    global _hooked
    if not _hooked:
        os.register_at_fork(after_in_child=_drop_all)
        _hooked = True
    _live.add(owner)


def tracked(kind: type[F]) -> list[F]:
    """Return the objects of a kind that this process owns, as far as somebody still holds them."""
    return [one for one in list(_live) if isinstance(one, kind)]


def _drop_all() -> None:
    # Sockets first: the parent cannot bind a queue again while the child still maps its rings.
    for owner in sorted(_live, key=lambda one: getattr(one, "_fork_order", 1)):
        owner._after_fork_in_child()
    _live.clear()


def _fill_hole(address: int, length: int) -> None:
    """Map zeros, in a forked child, so that views of packets that it still has do not crash it."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | libc.MAP_FIXED_NOREPLACE
    with contextlib.suppress(OSError):
        libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags)


class _Window:
    """Memory of a file that map_file() mapped, until its last view is gone."""

    def __init__(self, address: int, length: int) -> None:
        self._address, self._length = address, length
        track(self)

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
        track(self)

    def _after_fork_in_child(self) -> None:
        if not self.closed:
            _fill_hole(self.address, len(self))
