# SPDX-License-Identifier: Apache-2.0
"""Memory that stays with this process when it forks."""

from __future__ import annotations

import contextlib
import ctypes
import mmap

from toolkit import lifecycle
from toolkit.abi import libc

__all__ = ["Mapping"]


class Mapping(mmap.mmap):
    """Memory that a forked child does not inherit; it finds zeros in its place.

    Tracked by itself: it lives as long as any view of it, which may be longer than the UMEM.
    """

    address = 0  # of the first byte; written by keep_from_children() only

    def keep_from_children(self) -> None:
        """Take the memory out of what a fork copies, and have the child fill the hole."""
        libc.libc()  # found before any fork: its child takes no lock
        self.address = self._first_byte()
        self.madvise(mmap.MADV_DONTFORK)
        lifecycle.track(self)

    def _first_byte(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self))

    def _after_fork_in_child(self) -> None:
        if not self.closed:
            # A view of a packet that the child still has must not point into a hole.
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | libc.MAP_FIXED_NOREPLACE
            with contextlib.suppress(OSError):
                libc.mmap(self.address, len(self), mmap.PROT_READ | mmap.PROT_WRITE, flags)
