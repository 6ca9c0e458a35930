# SPDX-License-Identifier: Apache-2.0
"""Sockets, UMEMs, Programs and Batches that end in an unusual order, or in the middle of something."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import eventually
from toolkit import UMEM, Program, Socket, XDPDesc
from toolkit.errors import ArgumentError, FrameError, StaleBatchError
from toolkit.lab import Lab
from toolkit.xsk import core, registration


def test_a_socket_collected_while_another_is_created_takes_nothing_away(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector may run anywhere, also between the UMEM's registration and the new socket's bind."""
    with UMEM(256, 2048) as umem:
        for moment in ("before", "after"):
            forgotten = [Socket(lab.interface, 0, umem, netns=lab.netns, prefill=16)]
            bind = core.bind

            def collecting(
                *arguments: Any, then: Any = bind, when: str = moment, old: Any = forgotten, on_busy: Any
            ) -> int:
                if when == "before":
                    old.clear()
                    gc.collect()
                number: int = then(*arguments, on_busy=on_busy)
                if when == "after":
                    old.clear()
                    gc.collect()
                return number

            other = Lab(interface="veth8", peer="veth9")
            with other, monkeypatch.context() as patch:
                patch.setattr(core, "bind", collecting)
                with Socket(other.interface, 0, umem, netns=other.netns, prefill=16) as sock:
                    patch.undo()
                    assert umem.registrations
                    assert sock.statistics().rx_dropped == 0
                    assert umem.audit()["rx"] == 16  # the forgotten one's frames are back
        assert umem.audit()["free"] == 256


def test_a_queue_of_a_forgotten_socket_can_be_opened_at_once(lab: Lab) -> None:
    with UMEM(256, 2048) as umem:
        sock = Socket(lab.interface, 0, umem, netns=lab.netns)
        gone = weakref.ref(sock)
        del sock
        gc.collect()
        assert gone() is None
        with Socket(lab.interface, 0, umem, netns=lab.netns):
            pass


def test_more_sockets_in_the_life_of_a_umem_than_a_small_number_holds(lab: Lab) -> None:
    with UMEM(256, 2048) as umem:
        umem._holders = 1 << 20  # as if that number had come and gone
        with Socket(lab.interface, 0, umem, netns=lab.netns, prefill=32) as sock, Program.build() as program:
            program.attach(lab.interface, netns=lab.netns)
            program.register(sock)
            lab.udp(count=5)
            assert eventually(lambda: sock.rx.available(5) == 5)
            assert len(sock.receive(timeout=1)) == 5
        assert umem.audit()["free"] == 256


def test_one_program_refuses_two_sockets_for_one_queue(lab: Lab) -> None:
    with Lab(interface="veth8", peer="veth9") as other, Program.build() as program:
        with toolkit.open(lab.interface, program=program, netns=lab.netns) as first:
            with pytest.raises(ArgumentError, match=r"queue 0 .* is taken by <Socket veth0 queue 0"):
                toolkit.open(other.interface, program=program, netns=other.netns)
            lab.udp(count=3)
            assert len(first.receive(timeout=1)) > 0
        with toolkit.open(other.interface, program=program, netns=other.netns) as second:
            other.udp(count=3)
            assert len(second.receive(timeout=1)) > 0


@pytest.fixture
def spoiled(conservation: Any) -> None:
    conservation.may_retire = 8


@pytest.mark.usefixtures("spoiled")
def test_a_spoiled_tx_ring_does_not_keep_a_socket_from_closing(lab: Lab) -> None:
    with UMEM(64, 2048) as umem:
        sock = Socket(lab.interface, 0, umem, netns=lab.netns)
        addresses = umem.alloc_frames(4)
        n, index = sock.tx.reserve(4)
        assert n == 4
        for i, address in enumerate(addresses):
            sock.tx.set(index + i, XDPDesc(int(address), 60))
        sock.tx.submit(4)
        sock.tx.set(index, XDPDesc(63 * 2048, 60))  # an entry that is the kernel's already
        sock.close()
        sock.close()
        audit = umem.audit()
        assert audit["tx"] == 0
        assert sum(audit[kind] for kind in ("free", "user", "rx", "received", "tx", "retired")) == 64
        with Socket(lab.interface, 0, umem, netns=lab.netns):
            pass  # the queue is free


def test_a_batch_that_outlives_its_forgotten_interface_is_stale(lab: Lab) -> None:
    opened = toolkit.open(lab.interface, filter="udp", netns=lab.netns)
    lab.udp(count=3)
    batch = opened.receive(timeout=1)
    assert batch
    del opened
    gc.collect()
    assert batch.stale
    with batch, pytest.raises(StaleBatchError):
        batch.packet(0)


@pytest.mark.parametrize("ring_size", [1, 2, 4, 64])
def test_small_rings_open_and_receive(lab: Lab, ring_size: int) -> None:
    with toolkit.open(lab.interface, filter="udp", netns=lab.netns, ring_size=ring_size) as opened:
        for _ in range(10):
            assert not opened.receive(timeout=0)  # the borrowed frame goes back: there may be no other
            lab.udp(count=1)
            assert len(opened.receive(timeout=1)) == 1


def test_a_frame_of_another_umem_is_refused(lab: Lab) -> None:
    with UMEM(8, 2048) as umem, Socket(lab.interface, 0, umem, netns=lab.netns) as sock:
        _, index = sock.tx.reserve(1)
        sock.tx.set(index, XDPDesc(8 * 2048, 60))
        with pytest.raises(FrameError, match="outside the UMEM"):
            sock.tx.submit(1)
        sock.tx.unreserve(1)


def test_the_libxdp_side_of_a_umem_goes_with_its_last_socket(lab: Lab) -> None:
    with UMEM(64, 2048) as umem:
        sock = Socket(lab.interface, 0, umem, netns=lab.netns)
        (first,) = umem.registrations
        assert isinstance(first, registration.Registration)
        sock.close()
        assert not umem.registrations
        assert not first.pointer
