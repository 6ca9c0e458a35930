# SPDX-License-Identifier: Apache-2.0
"""Sending: every form of packets, every kind of socket; what leaves is what was given, in order, once, to the byte."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.sending import Tap, assert_in_order, edit_matrix, plain_socket, stream
from tests.helpers.wire import Wire, assert_all_free, frame, number_of
from toolkit.errors import ArgumentError, ToolkitError
from toolkit.lab import Lab
from toolkit.program import Program

MIXED = [frame(i, length) for i, length in enumerate([64, 14, 1514, 60, 61, 17, 999, 64])]
EVEN = [frame(i, 61) for i in range(7)]


def padded(frames: list[bytes], width: int, filler: int = 0xEE) -> tuple[np.ndarray, list[int]]:
    rows = np.full((len(frames), width), filler, dtype=np.uint8)
    for row, one in zip(rows, frames, strict=True):
        row[: len(one)] = np.frombuffer(one, np.uint8)
    return rows, [len(one) for one in frames]


# name -> (what is given to send() as packets and lengths, what must arrive)
FORMS: dict[str, Callable[[], tuple[Any, Any, list[bytes]]]] = {
    "list of bytes": lambda: (MIXED, None, MIXED),
    "list of bytearrays": lambda: ([bytearray(one) for one in MIXED], None, MIXED),
    "tuple of memoryviews": lambda: (tuple(memoryview(one) for one in MIXED), None, MIXED),
    "list of arrays": lambda: ([np.frombuffer(one, np.uint8) for one in MIXED], None, MIXED),
    "generator": lambda: ((one for one in MIXED), None, MIXED),
    "list of one length": lambda: (EVEN, None, EVEN),
    "array": lambda: (edit_matrix(EVEN), None, EVEN),
    "array of columns": lambda: (np.asfortranarray(edit_matrix(EVEN)), None, EVEN),
    "array with a step": lambda: (np.repeat(edit_matrix(EVEN), 2, axis=0)[::2], None, EVEN),
    "read-only array": lambda: (edit_matrix(EVEN), None, EVEN),
    "array and lengths": lambda: (*padded(MIXED, 1600), MIXED),
    "rows wider than a frame": lambda: (*padded(MIXED, 5000), MIXED),
    "array and lengths of u16": lambda: (padded(MIXED, 1514)[0], np.array([len(m) for m in MIXED], np.uint16), MIXED),
    "empty list": lambda: ([], None, []),
    "empty array": lambda: (np.zeros((0, 64), np.uint8), None, []),
}


def test_every_form_of_packets(lab: Lab) -> None:
    with Tap.far(lab) as tap, plain_socket(lab) as sock:
        for form, make in FORMS.items():
            packets, lengths, expected = make()
            assert sock.send(packets, lengths) == len(expected), form
            assert sock.flush(5.0)
            assert tap.take(len(expected)) == expected, form
            assert_all_free(sock.umem)


def test_a_received_batch_can_be_sent(lab: Lab) -> None:
    """On another queue or UMEM too: send() copies."""
    with (
        Tap.far(lab) as tap,
        toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns) as near,
        Wire(lab) as wire,
    ):
        wire.send(MIXED)
        time.sleep(0.05)
        batch = near.receive(timeout=5.0)
        assert len(batch) == len(MIXED)
        assert near.send(batch) == len(MIXED)
        kept = batch.copy()
        assert near.send(kept) == len(MIXED)
        assert near.flush(5.0)
        assert tap.take(2 * len(MIXED)) == MIXED + MIXED
        near.receive(timeout=0)
        assert near.send(near.receive(timeout=0)) == 0


def test_the_arguments_can_be_reused_at_once(lab: Lab) -> None:
    with Tap.far(lab) as tap, plain_socket(lab) as sock:
        rows = stream(0, 32)
        for first in range(0, 320, 32):
            rows[:] = stream(first, 32)
            assert sock.send(rows) == 32
        rows[:] = 0
        sock.flush(5.0)
        assert assert_in_order(tap.take(320)) == list(range(320))


def test_a_packet_may_fill_its_frame(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(mtu=2034)
    with Tap.far(lab) as tap, plain_socket(lab) as sock:
        packets = [frame(i, 2048) for i in range(10)]
        assert sock.send(packets) == 10
        assert tap.take(10) == packets


@pytest.mark.parametrize("ring", [1, 2, 64])
def test_order_and_bytes_across_many_rounds_of_the_rings(lab: Lab, ring: int) -> None:
    """Batches of all sizes through a small ring; each packet arrives once, in order, with its own length."""
    pick = random.Random(ring)
    count = 3000 if ring > 2 else 300
    packets = [frame(i, pick.randrange(14 + 4, 1500)) for i in range(count)]
    with Tap.far(lab) as tap, plain_socket(lab, frames=max(2 * ring, 2), ring=ring, rx=False) as sock:
        done = 0
        while done < count:
            size = pick.choice((1, 2, 3, ring - 1, ring, ring + 1, 3 * ring, 500))
            assert sock.send(packets[done : done + size]) == len(packets[done : done + size])
            done += size
        assert sock.flush(5.0)
        assert tap.take(count) == packets
        assert_all_free(sock.umem)


@pytest.mark.alone("a rate, measured over a second")
def test_a_hundred_thousand_packets_at_100_kpps(lab: Lab) -> None:
    """None is lost, doubled, damaged or late, and every frame comes back."""
    count, burst = 100_000, 500
    with Tap.far(lab) as tap, plain_socket(lab, frames=4096, ring=2048) as sock:
        begin = time.monotonic()
        for first in range(0, count, burst):
            assert sock.send(stream(first, burst), timeout=5.0) == burst
            time.sleep(max(0.0, begin + first / 100_000 - time.monotonic()))
        took = time.monotonic() - begin
        assert sock.flush(5.0)
        got = tap.take(count)
        assert len(got) == count
        rows = np.frombuffer(b"".join(got), np.uint8).reshape(count, 64)
        assert (rows == stream(0, count)).all()
        assert_all_free(sock.umem)
    assert took < 10, f"{count / took:.0f} packets/s"


def test_every_queue_sends(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=4)
    with (
        Tap.far(lab) as tap,
        toolkit.open("veth0", filter="udp port 9", ring_size=64, netns=lab.netns) as near,
    ):
        for queue in range(4):
            assert near.send(stream(1000 * queue, 200), queue=queue) == 200
        assert near.send(stream(4000, 1)) == 1
        assert near.flush(5.0)
        assert sorted(number_of(one) for one in tap.take(801)) == sorted(
            [1000 * queue + i for queue in range(4) for i in range(200)] + [4000]
        )
        with pytest.raises(ArgumentError, match="queue 4 of veth0 is not open; open are 0, 1, 2, 3"):
            near.send(stream(0, 1), queue=4)
        audit = near.umem.audit()
        assert audit["tx"] == audit["user"] == 0


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("need_wakeup", [True, False])
def test_modes(lab: Lab, mode: Any, need_wakeup: bool) -> None:
    with (
        Tap.far(lab) as tap,
        Wire(lab) as wire,
        toolkit.open("veth0", filter="all", mode=mode, need_wakeup=need_wakeup, ring_size=64, netns=lab.netns) as near,
    ):
        for turn in range(5):
            assert near.send(stream(100 * turn, 100)) == 100
            wire.send([frame(turn)])
            assert number_of(near.receive(timeout=5.0)[0]) == turn
        assert near.flush(5.0)
        assert assert_in_order(tap.take(500)) == list(range(500))


def test_a_socket_that_only_sends(lab: Lab) -> None:
    with Tap.far(lab) as tap, plain_socket(lab, frames=64, rx=False) as sock:
        assert sock.send(stream(0, 500)) == 500
        assert sock.flush(5.0)
        assert_all_free(sock.umem)
        assert len(tap.take(500)) == 500
        for call in (lambda: sock.rx, lambda: sock.receive(timeout=0)):
            with pytest.raises(ToolkitError, match="no RX ring"):
                call()


def test_a_socket_that_only_receives_says_so(lab: Lab) -> None:
    with plain_socket(lab, tx=False) as sock:
        for call in (lambda: sock.tx, lambda: sock.send([frame(1)]), sock.flush, sock.reclaim):
            with pytest.raises(ToolkitError, match=r"queue 0 of veth0 has no TX ring.*tx=True"):
                call()
        assert_all_free(sock.umem)
    with toolkit.open("veth0", filter="all", tx=False, ring_size=64, netns=lab.netns) as near:
        with pytest.raises(ToolkitError, match="no TX ring"):
            near.send([frame(1)])
        with Wire(lab) as wire:
            wire.send([frame(5)])
            assert number_of(near.receive(timeout=5.0)[0]) == 5


def test_sockets_on_one_umem_send_side_by_side(make_lab: Callable[..., Lab]) -> None:
    """Two queues and a second interface share the frames; none is lent twice."""
    lab, other = make_lab(queues=2), make_lab()
    with (
        toolkit.UMEM(64, 2048, fill_size=64, comp_size=64) as umem,
        toolkit.Socket("veth0", 0, umem, tx_size=64, rx_size=64, netns=lab.netns) as a,
        toolkit.Socket("veth0", 1, umem, tx_size=64, rx_size=64, netns=lab.netns) as b,
        toolkit.Socket("veth0", 0, umem, tx_size=64, rx=False, netns=other.netns) as c,
        Tap.far(lab) as tap,
        Tap.far(other) as other_tap,
    ):
        for turn in range(50):
            for at, sock in enumerate((a, b, c)):
                assert sock.send(stream(10_000 * at + 20 * turn, 20)) == 20
        assert all(sock.flush(5.0) for sock in (a, b, c))
        first, second = tap.take(2000), other_tap.take(1000)
        assert_in_order([one for one in first if number_of(one) < 10_000])
        assert_in_order([one for one in first if number_of(one) >= 10_000])
        assert len({number_of(one) for one in first}) == 2000
        assert assert_in_order(second) == list(range(20_000, 21_000))
        assert_all_free(umem)


def test_without_the_budget_of_newer_kernels(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One system call then sends 32 packets. send() goes on until all have left, without a flush() and without RX."""
    monkeypatch.setattr("toolkit.xsk.core.XDP_MAX_TX_SKB_BUDGET", 999)
    with Tap.far(lab) as tap, plain_socket(lab, frames=2048, ring=1024) as sock:
        assert sock.send(stream(0, 1000)) == 1000
        assert sock.tx.outstanding == 0
        assert assert_in_order(tap.take(1000)) == list(range(1000))
        addresses = sock.umem.alloc_frames(100)
        for address in addresses.tolist():
            sock.umem.get(toolkit.XDPDesc(address, 64, 0))[:] = frame(2000)
        sock.tx.put(np.stack([addresses, np.full(100, 64, np.uint64)], axis=1))
        assert sock._sender.kick()
        assert sock.tx.outstanding == 0
        assert len(tap.take(100)) == 100
        assert sock.flush(5.0)


def test_what_leaves_can_be_received_at_the_other_end(lab: Lab) -> None:
    """From socket to socket: AF_XDP at both ends of the cable."""
    count = 5000
    with (
        Program.build("xsk_redirect.c", filter="all") as program,
        toolkit.open("veth1", program=program, ring_size=8192, netns=lab.far) as far,
        plain_socket(lab, frames=1024, ring=512) as sock,
    ):
        assert sock.send(stream(0, count)) == count
        got: list[bytes] = []
        while batch := far.receive(timeout=0.5):
            got += [bytes(one) for one in batch]
        assert assert_in_order(got) == list(range(count))
