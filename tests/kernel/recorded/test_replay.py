# SPDX-License-Identifier: Apache-2.0
"""Replay: what was recorded leaves again, byte for byte, in its own times; the far end's kernel is witness."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.recordings import START, recording
from tests.helpers.sending import Stopwatch, Tap, plain_socket, sent_frames
from tests.helpers.wire import frame
from toolkit.batch.batch import Batch
from toolkit.errors import ArgumentError
from toolkit.lab import Lab
from toolkit.recorded.replay import Replay


def test_scapy_s_file_leaves_as_it_is(lab: Lab, tmp_path: Path) -> None:
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    frames = sent_frames(3000, lengths=range(60, 1500, 37))
    wrpcap(str(tmp_path / "a.pcap"), [Ether(one) for one in frames])
    with Tap.far(lab) as tap, plain_socket(lab, frames=2048, ring=1024) as sock:
        done = toolkit.replay(sock, tmp_path / "a.pcap", speed=None)
        assert tap.take(3000) == frames
        assert sock.flush(5)
    assert (done.packets, done.octets) == (3000, sum(map(len, frames)))
    assert (done.too_long, done.too_short, done.cut) == (0, 0, 0)


@pytest.mark.alone("gaps of milliseconds, which others lengthen")
@pytest.mark.parametrize(("speed", "factor"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0)])
def test_the_times_between_packets_are_kept(lab: Lab, speed: float, factor: float) -> None:
    """None leaves before its time. How late one is depends on the machine: as a rule most are not."""
    times = [0, 5_000_000, 5_100_000, 20_000_000, 100_000_000, 100_000_001, 100_000_002, 250_000_000, 300_000_000]
    frames = sent_frames(len(times))
    with Stopwatch(lab) as tap, plain_socket(lab) as sock:
        tries = []
        while len(tries) < 8 and (not tries or np.median(tries[-1]) > 0.002e9):
            began = time.time_ns()
            done = toolkit.replay(sock, io.BytesIO(recording(frames, times)), speed=speed)
            found = tap.timed(len(times))
            assert sock.flush(5)
            assert [data for data, _ in found] == frames
            late = np.array([at for _, at in found]) - began - np.array(times) * factor
            assert late.min() >= -10_000, late
            assert done.seconds >= 0.3 * factor
            tries.append(late)
    assert np.median(tries[-1]) <= 0.002e9, tries


def test_times_from_1970_on_are_times(lab: Lab) -> None:
    """0 means 0, and not that there is no time: the second of the packets is not sent with the first."""
    times = [0, 50_000_000, 100_000_000]
    frames = sent_frames(len(times))
    with Stopwatch(lab) as tap, plain_socket(lab) as sock:
        began = time.time_ns()
        toolkit.replay(sock, io.BytesIO(recording(frames, [one - START for one in times])))
        late = np.array([at for _, at in tap.timed(len(times))]) - began - np.array(times)
        assert sock.flush(5)
    assert late.min() >= -10_000, late


@pytest.mark.timing("a rate is kept, as far as a CPU is free then")
def test_at_a_rate(lab: Lab) -> None:
    frames = sent_frames(500)
    with Tap.far(lab) as tap, plain_socket(lab) as sock:
        done = toolkit.replay(sock, io.BytesIO(recording(frames, [0] * 500)), rate=2000)
        assert tap.take(500) == frames
        assert sock.flush(5)
    assert 0.2495 <= done.seconds < 2


def test_an_interface_a_batch_a_loop_a_count(lab: Lab, tmp_path: Path) -> None:
    frames = sent_frames(100)
    path = tmp_path / "a.pcap"
    path.write_bytes(recording(frames))
    with Tap.far(lab) as tap, toolkit.open(lab.interface, netns=lab.netns, filter="ip6") as near:
        assert toolkit.replay(near, path, loop=3, speed=None).packets == 300
        assert tap.take(300) == frames * 3
        assert toolkit.replay(near, path, loop=3, count=150, queue=0).packets == 150
        assert tap.take(150) == (frames * 3)[:150]
        with toolkit.read(path, batch_size=30) as recorded:
            batches = list(recorded)
        assert toolkit.replay(near, batches, loop=2).packets == 200
        assert toolkit.replay(near, batches[0]).packets == 30
        assert near.umem.audit()["tx"] == 0, "all have left when it returns"
        assert tap.take(230) == frames * 2 + frames[:30]
        assert near.flush(5)
        with pytest.raises(ArgumentError, match="queue 9 of veth0 was not opened"):
            toolkit.replay(near, path, queue=9)


def test_what_cannot_be_sent_is_left_out_and_counted(lab: Lab) -> None:
    good = [frame(1, 14), frame(2, 1514)]
    tagged = frame(3, 12) + b"\x81\x00\x00\x05" + frame(4, 1502)
    bad = [frame(5, 13), b"", frame(6, 1515), frame(7, 9000), tagged + b"x"]
    mixed = [bad[0], good[0], *bad[1:3], good[1], tagged, *bad[3:]]
    with Tap(lab.far, lab.peer, 3) as tap, plain_socket(lab) as sock:  # ETH_P_ALL
        done = toolkit.replay(sock, io.BytesIO(recording(mixed)))
        lengths = [len(one) for one in tap.take(3, quiet=0.2)]
        assert sock.flush(5)
    assert (done.packets, done.too_short, done.too_long) == (3, 2, 3)
    assert lengths in ([14, 1514, 1518], [14, 1514, 1514]), "the kernel hands over the tag beside the packet"


def test_cut_packets_are_sent_as_they_are(lab: Lab) -> None:
    frames = sent_frames(5, lengths=range(96, 97))
    with Tap.far(lab) as tap, plain_socket(lab) as sock:
        done = toolkit.replay(sock, io.BytesIO(recording(frames, wire=1500)))
        assert tap.take(5) == frames
        assert sock.flush(5)
    assert (done.packets, done.cut) == (5, 5)


def test_arguments(lab: Lab) -> None:
    with plain_socket(lab) as sock:
        for wrong in (
            {"speed": 0},
            {"speed": -1},
            {"speed": float("nan")},
            {"rate": 0},
            {"max_gap": 0},
            {"loop": 0},
            {"count": 0},
        ):
            with pytest.raises(ArgumentError):
                toolkit.replay(sock, io.BytesIO(recording([])), **wrong)
        with pytest.raises(ArgumentError, match="once only"):
            toolkit.replay(sock, io.BytesIO(recording([])), loop=2)
        for once in ("-", iter([])):
            with pytest.raises(ArgumentError, match="once only"):
                toolkit.replay(sock, once, loop=2)
        assert toolkit.replay(sock, io.BytesIO(recording([]))).packets == 0


class Crowded:
    """A Socket whose ring has room for seven packets at a time."""

    def __init__(self, sock: toolkit.Socket) -> None:
        self.umem, self.device, self.tx, self._sock = sock.umem, sock.device, sock.tx, sock

    def send(self, packets: Any, lengths: Any, timeout: float) -> int:
        return self._sock.send(packets[:7], lengths[:7], timeout)


def test_what_finds_no_room_goes_next(lab: Lab) -> None:
    frames = sent_frames(100, lengths=range(60, 90))
    with Tap.far(lab) as tap, plain_socket(lab) as sock:
        player = Replay(Crowded(sock), speed=None)
        player.round(io.BytesIO(recording(frames)))
        assert tap.take(100) == frames
        assert sock.flush(5)
    assert player.statistics()[:2] == (100, sum(map(len, frames)))


def test_times_that_jump_or_are_missing() -> None:
    """Due as the one before; a step back, or a gap between rounds, costs no wait and no rush."""
    times = [np.array(one) for one in ([None, 5, 7, None, 6, 16], [None], [100, 90, 95])]
    player = Replay.__new__(Replay)
    player._speed, player._rate, player._due, player._last = 2.0, None, 0.0, np.iinfo(np.int64).min
    player._most = float("inf")
    due = []
    for some in times:
        ns = np.array([np.iinfo(np.int64).min if one is None else START + one for one in some], dtype=np.int64)
        due += player._schedule(ns).tolist()
    assert due == [0, 0, 1, 1, 1, 5.5, 5.5, 47.5, 47.5, 47.5]


def test_queues_that_take_turns_do_not_stretch_time_and_a_clock_set_back_does_not_stop_it() -> None:
    player = Replay.__new__(Replay)
    player._speed, player._rate, player._due, player._last = 1.0, None, 0.0, np.iinfo(np.int64).min
    player._most = float("inf")
    due: list[float] = []
    for first in range(0, 10_000, 1000):  # the packets of two queues in the same microsecond, then of the next one
        for queue in (0, 1):
            due += player._schedule(START + first + queue + np.arange(0, 1000, 10)).tolist()
    assert max(due) == 9991
    assert due == sorted(due)
    hour = 3600 * 1_000_000_000
    due = player._schedule(START + 10_000 - hour + np.arange(0, 1000, 10)).tolist()
    assert due == [9991 + step for step in range(0, 1000, 10)]


def test_an_empty_batch_is_nothing(lab: Lab) -> None:
    empty = Batch(None, np.empty((0, 2), np.uint64), memory=np.empty(0, np.uint8))
    with plain_socket(lab) as sock:
        assert toolkit.replay(sock, [empty, empty])[:2] == (0, 0)


def test_nothing_is_lost_on_the_way(lab: Lab) -> None:
    """A recording of what was replayed is the recording."""
    frames = sent_frames(2000, lengths=range(60, 400))
    with (
        toolkit.open(lab.interface, netns=lab.netns, filter="ether proto 0x88b5") as near,
        toolkit.UMEM(4096) as umem,
        toolkit.Socket(lab.peer, umem=umem, rx=False, netns=lab.far) as sock,
    ):
        sent = toolkit.replay(sock, io.BytesIO(recording(frames)))
        got: list[bytes] = []
        deadline = time.monotonic() + 10
        while len(got) < 2000 and time.monotonic() < deadline:
            got += [bytes(one) for one in near.receive(timeout=1)]
        assert sock.flush(5)
    assert sent.packets == 2000
    assert got == frames
