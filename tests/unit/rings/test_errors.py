# SPDX-License-Identifier: Apache-2.0
"""What the rings refuse, and when they wake the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.hostile import Kernel
from tests.helpers.rings_oracle import U32, ring_memory
from toolkit.abi.if_xdp import XDPDesc
from toolkit.abi.libxdp import XskRing
from toolkit.errors import ArgumentError
from toolkit.rings import CompletionQueue, FillQueue, RingMemory, RXQueue, TXQueue
from toolkit.umem.umem import UMEM

KINDS: dict[Any, int] = {RXQueue: 16, CompletionQueue: 8, TXQueue: 16, FillQueue: 8}
ONE = np.ones(1, dtype=np.uint64)
DESCS = np.ones((1, 2), dtype=np.uint64)


def make(kind: Any, size: int = 8, start: int = U32 - 1, **options: Any) -> Any:
    ring = kind(RingMemory.plain(size, KINDS[kind], start=start), **options)
    if kind in (RXQueue, CompletionQueue):  # the kernel has filled it
        ring._memory.producer[0] = (start + size) & U32
    return ring


# --- too many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RXQueue, CompletionQueue])
@pytest.mark.parametrize("call", ["release", "cancel"])
def test_no_more_than_was_peeked(kind: Any, call: str) -> None:
    ring = make(kind)
    ring.peek(3)
    for n in (4, -1, 1 << 32, (1 << 32) + 1):
        with pytest.raises(ArgumentError, match="3 are peeked"):
            getattr(ring, call)(n)
    getattr(ring, call)(3)
    with pytest.raises(ArgumentError, match="0 are peeked"):
        getattr(ring, call)(1)


@pytest.mark.parametrize("kind", [TXQueue, FillQueue])
@pytest.mark.parametrize("call", ["submit", "unreserve"])
def test_no_more_than_was_reserved(kind: Any, call: str) -> None:
    ring = make(kind)
    ring.reserve(3)
    for n in (4, -1, 1 << 32, (1 << 32) + 1):
        with pytest.raises(ArgumentError, match="3 are reserved"):
            getattr(ring, call)(n)
    getattr(ring, call)(3)
    with pytest.raises(ArgumentError, match="0 are reserved"):
        getattr(ring, call)(1)


@pytest.mark.parametrize("kind", [RXQueue, CompletionQueue])
def test_negative_counts_move_nothing(kind: Any) -> None:
    ring = make(kind)
    for call in (ring.peek, ring.take):
        with pytest.raises(ArgumentError, match="cannot"):
            call(-1)
    for n in (-1, 9):
        with pytest.raises(ArgumentError, match="from 0 to 8"):
            ring.get_batch(0, n)
    assert (ring.peek(), ring.unreleased) == ((8, U32 - 1), 8)


@pytest.mark.parametrize("limit", [2.5, 4.0, "x", True, -1])
def test_a_limit_is_a_whole_number(limit: Any) -> None:
    """Whether more or fewer entries wait: nothing is taken, and the next call goes on."""
    rig = Kernel()
    rig.brings(3)
    plain = (make(RXQueue), make(CompletionQueue))
    calls = [call for ring in (*plain, rig.rx, rig.completion) for call in (ring.peek, ring.take)]
    calls += [plain[0].receive, rig.receiver.poll_once, lambda limit: rig.receiver.taking(limit).__enter__()]
    for call in calls:
        with pytest.raises(ArgumentError, match=rf"^limit cannot be {limit!r}\. Next step: give a whole number"):
            call(limit)
    assert len(rig.receiver.poll_once(np.int64(2))) == 2  # type: ignore[arg-type]
    rig.ends()


@pytest.mark.parametrize("limit", [2.5, "x", True])
def test_the_limit_of_fill_all_too(limit: Any) -> None:
    fill, umem = make(FillQueue), UMEM(16, 2048)
    with pytest.raises(ArgumentError, match=r"^limit cannot be"):
        fill.fill_all(umem, limit)
    assert (fill.fill_all(umem, -1), fill.fill_all(umem, 3)) == (0, 3)


@pytest.mark.parametrize("kind", [TXQueue, FillQueue])
def test_the_producers_refuse_what_does_not_fit(kind: Any) -> None:
    ring = make(kind)
    entry = XDPDesc(1, 2) if kind is TXQueue else 1
    some = DESCS if kind is TXQueue else ONE
    with pytest.raises(ArgumentError):
        ring.reserve(-1)
    with pytest.raises(ArgumentError, match="from 0 to 8"):
        ring.set_batch(0, np.repeat(some, 9, axis=0))
    wrong: tuple[Any, ...] = (some.astype(np.float64), some.astype(np.int64), some[None], np.ones((1, 3), np.uint64))
    for array in wrong:
        for call in (ring.put, lambda array: ring.set_batch(0, array)):
            with pytest.raises(ArgumentError):
                call(array)
    assert ring.reserve(9) == (0, 0)
    n, index = ring.reserve(2)
    assert (n, index) == (2, U32 - 1)
    for bad in (-1, 1 << 64, 1.5, None):
        with pytest.raises(ArgumentError, match="cannot be"):
            ring.set(index, XDPDesc(bad, 2) if kind is TXQueue else bad)
    with pytest.raises(ArgumentError, match=r"reserved and not published|peeked and not released"):
        ring.put(some)
    ring.set(index, entry)
    ring.unreserve(2)
    assert ring.put(some) == 1


def test_fill_all_waits_for_reserved_entries_to_be_published() -> None:
    fill, umem = make(FillQueue), UMEM(8, 4096)
    fill.reserve(1)
    with pytest.raises(ArgumentError, match="reserved and not published"):
        fill.fill_all(umem)
    assert umem.n_free_frames == 8


def test_tx_descriptors_must_fit_their_fields() -> None:
    tx = make(TXQueue)
    for desc in (XDPDesc(0, 1 << 32), XDPDesc(0, -1), XDPDesc(0, 0, 1 << 32)):
        with pytest.raises(ArgumentError, match="cannot be"):
            tx.set(0, desc)


def test_tx_reserve_asks_the_umem_as_gvisor_does() -> None:
    tx, umem = make(TXQueue), UMEM(4, 4096)
    assert tx.reserve(5, umem) == (0, 0)
    assert tx.reserve(4, umem) == (4, U32 - 1)


# --- waking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TXQueue, FillQueue])
def test_notify_wakes_only_where_the_kernel_asks(kind: Any) -> None:
    woken: list[int] = []
    ring = make(kind, wake=lambda: woken.append(1) or False)
    ring.reserve(1)
    ring.notify()
    assert not woken
    ring._memory.flags[0] = 1
    ring.reserve(1)
    ring.notify()
    assert len(woken) == 1
    assert ring.wake() is False, "the kernel was busy: the caller hears of it"
    ring._memory.flags[0] = 2  # another flag
    assert not ring.needs_wakeup


def test_an_error_of_the_wake_up_reaches_the_caller() -> None:
    def refused() -> bool:
        raise OSError(100, "down")

    ring = make(TXQueue, wake=refused)
    ring._memory.flags[0] = 1
    ring.reserve(2)
    with pytest.raises(OSError, match="down"):
        ring.notify()
    assert ring.outstanding == 2, "published all the same"


def test_fill_all_wakes_the_driver_where_it_asks() -> None:
    woken: list[int] = []
    fill = make(FillQueue, wake=lambda: bool(woken.append(1)))
    fill._memory.flags[0] = 1
    with UMEM(4, 4096) as umem:
        assert fill.fill_all(umem, 3) == 3
        assert len(woken) == 1
        assert fill.fill_all(umem, 0) == fill.fill_all(umem, -5) == 0
        assert len(woken) == 1


# --- memory that is none ----------------------------------------------------------------------------------------------


def test_sizes() -> None:
    for size in (0, 3, 6, 63):
        with pytest.raises(ArgumentError, match="power of two"):
            RingMemory.plain(size, 8)
    for entry_bytes in (0, 4, 12, 32):
        with pytest.raises(ArgumentError, match=r"8 .addresses. or 16"):
            RingMemory.plain(4, entry_bytes)


def test_a_struct_that_libxdp_has_not_filled() -> None:
    with pytest.raises(ArgumentError, match="not filled"):
        RingMemory.from_libxdp(XskRing(), 16)
    _, kept = ring_memory("libxdp", 4, 16, 0, produces=False)
    for missing in ("producer", "consumer", "flags", "ring"):
        struct = XskRing.from_buffer_copy(kept.struct)
        setattr(struct, missing, None)
        with pytest.raises(ArgumentError, match="not filled"):
            RingMemory.from_libxdp(struct, 16)


def test_reprs_show_the_fill() -> None:
    rx, fill = make(RXQueue), make(FillQueue)
    rx.peek(3)
    fill.reserve(2)
    assert repr(rx) == "<RXQueue size=8 waiting=5 unreleased=3>"
    assert repr(fill) == "<FillQueue size=8 free=6 unpublished=2>"
