# SPDX-License-Identifier: Apache-2.0
"""Memory that is there when it is wanted: on a virtual machine the first use of a page may have its host look for one.

A host that takes free memory back (free page reporting, a balloon) makes the first gigabyte that anybody writes ten
times as expensive as the second. Whose turn comes first would pay for all. So everybody finds as much memory that was
in use a moment ago.
"""

from __future__ import annotations

import contextlib
import mmap
import os

import numpy as np

__all__ = ["warm"]

_SHARE = 3  # at most this part of what is free


def warm(size: int) -> None:
    """Touch every page of `size` bytes (less where the machine has less), and give them back: they are next in line."""
    size = min(size, os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE // _SHARE)
    if size <= 0:
        return
    with contextlib.closing(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) as memory:
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(memory, dtype=np.uint8)[:: mmap.PAGESIZE] = 1
