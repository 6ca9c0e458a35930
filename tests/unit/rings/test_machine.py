# SPDX-License-Identifier: Apache-2.0
"""The loads, stores and fences of this machine: which ones are used here, and that libatomic's are those of C11."""

from __future__ import annotations

import platform
import sys
import threading
from typing import Any

import pytest

from tests.helpers.rings_oracle import U32
from toolkit.abi.if_xdp import XDPDesc
from toolkit.rings import FillQueue, RingMemory, RXQueue, TXQueue, fence
from toolkit.rings import atomics as module
from toolkit.rings.atomics import AtomicIndex, shared_index


def four_bytes() -> memoryview:
    return memoryview(bytearray(4))


def test_this_machine_has_what_it_needs() -> None:
    index = shared_index(four_bytes())
    if platform.machine() == "x86_64":
        assert isinstance(index, memoryview), "an aligned mov is ordered here"
    else:
        assert isinstance(index, AtomicIndex), "plain loads and stores are not ordered here"
    fence()


@pytest.mark.parametrize("machine", ["aarch64", "riscv64", "ppc64le"])
def test_every_other_machine_goes_through_libatomic(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    memory = RingMemory.plain(4, 8)
    assert {type(index) for index in (memory.producer, memory.consumer, memory.flags)} == {AtomicIndex}


def test_memory_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads acquire (2), stores release (3), the fence is sequentially consistent (5), and comes before the flag."""
    real, orders = module._libatomic(), []

    def load(address: Any, order: int) -> int:
        orders.append(("load", order))
        return real.load(address, order)

    def store(address: Any, value: int, order: int) -> None:
        orders.append(("store", order))
        real.store(address, value, order)

    def thread_fence(order: int) -> None:
        orders.append(("fence", order))
        real.thread_fence(order)

    monkeypatch.setattr(module, "_libatomic", lambda: module._Atomics(load, store, thread_fence))
    tx = TXQueue(RingMemory.plain(4, 16, atomic=True))
    tx.reserve(1)
    orders.clear()
    tx.notify()
    assert orders[-3:] == [("store", 3), ("fence", 5), ("load", 2)]
    assert {order for call, order in orders if call == "load"} == {2}


@pytest.mark.parametrize("atomic", [False, True])
def test_indices_share_memory_with_the_ring(atomic: bool) -> None:
    words = bytearray(12 + 32)
    whole = memoryview(words)
    memory = RingMemory(whole[0:4], whole[4:8], whole[8:12], whole[12:], 16, atomic=atomic)
    memory.producer[0] = 0x01020304
    memory.store(memory.consumer, 0x1_FFFFFFFF)
    assert words[:8] == (0x01020304).to_bytes(4, "little") + b"\xff" * 4
    words[8] = 1
    assert memory.load(memory.flags) == 1


def test_an_atomic_index_is_released_only_when_nobody_is_inside() -> None:
    index = AtomicIndex(four_bytes())
    index[0] = U32
    assert index[0] == U32
    inside = index._word  # as a call in another thread holds it
    with pytest.raises(BufferError):
        index.release()
    del inside
    index.release()
    index.release()
    with pytest.raises(ValueError, match="released"):
        index[0]
    with pytest.raises(ValueError, match="released"):
        index[0] = 1
    for at in (1, -1):
        with pytest.raises(ValueError, match="forbidden"):
            AtomicIndex(four_bytes())[at]


@pytest.mark.parametrize("atomic", [False, True])
def test_two_threads_pass_entries_in_order(atomic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One produces, one consumes, over the same memory, past the wrap: every entry arrives, whole, once, in order."""
    memory = RingMemory.plain(8, 16, start=U32 - 1000, atomic=atomic)
    tx, rx = TXQueue(memory), RXQueue(memory)
    total, got = 2000, []

    def produce() -> None:
        sent = 0
        while sent < total:
            n, index = tx.reserve(1)
            if n:
                tx.set(index, XDPDesc(sent << 40, sent, sent * 7))
                tx.submit(1)
                sent += 1

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread = threading.Thread(target=produce)
        thread.start()
        while len(got) < total:
            n, index = rx.peek()
            got += [rx.get((index + i) & U32) for i in range(n)]
            rx.release(n)
        thread.join(10)
    finally:
        sys.setswitchinterval(switch)
    assert got == [(i << 40, i, i * 7) for i in range(total)]


def test_needs_wakeup_reads_bit_zero() -> None:
    fill = FillQueue(RingMemory.plain(2, 8))
    for flags, wakeup in ((0, False), (1, True), (3, True), (2, False)):
        fill._memory.flags[0] = flags
        assert fill.needs_wakeup is wakeup
