# SPDX-License-Identifier: Apache-2.0
"""Memory for data that waits to be written: one ring of bytes, reused in the order in which the Writer writes."""

from __future__ import annotations

import contextlib
import errno
import mmap

import numpy as np

from toolkit.capture.direct import BLOCK
from toolkit.capture.pack import Bytes
from toolkit.capture.writer import Writer
from toolkit.errors import kernel_error

__all__ = ["Waiting", "memory_for"]


def memory_for(size: int) -> Bytes:
    """Map memory; only the part that is used costs anything. SystemCallError when that is refused."""
    try:
        # Whole pages, which O_DIRECT needs.
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as refused:
        number = getattr(refused, "errno", None) or errno.ENOMEM
        tried = f"cannot take {size} bytes of memory for what waits for the disk"
        raise kernel_error("write_memory", number, tried) from None
    with contextlib.suppress(OSError):  # a kernel without huge pages; small pages cost seven times as much
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)


class Waiting:
    """Pieces of one mapping: allocating memory for each batch costs more than filling it. For the receiving thread."""

    def __init__(self, writer: Writer, memory: Bytes) -> None:
        """Use `memory` from memory_for(), as large as the limit of the Writer."""
        self._writer = writer
        self._memory = memory
        self._at = 0  # where the last piece ended
        self._before = (0, 0)  # bytes offered to the Writer, and _at, before the last piece
        self.reserved = 0  # bytes that the last piece occupies, including a gap in front of it

    def reserve(self, size: int, position: int) -> Bytes | None:
        """Return memory for `size` bytes, None when there is no room. The caller passes it to the Writer.

        position: where in the file they go. In memory they have the same offset in a block as in the file, for
        O_DIRECT.
        """
        total = self._memory.size
        if self._writer.offered == self._before[0]:
            self._at = self._before[1]  # after an interrupt the last piece was never put: its bytes are reused
        if not self._writer.waiting:
            self._at = 0  # what was written last is in the cache still
        self._before = (self._writer.offered, self._at)
        skipped = (position - self._at) % BLOCK
        if self._at + skipped + size > total:
            skipped = total - self._at + position % BLOCK
        if size + BLOCK > total or not self._writer.room(skipped + size):
            return None
        begin = (self._at + skipped) % total
        self._at = begin + size
        self.reserved = skipped + size
        return self._memory[begin : begin + size]
