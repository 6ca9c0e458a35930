# SPDX-License-Identifier: Apache-2.0
"""Descriptors that lie: refused, and no frame is touched or freed by them."""

from __future__ import annotations

import pytest
from support import Wire, assert_all_free, frame, piece_by_piece

import toolkit
from toolkit.errors import (
    FrameError,
)
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.umem import UMEM

pytestmark = pytest.mark.timeout(60)


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
        with pytest.raises(FrameError, match="freed twice"):
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
