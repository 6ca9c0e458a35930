# SPDX-License-Identifier: Apache-2.0
"""Arrival times in UTC: between the sender's readings of the clock before and after, give or take 10 us."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.wire import Wire, eventually, frame, number_of, piece_by_piece
from toolkit._base.clock import UTCClock
from toolkit.lab import Lab
from toolkit.program import Program

pytestmark = pytest.mark.timing("it compares clocks that are read one after the other")

TOLERANCE = 10_000  # ns
MODES = ("native", "generic")
FILTER = "ether proto 0x88b5"

# What a program of the user's own may be: no time is written in front of the packet.
BARE = """
#include <uapi/linux/bpf.h>
BPF_XSKMAP(xsks_map, 64);
int bare(struct xdp_md *ctx)
{
    return xsks_map.redirect_map(ctx->rx_queue_index, 0);
}
"""

Readings = list[tuple[int, int]]


@pytest.fixture(params=MODES)
def near(lab: Lab, request: pytest.FixtureRequest) -> Iterator[toolkit.Interface]:
    with toolkit.open(lab.interface, netns=lab.netns, filter=FILTER, mode=request.param) as interface:
        assert interface.mode == request.param
        yield interface


def send(wire: Wire, first: int, count: int) -> Readings:
    """Send numbered frames one by one; the wall clock before and after each."""
    readings = []
    for number in range(first, first + count):
        one = frame(number)
        before = time.time_ns()
        wire.sock.send(one)
        readings.append((before, time.time_ns()))
    return readings


def received(near: toolkit.Interface, count: int) -> list[toolkit.Batch]:
    """Copies of Batches of `count` packets in all."""
    kept: list[toolkit.Batch] = []
    while sum(map(len, kept)) < count:
        batch = near.receive(timeout=10)
        assert batch, "a packet is missing"
        kept.append(batch.copy())
    return kept


def outside(batches: list[toolkit.Batch], readings: Readings) -> int:
    """How many times are later than the sender's second reading: none may be earlier than the first, or in the future.

    The kernel may hand a packet over a moment after send() returned: when its softirq had to wait for a CPU.
    """
    late = 0
    for batch in batches:
        now = time.time_ns()
        for packet, at in zip(batch, batch.timestamps.view(np.int64).tolist(), strict=True):
            before, after = readings[number_of(packet)]
            assert before - TOLERANCE <= at <= now + TOLERANCE, (at - before, at - after)
            late += at > after + TOLERANCE
    return late


def test_between_the_sender_s_readings(near: toolkit.Interface, wire: Wire) -> None:
    readings = send(wire, 0, 20)  # the first packets warm the paths up
    outside(received(near, 20), readings)
    rounds = []
    for first in range(20, 2020, 100):
        readings += send(wire, first, 100)
        rounds.append(outside(received(near, 100), readings))
        if len(rounds) >= 3 and 0 in rounds:
            break
    assert 0 in rounds, f"of 100 packets each time later than the sender's second reading: {rounds}"


def test_packets_that_waited_and_batches_that_were_kept(near: toolkit.Interface, wire: Wire) -> None:
    """Not the moment of reading counts, nor that of asking."""
    wire.send([frame(0)])
    received(near, 1)  # the clocks were paired at some time before
    readings = [(0, 0), *send(wire, 1, 50)]
    time.sleep(1.2)
    batch = near.receive(timeout=5)
    copies = [batch.copy()]
    time.sleep(0.5)
    times = batch.timestamps
    assert outside([batch], readings) < 25, "most were handed over at once"
    assert len(batch) == 50
    thawed = pickle.loads(pickle.dumps(batch))
    for one in (*copies, thawed, thawed.copy(), pickle.loads(pickle.dumps(copies[0]))):
        assert np.abs((one.timestamps - times).astype(np.int64)).max() < TOLERANCE
        assert (one.arrival_ns == batch.arrival_ns).all()
    assert (thawed.timestamps == batch.timestamps).all()


def test_a_pickled_batch_keeps_its_times_on_another_machine(
    near: toolkit.Interface, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLOCK_MONOTONIC means something else there."""
    readings = send(wire, 0, 10)
    kept = pickle.dumps(near.receive(timeout=5))
    monkeypatch.setattr("toolkit.batch.batch.clock", UTCClock(lambda: 5, lambda: 7))
    thawed = pickle.loads(kept)
    assert len(thawed) > 0
    outside([thawed], readings)


def test_times_are_in_order_and_all_there(near: toolkit.Interface, wire: Wire) -> None:
    readings = send(wire, 0, 1000)
    batches = received(near, 1000)
    times = np.concatenate([one.timestamps for one in batches])
    assert not np.isnat(times).any()
    assert (np.diff(times).astype(np.int64) >= -TOLERANCE).all()
    outside(batches, readings)


@pytest.mark.parametrize("mode", MODES)
def test_packets_without_a_time_say_so(lab: Lab, wire: Wire, mode: str) -> None:
    with (
        toolkit.UMEM(256) as umem,
        Program.build(BARE) as program,
        toolkit.Socket(lab.interface, 0, umem, netns=lab.netns, prefill=64) as sock,
        piece_by_piece(program, lab, sock, mode=mode),
    ):
        wire.send([frame(i) for i in range(8)])
        kept: list[toolkit.Batch] = []

        def count() -> bool:
            kept.append(sock.receive(timeout=1).copy())
            return sum(map(len, kept)) >= 8

        assert eventually(count)
        for batch in kept:
            assert np.isnat(batch.timestamps).all()
            assert (batch.arrival_ns == 0).all()
            assert np.isnat(pickle.loads(pickle.dumps(batch)).timestamps).all()


@pytest.mark.parametrize("mode", MODES)
def test_times_that_nobody_wants_are_left_out(lab: Lab, wire: Wire, mode: Any) -> None:
    packets = [frame(i, 60 + i) for i in range(8)]
    with toolkit.open(lab.interface, filter="all", mode=mode, timestamps=False, ring_size=64, netns=lab.netns) as near:
        wire.send(packets)
        kept: list[toolkit.Batch] = []

        def count() -> bool:
            kept.append(near.receive(timeout=1).copy())
            return sum(map(len, kept)) >= 8

        assert eventually(count)
        counters = near.counters()
    assert counters["untimed"] == counters["redirected"] == 8
    assert [bytes(packet) for batch in kept for packet in batch] == packets
    assert all(np.isnat(batch.timestamps).all() for batch in kept)
    assert np.concatenate([batch.wire_lengths for batch in kept]).tolist() == [len(packet) for packet in packets]
