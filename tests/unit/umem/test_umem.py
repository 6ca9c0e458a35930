# SPDX-License-Identifier: Apache-2.0
"""UMEM: frames are taken and given back once, views stay inside a frame, and a closed or forked UMEM says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.forks import in_child
from toolkit.abi.if_xdp import XDPDesc
from toolkit.errors import ArgumentError, ClosedError, FrameError, ToolkitError
from toolkit.umem.umem import UMEM, check_ring_size

U64 = (1 << 64) - 1


def free_of(umem: UMEM) -> int:
    audit = umem.audit()
    assert sum(n for kind, n in audit.items() if kind != "frames") == audit["frames"] == umem.frames
    free: int = audit["free"]
    assert free == umem.n_free_frames
    return free


# --- making one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_size", [0, 1024, 4095, 4097, 8192, -2048])
def test_frame_sizes_that_the_kernel_refuses(frame_size: int) -> None:
    with pytest.raises(ArgumentError, match="2048 or 4096"):
        UMEM(16, frame_size)


@pytest.mark.parametrize("frames", [0, -1, (1 << 24) + 1, 1.5, "8"])
def test_frame_counts_that_are_none(frames: Any) -> None:
    with pytest.raises(ArgumentError, match="whole"):
        UMEM(frames, 4096)


def test_frames_fill_whole_pages() -> None:
    with pytest.raises(ArgumentError, match="even number"):
        UMEM(3, 2048)
    assert UMEM(2, 2048).size == 4096


def test_headroom_and_capacity() -> None:
    assert UMEM(2, 2048).packet_capacity == 1792
    assert UMEM(2, 4096, headroom=40).packet_capacity == 3800
    for headroom in (-1, 3840, 5000):
        with pytest.raises(ArgumentError, match="headroom"):
            UMEM(2, 4096, headroom=headroom)


@pytest.mark.parametrize("size", [0, 3, -2, 1 << 21, 2.0, "64"])
def test_ring_sizes(size: Any) -> None:
    with pytest.raises(ArgumentError, match=r"power of two|whole number"):
        check_ring_size("rx_size", size)
    for option in ("fill_size", "comp_size"):
        with pytest.raises(ArgumentError, match=option):
            UMEM(2, 4096, **{option: size})


# --- taking and giving back -------------------------------------------------------------------------------------------


def test_every_frame_once() -> None:
    umem = UMEM(64, 2048)
    addresses = umem.alloc_frames(64)
    assert addresses.dtype == np.uint64
    assert sorted(addresses.tolist()) == list(range(0, 64 * 2048, 2048))
    assert umem.audit()["user"] == 64
    with pytest.raises(FrameError, match="cannot take 1 frames: 0 of 64 are free"):
        umem.alloc_frame()
    umem.free_frames(addresses)
    assert free_of(umem) == 64


def test_all_or_none() -> None:
    umem = UMEM(8, 4096)
    for n in (9, 1 << 40, -1):
        with pytest.raises(FrameError, match="cannot take"):
            umem.alloc_frames(n)
    assert umem.alloc_frames(0).shape == (0,)
    assert free_of(umem) == 8


def test_a_frame_goes_back_by_any_address_inside_it() -> None:
    """As RX descriptors point behind the headroom: what comes out of the stack again is the frame's first byte."""
    umem = UMEM(4, 2048)
    a, b, c, d = (int(address) for address in umem.alloc_frames(4))
    umem.free_frame(a + 256)
    umem.free_frames([b + 2047])
    umem.recycle(np.array([c + 1, d + 300], dtype=np.uint64))
    assert sorted(umem.alloc_frames(4).tolist()) == [0, 2048, 4096, 6144]


FOREIGN = (8 * 4096, 8 * 4096 + 1, 1 << 40, 1 << 63, U64, U64 - 4095)


@pytest.mark.parametrize("address", [*FOREIGN, -1, -4096, 1 << 64, 1 << 80])
@pytest.mark.parametrize("poison", [False, True])
def test_foreign_addresses(address: int, poison: bool) -> None:
    umem = UMEM(8, 4096, poison=poison)
    mine = umem.alloc_frames(8)
    with pytest.raises(FrameError, match="outside the UMEM"):
        umem.free_frame(address)
    with pytest.raises(ToolkitError):
        umem.free_frames([int(mine[0]), address])
    if address in FOREIGN:
        for call in (umem.free_frames, umem.recycle):
            with pytest.raises(FrameError, match="outside the UMEM"):
                call(np.array([mine[0], address, mine[1]], dtype=np.uint64))
    assert umem.audit()["user"] == 8, "nothing was changed"


def test_negative_addresses_in_a_signed_array_are_foreign() -> None:
    umem = UMEM(8, 4096)
    umem.alloc_frames(8)
    with pytest.raises(FrameError, match="outside"):
        umem.free_frames(np.array([-4096]))


def test_double_free() -> None:
    umem = UMEM(8, 4096)
    a, b = (int(address) for address in umem.alloc_frames(2))
    umem.free_frame(a)
    for call in (umem.free_frame, lambda a: umem.free_frames([b, a]), lambda a: umem.recycle(np.array([b, a], "u8"))):
        with pytest.raises(FrameError, match="belongs to the free stack"):
            call(a)
    assert (umem.audit()["user"], free_of(umem)) == (1, 7)


@pytest.mark.parametrize("other", [0, 17, 4095])
def test_a_frame_twice_in_one_call(other: int) -> None:
    umem = UMEM(8, 4096, poison=True)
    a, b = (int(address) for address in umem.alloc_frames(2))
    umem.get(XDPDesc(a, 4))[:] = b"mine"
    with pytest.raises(FrameError, match="twice"):
        umem.free_frames([a, b, a + other])
    assert umem.audit()["user"] == 2
    assert bytes(umem.get(XDPDesc(a, 4))) == b"mine", "not even poisoned"


@pytest.mark.parametrize("given_", [[1.0], [True], [[0]], "0", [None], np.zeros((1, 1), np.uint64), [1 << 65]])
def test_what_is_no_list_of_addresses(given_: Any) -> None:
    umem = UMEM(8, 4096)
    umem.alloc_frames(8)
    with pytest.raises(ArgumentError, match="an array of integers"):
        umem.free_frames(given_)
    umem.free_frames([])
    umem.free_frames(np.empty(0))
    assert umem.audit()["user"] == 8


def test_poison_shows_use_after_release() -> None:
    umem = UMEM(4, 2048, poison=True)
    a, b, c = (int(address) for address in umem.alloc_frames(3))
    views = [umem.get(XDPDesc(address, 2048)) for address in (a, b, c)]
    umem.free_frame(a + 256)
    umem.free_frames([b])
    assert bytes(views[0]) == bytes(views[1]) == b"\xde" * 2048
    assert bytes(views[2]) == bytes(2048), "the neighbour is untouched"
    with pytest.raises(FrameError):
        umem.free_frames([c, a])
    assert bytes(views[2]) == bytes(2048), "a refused call changes nothing"


# --- views ------------------------------------------------------------------------------------------------------------

umems = {size: UMEM(8, size) for size in (2048, 4096)}
near_edges = st.builds(lambda frame, off: max(frame * 2048 + off, 0), st.integers(0, 17), st.integers(-4, 4))


@given(
    frame_size=st.sampled_from([2048, 4096]),
    addr=st.one_of(st.integers(0, U64), st.integers(0, 40_000), near_edges, st.integers(U64 - 5000, U64)),
    length=st.one_of(st.integers(0, (1 << 32) - 1), st.integers(0, 5000)),
)
def test_a_view_is_exactly_what_was_asked_for_within_one_frame_or_nothing(
    frame_size: int, addr: int, length: int
) -> None:
    umem = umems[frame_size]
    whole = umem.memory
    assert whole is not None
    inside = addr < umem.size and addr // frame_size == (addr + max(length, 1) - 1) // frame_size
    if not inside:
        with pytest.raises(FrameError, match="not within one frame"):
            umem.get(XDPDesc(addr, length))
        return
    view = umem.get(XDPDesc(addr, length))
    assert len(view) == length
    assert not view.readonly
    if length:
        at = np.frombuffer(view, np.uint8).ctypes.data - whole.ctypes.data
        assert (at, view.nbytes) == (addr, length)


def test_views_of_descriptors_of_other_types() -> None:
    umem = umems[4096]
    fields = [("addr", "u8"), ("len", "u4"), ("options", "u4")]
    record: Any = np.array([(4096, 10, 0), (U64 - 4095, 4000, 0)], dtype=fields).view(np.recarray)
    assert len(umem.get(record[0])) == 10
    with pytest.raises(FrameError):
        umem.get(record[1])
    for addr, length in ((-1, 1), (0, -1), (-4096, 4096)):
        with pytest.raises(FrameError):
            umem.get(XDPDesc(addr, length))


def test_a_view_is_the_frame_itself() -> None:
    umem = UMEM(4, 4096)
    view = umem.get(XDPDesc(4096, 5))
    view[:] = b"hello"
    assert umem.memory is not None
    assert umem.memory[4096:4101].tobytes() == b"hello"


# --- closed, forked ---------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[UMEM], object]] = {
    "alloc_frame": lambda u: u.alloc_frame(),
    "alloc_frames": lambda u: u.alloc_frames(0),
    "free_frame": lambda u: u.free_frame(0),
    "free_frames": lambda u: u.free_frames([]),
    "recycle": lambda u: u.recycle(np.empty(0, np.uint64)),
    "get": lambda u: u.get(XDPDesc(0, 1)),
    "audit": lambda u: u.audit(),
    "n_free_frames": lambda u: u.n_free_frames,
    "new_holder": lambda u: u.new_holder(),
}


@pytest.mark.parametrize("name", CALLS)
def test_after_close_every_call_says_so(name: str) -> None:
    with UMEM(4, 4096) as umem:
        assert not umem.closed
    umem.close()
    assert umem.closed
    assert "closed" in repr(umem)
    with pytest.raises(ClosedError, match="closed"):
        CALLS[name](umem)


def test_close_with_a_view_in_somebody_s_hands() -> None:
    umem = UMEM(4, 4096)
    view, array = umem.get(XDPDesc(4096, 5)), umem.memory
    view[:] = b"hello"
    umem.close()
    assert bytes(view) == b"hello"
    view[:] = b"still"
    assert array is not None
    assert array[4096:4101].tobytes() == b"still"


def test_a_umem_in_use_is_not_closed() -> None:
    umem = UMEM(4, 4096)
    umem.registrations.append(object())
    with pytest.raises(ToolkitError, match="a Socket is open on it"):
        umem.close()
    umem.registrations.clear()
    umem.close()


def test_in_a_forked_child_it_is_dead_and_the_parent_unharmed() -> None:
    umem = UMEM(4, 4096)
    a = umem.alloc_frame()
    view = umem.get(XDPDesc(a, 5))
    view[:] = b"hello"

    def child() -> None:
        for call in CALLS.values():
            with pytest.raises(ClosedError, match="parent of a fork"):
                call(umem)
        assert bytes(view) in (b"hello", bytes(5)), "a view from before leads nowhere else"
        umem.close()

    assert in_child(child) == 0
    assert bytes(view) == b"hello"
    umem.free_frame(a)
    assert free_of(umem) == 4


# --- threads ----------------------------------------------------------------------------------------------------------


def test_two_threads_share_the_free_stack() -> None:
    umem = UMEM(256, 2048)
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        memory = umem.memory
        assert memory is not None
        try:
            for round_ in range(1500):
                try:
                    mine = umem.alloc_frames(int(rng.integers(1, 160)))
                except FrameError:
                    continue
                memory[mine] = seed
                if round_ & 1:
                    umem.free_frame(int(mine[-1]) + 99)
                    mine = mine[:-1]
                assert (memory[mine] == seed).all(), "another thread has the same frame"
                umem.free_frames(mine)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert free_of(umem) == 256
