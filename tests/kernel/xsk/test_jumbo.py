# SPDX-License-Identifier: Apache-2.0
"""Packets longer than a frame: several buffers in the rings, one packet in a Batch."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.wire import Wire, collect, frame
from toolkit.errors import ArgumentError
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab

# Around the ends of buffers (a frame of 4096 bytes holds 3840 of a packet), and the longest of an MTU of 9000.
LENGTHS = (60, 3839, 3840, 3841, 4096, 7679, 7680, 7681, 9000, 9014)


@pytest.fixture
def jumbo(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(mtu=9000)


@contextlib.contextmanager
def socket_of(lab: Lab, mode: Any = "native", expression: str = "all") -> Iterator[toolkit.Socket]:
    with (
        toolkit.Program.build("xsk_redirect.c", filter=expression, frags=True) as program,
        toolkit.Socket("veth0", umem=None, sg=True, prefill=1024, netns=lab.netns) as sock,
        program.attach("veth0", mode=mode, netns=lab.netns),
    ):
        program.register(sock)
        yield sock


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_every_length_arrives_whole(jumbo: Lab, mode: str) -> None:
    packets = [frame(i, length) for i, length in enumerate(LENGTHS * 5)]
    with Wire(jumbo) as wire, socket_of(jumbo, mode) as sock:
        wire.send(packets)
        got = collect(sock.receive, len(packets))
        assert [len(one) for one in got] == [len(one) for one in packets]
        assert got == packets


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_open_takes_them_where_the_mtu_asks_for_it(jumbo: Lab, mode: Any) -> None:
    packets = [frame(i, length) for i, length in enumerate(LENGTHS * 2)]
    with Wire(jumbo) as wire, warnings.catch_warnings():
        warnings.simplefilter("error")
        with toolkit.open("veth0", filter="ether[0] = 2", mode=mode, ring_size=256, netns=jumbo.netns) as near:
            assert (near.mode, near.sockets[0].sg) == (mode, True)
            wire.send(packets)
            assert collect(near.receive, len(packets)) == packets
            near.detach()
            assert near.counters()["redirected"] == len(packets)


@pytest.mark.parametrize(("mtu", "several"), [(1500, False), (3050, False), (3700, True)])
def test_open_is_native_at_every_mtu(make_lab: Callable[..., Lab], mtu: int, several: bool) -> None:
    """Just below the size of a frame a veth wants a program for several buffers already."""
    lab = make_lab(mtu=mtu)
    with Wire(lab) as wire, toolkit.open("veth0", filter="ether[0] = 2", ring_size=64, netns=lab.netns) as near:
        assert (near.mode, near.sockets[0].sg) == ("native", several)
        wire.send([frame(0, mtu + 14)])
        assert [len(one) for one in collect(near.receive, 1)] == [mtu + 14]


def test_open_without_them_says_what_it_costs(jumbo: Lab) -> None:
    with Wire(jumbo) as wire:
        with pytest.warns(UserWarning, match="longer than 3840 bytes"):
            near = toolkit.open("veth0", filter="all", frags=False, ring_size=256, netns=jumbo.netns)
        with near:
            wire.send([frame(0, 100), frame(1, 3841), frame(2, 3840)])
            assert [len(one) for one in collect(near.receive, 2)] == [100, 3840]
            near.detach()
            assert near.statistics().rx_dropped == 1


def test_a_forwarder_wants_whole_packets(jumbo: Lab) -> None:
    with (
        toolkit.open("veth0", filter="all", ring_size=256, netns=jumbo.netns) as near,
        pytest.raises(ArgumentError, match="frags=False"),
    ):
        Forwarder(near, near)


def test_what_a_batch_says_of_long_packets(jumbo: Lab) -> None:
    packets = [frame(0, 9000), frame(1, 60), frame(2, 5000)]
    with Wire(jumbo) as wire, socket_of(jumbo) as sock:
        wire.send(packets)
        batches = []
        while sum(map(len, batches)) < 3:
            batch = sock.receive(timeout=5.0)
            assert batch
            batches.append(batch.copy())
        assert np.concatenate([one.lengths for one in batches]).tolist() == [9000, 60, 5000]
        assert np.concatenate([one.wire_lengths for one in batches]).tolist() == [9000, 60, 5000]
        times = np.concatenate([one.timestamps for one in batches])
        assert not np.isnat(times).any()
        assert (np.diff(times) >= np.timedelta64(0)).all()
        heads = np.concatenate([one.head(8000) for one in batches])
        assert heads[0].tobytes() == packets[0][:8000]
        assert heads[2].tobytes() == packets[2] + bytes(3000)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_a_poll_ends_at_the_end_of_a_packet(jumbo: Lab, limit: int) -> None:
    """`limit` counts buffers; the last packet is completed."""
    packets = [frame(i, 8000) for i in range(12)]
    with Wire(jumbo) as wire, socket_of(jumbo) as sock:
        wire.send(packets)
        got: list[bytes] = []
        while len(got) < 12:
            batch = sock.receive(timeout=5.0, limit=limit)
            assert batch
            assert len(batch) <= max(limit, 1)
            got += [bytes(one) for one in batch]
        assert got == packets


def test_many_rounds_of_the_rings(jumbo: Lab) -> None:
    """No frame is lost over 3,000 long packets: they go back as soon as they are joined."""
    with Wire(jumbo) as wire, socket_of(jumbo) as sock:
        for first in range(0, 3000, 50):
            packets = [frame(first + i, 60 + (first + i) * 37 % 8900) for i in range(50)]
            wire.send(packets)
            assert collect(sock.receive, 50) == packets
        audit = sock.umem.audit()
        assert audit["received"] == audit["user"] == audit["tx"] == 0
