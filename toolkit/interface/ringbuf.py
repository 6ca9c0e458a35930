# SPDX-License-Identifier: Apache-2.0
"""RingBuffer: read a BPF ring buffer whose records all have one size: many at once, as the rows of one array.

The kernel maps the data twice, one behind the other, so that records that wrap around the end are contiguous too.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit._base import fork
from toolkit._base.fork import map_file
from toolkit.abi.shared_library import declare, load
from toolkit.errors import ArgumentError, ToolkitError, closed_error, explained
from toolkit.program import Map
from toolkit.rings.atomics import fence

__all__ = ["RECORD_HEADER", "RingBuffer", "Rows", "ring_bytes"]

# linux/bpf.h
_BPF_RINGBUF_BUSY_BIT = 1 << 31
_BPF_MAP_TYPE_RINGBUF = 27

RECORD_HEADER = 8  # bytes in front of a record: its length and two flags, then a page number
_ALIGNED = 8
_ACQUIRE, _RELEASE = 2, 3  # memory orders of GCC's __atomic builtins
_ORDERED = platform.machine() in ("x86_64", "AMD64")  # plain loads acquire, plain stores release


class Rows(NamedTuple):
    """Records in the ring, valid until they are released."""

    memory: npt.NDArray[np.uint8]  # the ring's data, twice: shape (2 * size,), read-only
    start: int  # offset of the first record's first byte in it
    stride: int  # bytes from one record to the next
    records: int
    end: int  # position in the ring behind the last record

    def fields(self, record: np.dtype[np.void]) -> npt.NDArray[np.void]:
        """Return a view of the first bytes of each record as dtype `record`: shape (records,)."""
        return np.ndarray((self.records,), record, self.memory, self.start, (self.stride,))


@functools.cache
def _libatomic() -> tuple[Callable[..., int], Callable[..., None]]:
    library = load("libatomic.so.1", "libatomic1", hold_gil=True)
    declare(library, "__atomic_load_8", ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_int))
    declare(library, "__atomic_store_8", None, (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int))
    return getattr(library, "__atomic_load_8"), getattr(library, "__atomic_store_8")


class _Position:
    """A u64 at the beginning of a page that is shared with the kernel."""

    def __init__(self, page: memoryview) -> None:
        self._words = np.frombuffer(page, np.uint64, 1)
        self._view = memoryview(self._words)
        self._address = self._words.ctypes.data

    def read(self) -> int:
        return self._view[0] if _ORDERED else _libatomic()[0](self._address, _ACQUIRE)

    def write(self, value: int) -> None:
        if _ORDERED:
            self._view[0] = value
        else:
            _libatomic()[1](self._address, value, _RELEASE)


def ring_bytes(records: int, record: int) -> int:
    """Return the bytes of a ring for `records` records of `record` bytes: a power of two, in whole pages."""
    stride = RECORD_HEADER + (record + _ALIGNED - 1 & -_ALIGNED)
    return max(1 << (records * stride - 1).bit_length(), mmap.PAGESIZE)


class RingBuffer(fork.NotCopied):
    """The reading end of a ring. Not thread-safe: one thread reads. Only release() frees room for the kernel."""

    def __init__(self, table: Map, record: int) -> None:
        """Map the ring buffer `table`, with records of `record` bytes. The map stays the caller's."""
        if table.type != _BPF_MAP_TYPE_RINGBUF:
            raise ArgumentError(
                f"the map {table.name} is no ring buffer: its type is {table.type}. Next step: declare it as "
                "BPF_RINGBUF_OUTPUT."
            )
        self._name = table.name
        self._record = record
        self._stride = RECORD_HEADER + (record + _ALIGNED - 1 & -_ALIGNED)
        self._size = table.max_entries  # bytes
        with explained(f"cannot map the ring buffer {table.name}"):
            ours = map_file(table.fd, mmap.PAGESIZE)
            theirs = map_file(table.fd, mmap.PAGESIZE + 2 * self._size, offset=mmap.PAGESIZE, writable=False)
        self._consumer: _Position | None = _Position(ours)
        self._producer: _Position | None = _Position(theirs)
        self._memory: npt.NDArray[np.uint8] | None = np.frombuffer(theirs, np.uint8)[mmap.PAGESIZE :]

    @property
    def records(self) -> int:
        """How many records there is room for."""
        return self._size // self._stride

    @property
    def size(self) -> int:
        """Bytes of the ring."""
        return self._size

    def take(self, limit: int | None = None) -> Rows:
        """Return the complete records, at most `limit`, the oldest first; the same ones again until release().

        ToolkitError when the ring has records of another size. ClosedError after close().
        """
        memory, producer, consumer = self._memory, self._producer, self._consumer
        if memory is None or producer is None or consumer is None:
            raise closed_error(f"the ring buffer {self._name} was closed")
        begin = consumer.read()
        start = (begin & self._size - 1) + RECORD_HEADER
        records = (producer.read() - begin) // self._stride
        records = records if limit is None else min(records, limit)
        if records <= 0:
            return Rows(memory, start, self._stride, 0, begin)
        heads = np.ndarray((records,), np.uint32, memory, start - RECORD_HEADER, (self._stride,)).copy()
        busy = heads & _BPF_RINGBUF_BUSY_BIT != 0
        if busy.any():  # another CPU is still writing it; the following ones wait, to keep the order
            records = int(busy.argmax())
        if not _ORDERED:
            fence()
        if (heads[:records] != self._record).any():
            raise ToolkitError(
                f"the ring buffer {self._name} holds records that are not of {self._record} bytes. Likely cause: "
                "another reader, or a program that writes others. Next step: open it again, with one reader."
            )
        return Rows(memory, start, self._stride, records, begin + records * self._stride)

    def release(self, rows: Rows) -> None:
        """Return the records of the last take() to the kernel. Repeatable, even after an interrupt."""
        consumer = self._consumer
        if consumer is not None:
            consumer.write(rows.end)

    def close(self) -> None:
        """Release the memory; it stays mapped while an array over it exists. Repeatable."""
        self._memory = self._consumer = self._producer = None
