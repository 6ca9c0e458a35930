# SPDX-License-Identifier: Apache-2.0
"""Memory for what waits to be written: one ring of bytes, used in the order in which the Writer lets go of it."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

from toolkit.capture.direct import BLOCK
from toolkit.capture.layout import Bytes
from toolkit.capture.writer import Writer

__all__ = ["Waiting"]


class Waiting:
    """Pieces of one mapping. Taken anew from the system for each batch, memory costs more than what is put into it."""

    def __init__(self, writer: Writer, size: int) -> None:
        """size: bytes, the limit of the Writer as well. They are touched, and cost, only as far as they are used."""
        self._writer = writer
        # Page by page, as a disk wants it that fetches by itself.
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them; one by one, small pages cost seven times as much
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._memory = np.frombuffer(memory, dtype=np.uint8)
        self._at = 0  # where the last piece ended
        self._before = (0, 0)  # what the Writer had been offered, and _at, before the last piece
        self.reserved = 0  # bytes of the last piece, with what was left out before it: what it occupies

    def reserve(self, size: int, position: int) -> Bytes | None:
        """Return memory for `size` bytes, None when there is no room. The caller puts it to the Writer.

        position: where in the file they go. They lie in memory as they lie there, by blocks: a disk can fetch them.
        """
        total = self._memory.size
        if self._writer.offered == self._before[0]:
            self._at = self._before[1]  # the last piece was never put (an interrupt): else its bytes count for nobody
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
