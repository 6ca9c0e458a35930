# SPDX-License-Identifier: Apache-2.0
"""Descriptors that lie: refused, and no frame is touched or freed by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.wire import Wire, assert_all_free, collect, frame, piece_by_piece
from toolkit.errors import FrameError
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.umem.umem import UMEM


@pytest.mark.parametrize(
    ("addr", "length"),
    [(1 << 63, 10), (64 * 2048, 1), (64 * 2048 - 1, 2), (2047, 2), (0, 2049), (-1, 1), (0, -1), ((1 << 64) - 1, 64)],
)
def test_a_descriptor_outside_the_umem(addr: int, length: int) -> None:
    with UMEM(64, 2048) as umem:
        with pytest.raises(FrameError, match="not within one frame"):
            umem.get(toolkit.XDPDesc(addr, length))
        assert len(umem.get(toolkit.XDPDesc(64 * 2048 - 1, 1))) == 1
        assert len(umem.get(toolkit.XDPDesc(5, 0))) == 0


@pytest.mark.parametrize("addr", [64 * 2048, 1 << 40, (1 << 64) - 1, -1])
def test_a_foreign_or_free_frame_is_not_freed(addr: int) -> None:
    with UMEM(64, 2048) as umem:
        with pytest.raises((FrameError, OverflowError), match=r"outside|out of bounds|too large"):
            umem.free_frame(addr)
        mine = umem.alloc_frame()
        umem.free_frame(mine + 100)
        with pytest.raises(FrameError, match="given back, posted or sent twice"):
            umem.free_frame(mine)
        assert_all_free(umem)


@pytest.mark.parametrize("addr", [1 << 62, 256 * 2048, 0])
def test_a_corrupted_rx_ring_entry(lab: Lab, wire: Wire, addr: int) -> None:
    """A descriptor that names a frame outside the UMEM, or one that the kernel was not lent: FrameError, no bytes."""
    with (
        Program.build("xsk_redirect.c") as program,
        UMEM(256, 2048) as umem,
        toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock,
    ):
        free = umem.alloc_frames(256)  # so that address 0 is the user's, not the kernel's
        umem.free_frames(free[free != 0])
        sock.fill.fill_all(umem, 64)
        with piece_by_piece(program, lab, sock):
            wire.send([frame(1)])
            assert sock.wait(5.0)
            entries = sock.rx._memory.entries
            assert entries is not None
            entries[sock.rx.next_index & sock.rx.mask, 0] = addr
            del entries
            with pytest.raises(FrameError):
                sock.receive(timeout=0)
            with pytest.raises(FrameError):
                sock.rx.peek()
            with pytest.raises(FrameError):
                umem.get(toolkit.XDPDesc(addr, 4096))
        counts = umem.audit()
        assert counts["received"] == 0, "nothing was handed out"
        umem.free_frame(0)


def test_a_fill_ring_entry_outside_the_umem_is_refused_before_the_kernel_sees_it(lab: Lab) -> None:
    with UMEM(64, 2048) as umem, toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
        n, index = sock.fill.reserve(1)
        assert n == 1
        sock.fill.set(index, 64 * 2048)
        with pytest.raises(FrameError, match="outside the UMEM"):
            sock.fill.notify()
        sock.fill.unreserve(1)
        assert sock.statistics().rx_invalid_descs == 0
        assert sock.fill.fill_all(umem, 32) == 32


def overwrite(sock: toolkit.Socket, n: int, write: Callable[[Any], None]) -> None:
    """Write into the RX ring, once `n` packets are in it, as a broken driver would: shape (n, 2) u64, in order."""
    while sock.rx.available(n) < n:
        assert sock.wait(5.0)
    memory = sock.rx._memory
    entries = memory.read(sock.rx.next_index, n)
    write(entries)
    memory.write(sock.rx.next_index, entries)


def twice(entries: Any) -> None:
    entries[2] = entries[0]


def too_long(entries: Any) -> None:
    entries[1, 1] = 2048


@pytest.mark.parametrize("lie", [twice, too_long])
def test_a_ring_that_lies_is_left_by_closing_the_socket(lab: Lab, wire: Wire, lie: Callable[[Any], None]) -> None:
    """As the error says: until then each call says it again; afterwards all frames are there, and packets come."""
    with Program.build("xsk_redirect.c") as program, UMEM(256, 2048) as umem:
        with toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
            sock.fill.fill_all(umem, 64)
            with piece_by_piece(program, lab, sock):
                wire.send([frame(i) for i in range(4)])
                overwrite(sock, 4, lie)
                for _ in range(3):
                    with pytest.raises(FrameError, match=r"named twice.*close the Socket|not within one frame"):
                        sock.receive(timeout=1)
                    assert umem.audit()["rx"] == 64
                assert sock.send([frame(9)]) == 1, "the other side works on"
        assert_all_free(umem)
        assert len(set(umem.alloc_frames(256).tolist())) == 256
        umem.free_frames(np.arange(256) * 2048)
        with toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
            sock.fill.fill_all(umem, 64)
            with piece_by_piece(program, lab, sock):
                wire.send([frame(i) for i in range(4)])
                assert collect(sock.receive, 4) == [frame(i) for i in range(4)]


def test_the_kernel_is_not_given_what_it_would_keep(lab: Lab) -> None:
    """Of a descriptor that it refuses, the kernel counts one and never returns the frame."""
    with UMEM(64, 2048) as umem, toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
        a, b = umem.alloc_frames(2).tolist()
        for bad in ((a, 0), (a + 2000, 60), (a, 60 | 1 << 32), (a, 60 | 2 << 32), (a, 60 | 4 << 32)):
            with pytest.raises(FrameError):
                sock.tx.put(np.array([bad, (b, 60)], dtype=np.uint64))
        assert sock.flush(1.0)
        assert sock.statistics().tx_invalid_descs == 0
        umem.free_frames([a, b])
        assert_all_free(umem)
