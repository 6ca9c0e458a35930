# SPDX-License-Identifier: Apache-2.0
"""Coalescer: delays while packets come steadily, and only then; played against a simulated stream and clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from toolkit.wait import coalesce
from toolkit.wait.coalesce import LONGEST_DELAY, Coalescer

WORK = 20e-6  # seconds that a batch takes


class Play:
    """A receiver with one queue, on a clock that only its own work, delays and waits move."""

    def __init__(self, coalescer: Coalescer, arrived: Callable[[float], int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.coalescer = coalescer
        self.arrived = arrived  # packets that have come until a time
        self.taken = 0
        self.batches: list[int] = []
        self.delays: list[float] = []
        monkeypatch.setattr(coalesce.time, "monotonic", lambda: self.now)

    def receive(self) -> None:
        """Do what Interface.receive() does."""
        self.coalescer.turns = 0
        delay = self.coalescer.delay(None)
        self.now += delay
        if delay:
            self.delays.append(delay)
        n = self.arrived(self.now) - self.taken
        if n == 0:
            self.coalescer.idle()
            while (n := self.arrived(self.now) - self.taken) == 0:
                self.now += 1e-6
        self.taken += n
        self.batches.append(n)
        self.coalescer.note(n)
        self.now += WORK

    def run(self, seconds: float) -> None:
        """Receive for that long, on the simulated clock."""
        end = self.now + seconds
        while self.now < end:
            self.receive()


@pytest.mark.parametrize("rate", [20_000, 50_000, 200_000, 500_000])
def test_a_steady_stream_comes_in_few_batches(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(Coalescer(LONGEST_DELAY, 8192), lambda now: int(now * rate), monkeypatch)
    play.run(0.1)
    play.batches.clear()
    play.run(1.0)
    expected = min(rate * LONGEST_DELAY, 256)
    assert sum(play.batches) / len(play.batches) > 0.8 * expected
    assert max(play.delays) <= LONGEST_DELAY
    assert max(play.batches) <= 2 * 256


@pytest.mark.parametrize("rate", [1, 1_000, 9_000])
def test_a_slow_stream_is_never_delayed(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(Coalescer(LONGEST_DELAY, 8192), lambda now: int(now * rate), monkeypatch)
    play.run(3.0)
    assert play.delays == []


def test_a_stream_faster_than_the_receiver_is_not_delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(Coalescer(LONGEST_DELAY, 8192), lambda now: int(now * 40e6), monkeypatch)
    play.run(0.1)
    assert play.delays == []


def test_a_conversation_is_delayed_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each packet comes 10 us after the answer to the one before: 33 000/s, if nobody delays."""
    play: Play
    due = [0.0]

    def arrived(now: float) -> int:
        return play.taken + (now >= due[0])

    play = Play(Coalescer(LONGEST_DELAY, 8192), arrived, monkeypatch)
    while play.now < 20.0:
        play.receive()
        due[0] = play.now + 10e-6
    assert 0 < len(play.delays) < 2 * (20 + 8)
    assert len(play.batches) > 0.95 * 20 / 30e-6


def test_a_burst_between_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays continue after a pause, and there is none during it."""

    def arrived(now: float) -> int:
        cycle, within = divmod(now, 0.1)
        return int(cycle) * 10_000 + int(min(within, 0.05) * 200_000)

    play = Play(Coalescer(LONGEST_DELAY, 8192), arrived, monkeypatch)
    play.run(2.0)
    assert play.taken / len(play.batches) > 100
    assert len(play.delays) < 2.0 * 1200 / 2


@pytest.mark.parametrize(("longest", "ring"), [(0.0, 8192), (LONGEST_DELAY, 255), (LONGEST_DELAY, 64)])
def test_no_delay_when_asked_for_none_or_when_the_ring_is_small(
    longest: float, ring: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(Coalescer(longest, ring), lambda now: int(now * 200_000), monkeypatch)
    play.run(1.0)
    assert play.delays == []


@pytest.mark.parametrize("ring", [256, 1024, 8192])
@pytest.mark.parametrize("jump", [400_000, 2_000_000, 8_000_000])
def test_a_delay_leaves_room_in_the_ring(ring: int, jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the moment when the rate jumps: only that one delay was planned for less."""

    def arrived(now: float) -> int:
        return int(now * 200_000 + max(now - 0.5, 0) * (jump - 200_000))

    play = Play(Coalescer(LONGEST_DELAY, ring), arrived, monkeypatch)
    play.run(0.495)
    assert max(play.batches) <= ring / 8 * 1.3
    play.run(0.1)
    assert sum(n > ring / 8 * 1.3 + WORK * jump for n in play.batches) <= 2


def test_a_short_timeout_bounds_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(Coalescer(LONGEST_DELAY, 8192), lambda now: int(now * 200_000), monkeypatch)
    play.run(0.1)
    assert play.coalescer.active
    assert play.coalescer.delay(0) == 0.0
    assert play.coalescer.delay(0.0002) <= 0.0002
