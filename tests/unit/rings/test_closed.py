# SPDX-License-Identifier: Apache-2.0
"""What becomes of the rings when they are closed, whoever is inside."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.forks import in_child
from tests.helpers.rings_oracle import STANDS, U32, ring_memory
from toolkit.abi.if_xdp import XDPDesc
from toolkit.abi.libxdp import XskRing
from toolkit.errors import ClosedError, ToolkitError
from toolkit.rings import CompletionQueue, FillQueue, RingMemory, RXQueue, TXQueue
from toolkit.umem.umem import UMEM

KINDS: dict[Any, int] = {RXQueue: 16, CompletionQueue: 8, TXQueue: 16, FillQueue: 8}
ONE = np.ones(1, dtype=np.uint64)
DESCS = np.ones((1, 2), dtype=np.uint64)


CALLS: dict[Any, dict[str, Callable[[Any], object]]] = {
    RXQueue: {
        "peek": lambda r: r.peek(),
        "peek one": lambda r: r.peek(1),
        "available": lambda r: r.available(),
        "get": lambda r: r.get(0),
        "get_batch": lambda r: r.get_batch(0, 1),
        "get_batch none": lambda r: r.get_batch(0, 0),
        "release": lambda r: r.release(0),
        "cancel": lambda r: r.cancel(0),
        "take": lambda r: r.take(),
        "take 1": lambda r: r.take(1),
        "receive": lambda r: r.receive(),
        "unreleased": lambda r: r.unreleased,
        "resync": lambda r: r.resync(),
    },
    TXQueue: {
        "reserve": lambda r: r.reserve(1),
        "reserve none": lambda r: r.reserve(0),
        "reserve umem": lambda r: r.reserve(1, UMEM(4, 4096)),
        "set": lambda r: r.set(0, XDPDesc(1, 2)),
        "get": lambda r: r.get(0),
        "set_batch": lambda r: r.set_batch(0, DESCS),
        "put": lambda r: r.put(DESCS),
        "put none": lambda r: r.put(DESCS[:0]),
        "submit": lambda r: r.submit(0),
        "unreserve": lambda r: r.unreserve(0),
        "resync": lambda r: r.resync(),
        "free": lambda r: r.free(),
        "notify": lambda r: r.notify(),
        "wake": lambda r: r.wake(),
        "needs_wakeup": lambda r: r.needs_wakeup,
        "unpublished": lambda r: r.unpublished,
        "outstanding": lambda r: r.outstanding,
    },
}
CALLS[CompletionQueue] = {name: call for name, call in CALLS[RXQueue].items() if name != "receive"} | {
    "free_all": lambda r: r.free_all(UMEM(4, 4096)),
}
CALLS[FillQueue] = {name: call for name, call in CALLS[TXQueue].items() if "umem" not in name} | {
    "set": lambda r: r.set(0, 1),
    "set_batch": lambda r: r.set_batch(0, ONE),
    "put": lambda r: r.put(ONE),
    "put none": lambda r: r.put(ONE[:0]),
    "fill_all": lambda r: r.fill_all(UMEM(4, 4096)),
    "fill_all none": lambda r: r.fill_all(UMEM(4, 4096), 0),
}
LOCAL = {"size", "mask", "next_index", "forget_wake", "reserved_before"}  # touch no ring memory


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_calls_is_complete(kind: Any) -> None:
    public = {name for name in dir(kind) if not name.startswith("_")}
    assert public - LOCAL == {name.split()[0] for name in CALLS[kind]}


@pytest.mark.parametrize("stand", STANDS)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in CALLS[kind]])
def test_after_close_every_call_says_so(kind: Any, name: str, cached: bool, stand: str) -> None:
    produces = kind in (TXQueue, FillQueue)
    memory, _kept = ring_memory(stand, 8, KINDS[kind], U32 - 1, produces=produces)
    ring = kind(memory)
    if produces and not cached:
        ring.reserve(8)
        ring.submit(8)
    elif not produces:
        memory.producer[0] = 6
        if cached:  # entries that are known without a look at the shared index
            ring.peek(2)
    memory.close()
    memory.close()
    assert memory.closed
    assert "closed" in repr(ring)
    with pytest.raises(ClosedError, match="closed"):
        CALLS[kind][name](ring)


@pytest.mark.parametrize("stand", STANDS)
@pytest.mark.parametrize("kind", KINDS)
def test_close_from_another_thread(kind: Any, stand: str) -> None:
    """The ring's own thread calls in a loop: it ends with ClosedError, and the memory is let go by then."""
    produces = kind in (TXQueue, FillQueue)
    some = np.repeat(DESCS if kind is TXQueue else ONE, 8, axis=0)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for delay in (0, 0.0005, 0.002, 0.005):
            memory, kept = ring_memory(stand, 64, KINDS[kind], U32 - 7, produces=produces)
            ring, ended = kind(memory), []

            def work(ring: Any = ring, memory: Any = memory, ended: list[BaseException] = ended) -> None:
                try:
                    while True:
                        if produces:
                            ring.put(some)
                            n, index = ring.reserve(1)
                            ring.unreserve(n)
                            memory.store(memory.consumer, memory.load(memory.producer))
                        else:
                            memory.store(memory.producer, memory.load(memory.consumer) + 8)
                            ring.take(4)
                            n, index = ring.peek()
                            ring.get_batch(index, n)
                            ring.get(index)
                            ring.release(n)
                except BaseException as failure:
                    ended.append(failure)

            thread = threading.Thread(target=work)
            thread.start()
            time.sleep(delay)
            memory.close()
            if kept is not None:  # as after munmap: a late store would show
                kept.words[0] = kept.words[16] = 0x5A5A5A5A
            thread.join(10)
            assert not thread.is_alive()
            assert [type(error) for error in ended] == [ClosedError]
            if kept is not None:
                assert (kept.words[0], kept.words[16]) == (0x5A5A5A5A, 0x5A5A5A5A)
    finally:
        sys.setswitchinterval(switch)


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("entry_bytes", [8, 16])
def test_close_waits_for_a_call_that_is_inside(entry_bytes: int, sliced: bool) -> None:
    memory = RingMemory.plain(8, entry_bytes)
    assert memory.entries is not None
    inside = [memory.entries[2:4] if sliced else memory.entries]  # as a call in another thread holds it
    threading.Timer(0.1, inside.clear).start()
    memory.close()
    assert not inside


@pytest.mark.parametrize("atomic", [False, True])
def test_an_exception_from_inside_does_not_keep_a_ring_open(atomic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its traceback refers to the frames that were inside; close() in a with block comes while it is on its way."""
    monkeypatch.setattr("toolkit._base.closing.CLOSE_TIMEOUT", 0.02)
    wrong: tuple[Callable[[RingMemory], object], ...] = (
        lambda memory: memory.read(0, 9),
        lambda memory: memory.write(0, np.ones(9, np.uint64)),
        lambda memory: memory.write(0, np.ones((2, 2), np.uint64)),
        lambda memory: memory.store(memory.producer, "1"),
        lambda memory: memory.producer.__setitem__(0, object()),
        lambda memory: memory.producer[1],
    )
    for call in wrong:
        memory = RingMemory.plain(8, 8, atomic=atomic)
        try:
            call(memory)
        except Exception as error:
            memory.close()
            del error
        else:
            pytest.fail("not refused")


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_may_be_unmapped_after_close(kind: Any, atomic: bool) -> None:
    """As libxdp does it. A thread that was still inside would be a segmentation fault."""
    assert in_child(lambda: unmapped_under_load(kind, atomic)) == 0


def unmapped_under_load(kind: Any, atomic: bool) -> None:
    sys.setswitchinterval(1e-6)
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    size, length = 1 << 12, (1 << 12) * KINDS[kind] + 4096
    for round_ in range(8):
        base = libc.mmap(None, ctypes.c_size_t(length), 3, 0x22, -1, ctypes.c_long(0))
        struct = XskRing(0, 0, size - 1, size, base, base + 64, base + 4096, base + 128)
        memory = RingMemory.from_libxdp(struct, KINDS[kind], atomic=atomic)
        thread = threading.Thread(target=swallow, args=(lambda memory=memory: churn(kind, memory),))
        thread.start()
        time.sleep(0.001 * round_)
        memory.close()
        libc.munmap(base, length)
        thread.join()


def swallow(work: Callable[[], None]) -> None:
    with contextlib.suppress(ClosedError):
        work()


def churn(kind: Any, memory: RingMemory) -> None:
    ring, some = kind(memory), np.repeat(DESCS if kind is TXQueue else ONE, 4000, axis=0)
    while True:
        if kind in (TXQueue, FillQueue):
            ring.put(some)
            memory.store(memory.consumer, memory.load(memory.producer))
        else:
            memory.store(memory.producer, memory.load(memory.consumer) + 4000)
            ring.take()


def test_close_gives_up_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit._base.closing.CLOSE_TIMEOUT", 0.02)
    memory = RingMemory.plain(8, 8)
    inside = memory.entries
    with pytest.raises(ToolkitError, match="signal handler"):
        memory.close()
    assert memory.closed, "and no later call gets in"
    del inside
    memory.close()


def test_abandon_does_not_wait() -> None:
    memory = RingMemory.plain(8, 8)
    inside = memory.entries
    assert memory.abandon() is False
    with pytest.raises(ClosedError):
        FillQueue.get(type("Ring", (), {"_memory": memory, "mask": 7})(), 0)
    del inside
    assert memory.abandon() is True
