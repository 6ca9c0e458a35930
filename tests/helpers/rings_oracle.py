# SPDX-License-Identifier: Apache-2.0
"""Three rings that must agree: ours, libxdp's own exported functions, and a plain model; each with memory of its own.

Every operation is done on all three; then all indices, cached ones included, and all entries are compared. The part of
the kernel (filling RX and COMPLETION rings, emptying TX and FILL rings) is played on all three as well.
"""

from __future__ import annotations

import ctypes as ct
import functools
import struct
from typing import Any

import numpy as np

from toolkit.abi.if_xdp import XDP_DESC, XDPDesc
from toolkit.abi.libxdp import XskRing
from toolkit.rings import CompletionQueue, FillQueue, RingMemory

__all__ = ["STANDS", "U32", "ConsumerTrio", "LibxdpRing", "ProducerTrio", "ring_memory"]

U32 = 0xFFFFFFFF
STANDS = ("plain", "atomic", "libxdp")  # what our ring stands on
_DESC, _ADDRESS = struct.Struct("=QII"), struct.Struct("=Q")


@functools.cache
def _libxdp() -> Any:
    """A handle of our own that keeps the GIL: a call takes a third of the time."""
    library = ct.PyDLL("libxdp.so.1")
    ring, u32, index = ct.POINTER(XskRing), ct.c_uint32, ct.POINTER(ct.c_uint32)
    for name, restype, argtypes in (
        ("xsk_cons_nb_avail", u32, (ring, u32)),
        ("xsk_ring_cons__peek", u32, (ring, u32, index)),
        ("xsk_ring_cons__cancel", None, (ring, u32)),
        ("xsk_ring_cons__release", None, (ring, u32)),
        ("xsk_ring_cons__rx_desc", ct.c_void_p, (ring, u32)),
        ("xsk_ring_cons__comp_addr", ct.c_void_p, (ring, u32)),
        ("xsk_prod_nb_free", u32, (ring, u32)),
        ("xsk_ring_prod__reserve", u32, (ring, u32, index)),
        ("xsk_ring_prod__submit", None, (ring, u32)),
        ("xsk_ring_prod__tx_desc", ct.c_void_p, (ring, u32)),
        ("xsk_ring_prod__fill_addr", ct.c_void_p, (ring, u32)),
        ("xsk_ring_prod__needs_wakeup", ct.c_int, (ring,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = restype, argtypes
    return library


class LibxdpRing:
    """A ring as libxdp leaves it after creating a socket, over memory of its own instead of the kernel's."""

    def __init__(self, size: int, entry_bytes: int, start: int, *, produces: bool) -> None:
        self.entry_bytes = entry_bytes
        self.words = (ct.c_uint32 * 48)()  # producer, consumer, flags: a cache line each
        self._entries = (ct.c_uint64 * (size * entry_bytes // 8))()
        self.words[0] = self.words[16] = start
        base = ct.addressof(self.words)
        self.struct = XskRing(
            start,
            start + size if produces else start,
            size - 1,
            size,
            base,
            base + 64,
            ct.addressof(self._entries),
            base + 128,
        )
        self.entries = memoryview(self._entries).cast("B")
        self._reference = ct.byref(self.struct)
        self._index = ct.c_uint32()
        self._call = _libxdp()
        names = (
            "xsk_ring_prod__tx_desc",
            "xsk_ring_prod__fill_addr",
            "xsk_ring_cons__rx_desc",
            "xsk_ring_cons__comp_addr",
        )
        self._slot = getattr(self._call, names[2 * (not produces) + (entry_bytes == 8)])

    def peek(self, limit: int) -> tuple[int, int]:
        self._index.value = self.struct.cached_cons  # libxdp leaves it alone where nothing waits
        n = self._call.xsk_ring_cons__peek(self._reference, limit, ct.byref(self._index))
        return n, self._index.value

    def reserve(self, n: int) -> tuple[int, int]:
        self._index.value = 0
        n = self._call.xsk_ring_prod__reserve(self._reference, n, ct.byref(self._index))
        return n, self._index.value

    def __getattr__(self, name: str) -> Any:
        """The other functions, by the last part of their names: release, cancel, submit, needs_wakeup, nb_avail..."""
        for prefix in ("xsk_ring_cons__", "xsk_ring_prod__", "xsk_cons_", "xsk_prod_"):
            function = getattr(self._call, prefix + name, None)
            if function is not None:
                bound = self.__dict__[name] = functools.partial(function, self._reference)
                return bound
        raise AttributeError(name)

    def read(self, index: int) -> bytes:
        return ct.string_at(self._slot(self._reference, index), self.entry_bytes)

    def write(self, index: int, entry: bytes) -> None:
        ct.memmove(self._slot(self._reference, index), entry, self.entry_bytes)


def ring_memory(stand: str, size: int, entry_bytes: int, start: int, *, produces: bool) -> tuple[RingMemory, Any]:
    """Memory for our ring, and what must be kept alive beside it."""
    if stand == "libxdp":
        under = LibxdpRing(size, entry_bytes, start, produces=produces)
        return RingMemory.from_libxdp(under.struct, entry_bytes), under
    return RingMemory.plain(size, entry_bytes, start=start, atomic=stand == "atomic"), None


class _Trio:
    """What both sides share. The model counts from `start` upwards without ever wrapping."""

    produces: bool

    def __init__(self, kind: Any, size: int, start: int, stand: str) -> None:
        self.entry_bytes = 8 if kind in (FillQueue, CompletionQueue) else 16
        self.memory, self._kept = ring_memory(stand, size, self.entry_bytes, start, produces=self.produces)
        self.ours = kind(self.memory)
        self.theirs = LibxdpRing(size, self.entry_bytes, start, produces=self.produces)
        self.size = size
        self.slots = [bytes(self.entry_bytes)] * size  # the model's ring
        self.produced = self.consumed = start  # the model's shared indices
        self.cached_producer = start  # and its cached ones
        self.cached_consumer = start + size if self.produces else start
        self._entries_changed = True

    def pack(self, entry: Any) -> bytes:
        return _ADDRESS.pack(entry) if self.entry_bytes == 8 else _DESC.pack(*entry)

    def unpack(self, entry: bytes) -> Any:
        return _ADDRESS.unpack(entry)[0] if self.entry_bytes == 8 else XDPDesc(*_DESC.unpack(entry))

    def array(self, entries: list[bytes]) -> Any:
        """Entries as our batch forms take and give them."""
        return np.frombuffer(b"".join(entries), dtype=np.uint64 if self.entry_bytes == 8 else XDP_DESC)

    def check(self) -> None:
        """Every index and every entry is the same in all three."""
        ours, memory, theirs = self.ours, self.memory, self.theirs
        struct_, words = theirs.struct, theirs.words
        mine = (memory.producer[0], memory.consumer[0], ours._cached_producer, ours._cached_consumer)
        assert mine == (words[0], words[16], struct_.cached_prod, struct_.cached_cons), "ours and libxdp's"
        model = (
            self.produced & U32,
            self.consumed & U32,
            self.cached_producer & U32,
            self.cached_consumer & U32,
        )
        assert mine == model, "ours and the model"
        if self._entries_changed:
            entries = memory.bytes.tobytes()
            assert entries == theirs.entries.tobytes(), "entries: ours and libxdp's"
            assert entries == b"".join(self.slots), "entries: ours and the model"
            self._entries_changed = False

    def _store_in_all(self, which: str, value: int) -> None:
        """The kernel publishes an index."""
        getattr(self.memory, which)[0] = value & U32
        self.theirs.words[0 if which == "producer" else 16] = value & U32


class ConsumerTrio(_Trio):
    """RX or COMPLETION: the kernel produces, we consume."""

    produces = False

    @property
    def unreleased(self) -> int:
        return self.cached_consumer - self.consumed

    def kernel_produces(self, entries: list[bytes]) -> None:
        """As many of `entries` as there is room for."""
        width = self.entry_bytes
        for entry in entries[: self.size - (self.produced - self.consumed)]:
            at = self.produced % self.size
            self.slots[at] = entry
            self.memory.bytes[at * width : (at + 1) * width] = entry
            self.theirs.entries[at * width : (at + 1) * width] = entry
            self.produced += 1
            self._entries_changed = True
        self._store_in_all("producer", self.produced)

    def _known(self) -> int:
        if self.cached_producer == self.cached_consumer:
            self.cached_producer = self.produced
        return self.cached_producer - self.cached_consumer

    def available(self) -> None:
        expected = self._known()
        assert self.ours.available() == expected == self.theirs.nb_avail(U32)

    def peek(self, limit: int | None) -> None:
        known = self._known()
        n = known if limit is None else min(known, limit)
        expected = (n, self.cached_consumer & U32)
        self.cached_consumer += n
        assert self.ours.next_index == expected[1]
        assert self.ours.peek(limit) == expected
        assert self.theirs.peek(U32 if limit is None else limit) == expected
        self.read_peeked(n)

    def read_peeked(self, n: int) -> None:
        """The last `n` peeked entries, one by one and in a batch."""
        first = self.cached_consumer - n
        expected = [self.slots[(first + i) % self.size] for i in range(n)]
        for i, entry in enumerate(expected):
            index = (first + i) & U32
            assert self.pack(self.ours.get(index)) == entry == self.theirs.read(index)
        if n:
            batch = self.ours.get_batch(first & U32, n)
            assert len(batch) == n
            assert batch.tobytes() == b"".join(expected)

    def release(self, n: int) -> None:
        self.consumed += n
        self.ours.release(n)
        self.theirs.release(n)
        assert self.ours.unreleased == self.unreleased

    def cancel(self, n: int) -> None:
        self.cached_consumer -= n
        self.ours.cancel(n)
        self.theirs.cancel(n)

    def take(self, limit: int | None) -> None:
        """Ours at once; libxdp's as its users do it: peek until there is enough or nothing more, then release."""
        wanted = self.size if limit is None else limit
        got, first = self.theirs.peek(wanted)
        if got < wanted:
            got += self.theirs.peek(wanted - got)[0]
        expected = [self.slots[(first + i) % self.size] for i in range(got)]
        known = self.cached_producer - self.cached_consumer
        if known < wanted or known == 0:
            self.cached_producer = self.produced
        assert got == min(self.cached_producer - self.cached_consumer, wanted)
        self.cached_consumer += got
        self.consumed += got
        self.theirs.release(got)
        taken = self.ours.take(limit)
        assert taken.shape == ((got,) if self.entry_bytes == 8 else (got, 2))
        assert taken.tobytes() == b"".join(expected)


class ProducerTrio(_Trio):
    """TX or FILL: we produce, the kernel consumes."""

    produces = True

    @property
    def unpublished(self) -> int:
        return self.cached_producer - self.produced

    def kernel_consumes(self, n: int) -> None:
        """As many of `n` entries as were published."""
        self.consumed += min(n, self.produced - self.consumed)
        self._store_in_all("consumer", self.consumed)
        assert self.ours.outstanding == self.produced - self.consumed

    def kernel_asks(self, wakeup: bool) -> None:
        """The kernel sets or clears NEED_WAKEUP."""
        self.memory.flags[0] = self.theirs.words[32] = int(wakeup)
        assert self.ours.needs_wakeup is bool(self.theirs.needs_wakeup()) is wakeup

    def free(self, wanted: int) -> int:
        free = self.cached_consumer - self.cached_producer
        if free < wanted:
            self.cached_consumer = self.consumed + self.size
            free = self.cached_consumer - self.cached_producer
        assert self.ours.free(wanted) == free == self.theirs.nb_free(wanted)
        return free

    def reserve(self, entries: list[bytes], *, batch: bool) -> None:
        """Reserve for all entries or for none, and write them: one by one, or in a batch."""
        n = len(entries)
        free = self.cached_consumer - self.cached_producer
        if free < n:
            self.cached_consumer = self.consumed + self.size
            free = self.cached_consumer - self.cached_producer
        expected = (n, self.cached_producer & U32) if n <= free else (0, 0)
        if n == 0:  # libxdp does not distinguish reserving nothing from getting nothing
            self.theirs.nb_free(0)
        else:
            assert self.theirs.reserve(n) == expected
        assert self.ours.reserve(n) == expected
        if n <= free:
            self._write(self.cached_producer, entries, batch=batch)
            self.cached_producer += n

    def _write(self, first: int, entries: list[bytes], *, batch: bool) -> None:
        self._model_writes(first, entries)
        if batch and entries:
            self.ours.set_batch(first & U32, self.array(entries))
            return
        for i, entry in enumerate(entries):
            index = (first + i) & U32
            self.ours.set(index, self.unpack(entry))
            assert self.pack(self.ours.get(index)) == entry == self.theirs.read(index)

    def _model_writes(self, first: int, entries: list[bytes]) -> None:
        for i, entry in enumerate(entries):
            self.slots[(first + i) % self.size] = entry
            self.theirs.write((first + i) & U32, entry)
        self._entries_changed = True

    def submit(self, n: int) -> None:
        self.produced += n
        self.ours.submit(n)
        self.theirs.submit(n)
        assert self.ours.unpublished == self.unpublished

    def notify(self) -> None:
        self.theirs.submit(self.unpublished)
        self.produced = self.cached_producer
        self.ours.notify()

    def unreserve(self, n: int) -> None:
        self.cached_producer -= n
        self.ours.unreserve(n)
        self.theirs.struct.cached_prod = self.cached_producer & U32  # libxdp has no such call

    def put(self, entries: list[bytes]) -> None:
        """Only while nothing is reserved: put() refuses else."""
        n = min(self.theirs.nb_free(len(entries)), len(entries))
        free = self.cached_consumer - self.cached_producer
        if free < len(entries):
            self.cached_consumer = self.consumed + self.size
        if n:
            self.theirs.reserve(n)
            self._model_writes(self.cached_producer, entries[:n])
            self.theirs.submit(n)
            self.cached_producer += n
            self.produced = self.cached_producer
        assert self.ours.put(self.array(entries)) == n
