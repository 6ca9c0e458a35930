# SPDX-License-Identifier: Apache-2.0
"""RingMemory: where a ring's shared indices and entries lie, and when they may be unmapped.

A ring is a producer index, a consumer index, a flags word (u32 each) and a power-of-two number of entries of 8 or 16
bytes. They come from libxdp's ring struct, from a socket's own mmap offsets, or from plain memory.

Nothing outside the rings package holds a view of this memory. `close()` releases every view; it waits for a view that
another thread is using. After that each access raises, and the memory can be unmapped. This needs no lock on the hot
path; it relies on the GIL.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from typing import Protocol

import numpy as np
import numpy.typing as npt

from toolkit._base import closing, fork
from toolkit._base.arguments import cannot_be
from toolkit._base.fork import map_file
from toolkit.abi.if_xdp import RingOffsets
from toolkit.abi.libxdp import XskRing
from toolkit.errors import ArgumentError, ClosedError, ToolkitError
from toolkit.rings.atomics import AtomicIndex, SharedIndex, shared_index

__all__ = ["U32", "RingMemory"]

U32 = 0xFFFFFFFF  # indices run free and wrap after this
ADDRESS_BYTES = 8  # an entry of a fill or completion ring
DESC_BYTES = 16  # an entry of an RX or TX ring


class _Release(Protocol):
    """What close() releases."""

    def release(self) -> None:
        """Let go of ring memory; BufferError while another thread is using it."""


class _Arrays:
    """Whether an array over a ring's entries is in use: `base`, or a slice of it, which keeps `base` alive.

    The memoryview below cannot tell: NumPy takes one of its own from the same memory, so it can always be released.
    """

    def __init__(self, base: npt.NDArray[np.uint64]) -> None:
        self._base = weakref.ref(base)

    def release(self) -> None:
        if self._base() is not None:
            raise BufferError("an array over the ring is in use")


class RingMemory(fork.NotCopied):
    """The memory of one ring. Not thread-safe, but close() waits for a thread that is inside a ring call.

    size: entries, a power of two. entry_bytes: 8 (addresses) or 16 (descriptors).
    """

    def __init__(
        self,
        producer: memoryview,
        consumer: memoryview,
        flags: memoryview,
        ring: memoryview,
        entry_bytes: int,
        *,
        atomic: bool | None = None,
    ) -> None:
        """Use four views of format "B". atomic: True forces libatomic; None uses it where the machine needs it."""
        if entry_bytes not in (ADDRESS_BYTES, DESC_BYTES):
            raise cannot_be("entry_bytes", entry_bytes, f"{ADDRESS_BYTES} (addresses) or {DESC_BYTES} (descriptors)")
        size = len(ring) // entry_bytes
        if size < 1 or size & (size - 1) or size > 1 << 31:
            raise cannot_be("the number of entries of a ring", size, "a power of two, such as 2048")
        self.size: int = size  # immutable; a power of 2
        self.entry_bytes: int = entry_bytes  # immutable
        index = AtomicIndex if atomic else shared_index
        # The producer index: the kernel writes it on RX and COMPLETION rings, we on TX and FILL rings.
        self.producer: SharedIndex = index(producer)
        # The consumer index: we write it on RX and COMPLETION rings, the kernel on TX and FILL rings.
        self.consumer: SharedIndex = index(consumer)
        # Bit 0 is XDP_RING_NEED_WAKEUP. Only the kernel writes it.
        self.flags: SharedIndex = index(flags)
        # The entries as bytes, for one descriptor at a time.
        self.bytes: memoryview = ring
        # The same as u64: shape (size,) for addresses, (size, 2) for descriptors; None once closed. close() waits for
        # every reference to it, so a ring holds one only during a call.
        words = np.frombuffer(ring, dtype=np.uint64)
        self.entries: npt.NDArray[np.uint64] | None = words.reshape(-1, 2) if entry_bytes == DESC_BYTES else words
        # What close() releases, in this order.
        self._views: list[_Release] = [_Arrays(words), self.producer, self.consumer, self.flags, ring]
        self._views += [producer, consumer, flags]

    @classmethod
    def from_libxdp(cls, ring: XskRing, entry_bytes: int, *, atomic: bool | None = None) -> RingMemory:
        """Use a ring that libxdp mapped. Close this before libxdp unmaps it."""

        def view(address: int | None, count: int) -> memoryview:
            if not address:
                raise ArgumentError(
                    "libxdp has not filled in this ring struct. Next step: create the socket or the UMEM with it first."
                )
            return memoryview((ctypes.c_char * count).from_address(address)).cast("B")

        return cls(
            view(ring.producer, 4),
            view(ring.consumer, 4),
            view(ring.flags, 4),
            view(ring.ring, ring.size * entry_bytes),
            entry_bytes,
            atomic=atomic,
        )

    @classmethod
    def from_offsets(
        cls, fd: int, pgoff: int, offsets: RingOffsets, size: int, entry_bytes: int, *, atomic: bool | None = None
    ) -> RingMemory:
        """Map a ring of the AF_XDP socket `fd`, which lies at its XDP_MMAP_OFFSETS.

        pgoff: XDP_PGOFF_RX_RING and so on. Kernels before about 6.4 map rings only before bind().
        """
        whole = map_file(fd, offsets.desc + size * entry_bytes, offset=pgoff)
        memory = cls(
            whole[offsets.producer : offsets.producer + 4],
            whole[offsets.consumer : offsets.consumer + 4],
            whole[offsets.flags : offsets.flags + 4],
            whole[offsets.desc :],
            entry_bytes,
            atomic=atomic,
        )
        memory._views.append(whole)
        return memory

    @classmethod
    def plain(cls, size: int, entry_bytes: int, *, start: int = 0, atomic: bool | None = None) -> RingMemory:
        """Make a ring of ordinary memory, with both indices at `start`: for tests, without privilege."""
        words = bytearray(64 * 3 + size * entry_bytes)
        # Each index has a cache line of its own, as in the kernel's struct xdp_ring.
        whole = memoryview(words)
        memory = cls(whole[0:4], whole[64:68], whole[128:132], whole[192:], entry_bytes, atomic=atomic)
        memory.producer[0] = memory.consumer[0] = start & 0xFFFFFFFF
        return memory

    def __repr__(self) -> str:
        """Show its shape, and how far both sides are."""
        if self.closed:
            return f"<RingMemory of {self.size} entries, closed>"
        return f"<RingMemory of {self.size} entries: produced {self.producer[0]}, consumed {self.consumer[0]}>"

    def read(self, index: int, n: int) -> npt.NDArray[np.uint64]:
        """Copy `n` entries from the free-running `index` on: shape (n,) or (n, 2), u64."""
        entries = self.entries
        if entries is None:
            raise self.closed_error()
        try:
            start = index & (self.size - 1)
            if n >= 0 and start + n <= self.size:
                return entries[start : start + n].copy()
            if not 0 <= n <= self.size:
                raise cannot_be("n", n, f"a number from 0 to {self.size}, the entries of this ring")
            return np.concatenate((entries[start:], entries[: start + n - self.size]))
        finally:
            entries = None  # a traceback keeps this frame alive, and with it a reference that close() waits for

    def write(self, index: int, values: npt.NDArray[np.uint64]) -> None:
        """Write entries (shape (n,) or (n, 2), u64) from the free-running `index` on."""
        entries = self.entries
        if entries is None:
            raise self.closed_error()
        try:
            start, n = index & (self.size - 1), len(values)
            first = self.size - start
            if n <= first:
                entries[start : start + n] = values
            elif n <= self.size:
                entries[start:] = values[:first]
                entries[: n - first] = values[first:]
            else:
                raise cannot_be("n", n, f"a number from 0 to {self.size}, the entries of this ring")
        finally:
            entries = None  # as in read()

    def write_raw(self, index: int, entries: bytes) -> None:
        """Do write() with entries given as bytes, without NumPy's fixed costs."""
        at = (index & (self.size - 1)) * self.entry_bytes
        end, most = at + len(entries), self.size * self.entry_bytes
        try:
            if end <= most:
                self.bytes[at:end] = entries
            else:
                self.bytes[at:] = entries[: most - at]
                self.bytes[: end - most] = entries[most - at :]
        except ValueError:
            if not self.closed:
                raise
            raise self.closed_error() from None

    def load(self, index: SharedIndex) -> int:
        """Read one of this ring's shared words (u32). ClosedError once the ring is closed."""
        try:
            return index[0]
        except ValueError:
            raise self.closed_error() from None

    def store(self, index: SharedIndex, value: int) -> None:
        """Write one of this ring's shared words (u32). ClosedError once the ring is closed."""
        try:
            index[0] = value & U32
        except ValueError:
            raise self.closed_error() from None

    @property
    def closed(self) -> bool:
        """Whether close() has begun."""
        return self.entries is None

    def close(self) -> None:
        """Release every view. Waits up to 5 s for threads inside the ring, then ToolkitError. Repeatable."""
        self.entries = None
        for view in self._views:
            self._release(view)

    def abandon(self) -> bool:
        """Release what can be released without waiting, for a forked child. False when a view is still in use."""
        self.entries = None
        whole = True
        for view in self._views:
            try:
                view.release()
            except BufferError:
                whole = False
        return whole

    def _release(self, view: _Release) -> None:
        deadline = time.monotonic() + closing.CLOSE_TIMEOUT
        while True:
            try:
                view.release()
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise ToolkitError(closing.stuck("a ring")) from None
                time.sleep(0.0005)

    def closed_error(self) -> ClosedError:
        """Build the error for a call on a closed ring."""
        return ClosedError(
            "this ring is closed: its Socket was closed, or it belongs to the parent of a fork. Next step: open the "
            "Socket again, and use the rings of that one."
        )
