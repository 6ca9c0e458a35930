# SPDX-License-Identifier: Apache-2.0
"""From CLOCK_MONOTONIC to UTC: drift is followed, steps are noticed, an interrupted reading is not believed."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest

from toolkit._base.clock import NAT, UTCClock

pytestmark = pytest.mark.timing("it compares clocks that are read one after the other")

EPOCH = 1_700_000_000_000_000_000  # ns: UTC when the monotonic clock was at 0
SECOND = 1_000_000_000


class Clocks:
    """Two clocks of a test's own. UTC runs `ppm` faster; reading one takes 50 ns."""

    def __init__(self, ppm: float = 0.0) -> None:
        self.now = 5 * SECOND  # monotonic ns
        self.ppm = ppm
        self.offset = EPOCH

    def _tick(self) -> None:
        self.now += 50

    def monotonic(self) -> int:
        self._tick()
        return self.now

    def utc(self) -> int:
        self._tick()
        return self.true(self.now)

    def true(self, monotonic: int) -> int:
        return monotonic + self.offset + int(monotonic * self.ppm / 1e6)


def convert(clock: UTCClock, *times: int) -> list[int]:
    return [int(one) for one in clock.to_utc(np.array(times, dtype=np.int64))]


@pytest.mark.parametrize("ppm", [0, 500, -500, 90])
@pytest.mark.parametrize("pause", [1_000, 20_000, 3_000_000, SECOND, 30 * SECOND])
def test_drift_is_followed(ppm: float, pause: int) -> None:
    """Packets that came at any time between two looks, each converted at the second one."""
    clocks = Clocks(ppm)
    clock = UTCClock(clocks.monotonic, clocks.utc)
    chance = random.Random(1)
    clock.pair()
    for _ in range(200):
        began = clocks.now
        clocks.now += pause
        times = [began + chance.randrange(pause) for _ in range(5)]
        for got, arrival in zip(convert(clock, *times), times, strict=True):
            assert abs(got - clocks.true(arrival)) < 500, "500 ppm of a second would be 500,000 ns"


def test_old_packets_keep_their_time() -> None:
    """A Batch may be asked for its times long after: what was noted meanwhile is thinned out, not forgotten."""
    clocks = Clocks(500)
    clock = UTCClock(clocks.monotonic, clocks.utc)
    times, true = [], []
    for i in range(20_000):
        clocks.now += 2_000_000
        clock.pair()
        if i % 100 == 0:
            times.append(clocks.now)
            true.append(clocks.true(clocks.now))
    assert len(clock._pairings) <= 256
    assert np.abs(clock.to_utc(np.array(times)) - true).max() < 500


@pytest.mark.parametrize("step", [3600 * SECOND, -3600 * SECOND, 50_000_000, -1_000_000_000_000_000_000, 40_000])
def test_a_step_of_the_wall_clock(step: int) -> None:
    clocks = Clocks()
    clock = UTCClock(clocks.monotonic, clocks.utc)
    clock.pair()
    clocks.now += 5_000_000
    clock.pair()
    before = clocks.now
    clocks.offset += step
    clocks.now += 10_000_000
    old, new, last = EPOCH, EPOCH + step, clocks.now
    times = [before - 1_000_000, before + 1_000_000, before + 9_000_000, last]
    for got, arrival, distance in zip(convert(clock, *times), times, [old, old, new, new], strict=True):
        assert abs(got - arrival - distance) < 200, "the time before or after, never something in between"


def test_the_tightest_reading_counts() -> None:
    """Most readings are interrupted; one is not."""
    clocks = Clocks()
    original, count = clocks.utc, [0]

    def disturbed() -> int:
        count[0] += 1
        value = original()
        clocks.now += 0 if count[0] % 15 == 0 else 1_000_000
        return value

    clock = UTCClock(clocks.monotonic, disturbed)
    arrival = clocks.now
    assert abs(convert(clock, arrival)[0] - clocks.true(arrival)) < 100


def test_the_best_of_bad_readings_counts() -> None:
    """None is undisturbed, and the last one is not the best."""
    clocks = Clocks()
    original, count = clocks.utc, [0]

    def disturbed() -> int:
        count[0] += 1
        value = original()
        clocks.now += 1_000 if count[0] == 7 else 1_000_000
        return value

    clock = UTCClock(clocks.monotonic, disturbed)
    arrival = clocks.now
    assert abs(convert(clock, arrival)[0] - clocks.true(arrival)) < 1_000


def test_no_time_stays_no_time() -> None:
    clock = UTCClock()
    assert convert(clock, 0, 1)[0] == NAT
    assert convert(clock, 0, 1)[1] != NAT
    assert np.isnat(clock.to_utc(np.zeros(3, np.int64)).view("datetime64[ns]")).all()
    assert clock.to_utc(np.empty(0, np.int64)).shape == (0,)


def test_times_before_the_first_pairing() -> None:
    clocks = Clocks()
    clock = UTCClock(clocks.monotonic, clocks.utc)
    assert abs(convert(clock, 1 * SECOND)[0] - clocks.true(1 * SECOND)) < 200


def test_a_pairing_that_is_fresh_is_not_made_again() -> None:
    clocks = Clocks()
    clock = UTCClock(clocks.monotonic, clocks.utc)
    clock.pair()
    for _ in range(10):
        clock.pair()
    assert len(clock._pairings) == 1
    clocks.now += 2_000_000
    clock.pair()
    assert len(clock._pairings) == 2


def test_this_machine_s_clocks() -> None:
    clock = UTCClock()
    for _ in range(200):
        before = time.time_ns()
        now = time.monotonic_ns()
        after = time.time_ns()
        (got,) = convert(clock, now)
        assert before - 10_000 <= got <= after + 10_000


def test_from_many_threads() -> None:
    clock, wrong = UTCClock(), []

    def work() -> None:
        for _ in range(300):
            now, utc = time.monotonic_ns(), time.time_ns()
            if abs(convert(clock, now)[0] - utc) > 1_000_000_000:
                wrong.append(now)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (np.diff(clock._pairings[:, 0]) > 0).all()
