# SPDX-License-Identifier: Apache-2.0
"""Warm memory: on a virtual machine the first use of a page may make the host find one, which takes long.

With a host that takes free memory back (free page reporting, a balloon), the first gigabyte that is written costs ten
times as much as the second, which the first program of a pair would pay. So before each run the same amount of memory
is used and freed.
"""

from __future__ import annotations

import contextlib
import mmap
import os

import numpy as np

__all__ = ["warm"]

_SHARE = 3  # at most a third of the free memory


def warm(size: int) -> None:
    """Touch every page of `size` bytes (fewer if the machine has less), and free them: they are used next."""
    size = min(size, os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE // _SHARE)
    if size <= 0:
        return
    with contextlib.closing(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) as memory:
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(memory, dtype=np.uint8)[:: mmap.PAGESIZE] = 1
