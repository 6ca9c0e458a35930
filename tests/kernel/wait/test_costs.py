# SPDX-License-Identifier: Apache-2.0
"""What waiting costs: the CPU, other threads, and delays while packets come steadily."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.waiting import MODES, ROOMY, busy_polling_or_not, check_whole, near
from tests.helpers.wire import Wire, frame, stamps
from toolkit.lab import Lab
from toolkit.wait.waiter import WaitMode

pytestmark = busy_polling_or_not


def compute() -> None:
    """Plain Python for a while."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass


@pytest.mark.alone("the share of a CPU that a spinner gets")
@pytest.mark.parametrize("mode", MODES)
def test_poll_sleeps_and_the_others_do_not(lab: Lab, mode: WaitMode) -> None:
    shares: dict[str, list[float]] = {"compute": [], "wait": []}
    with near(lab, mode) as interface:
        for _ in range(3):  # in turn: a busy machine is as busy for both
            for name, work in (("compute", compute), ("wait", lambda: interface.receive(timeout=0.3))):
                cpu, wall = time.thread_time(), time.monotonic()
                work()
                shares[name].append((time.thread_time() - cpu) / (time.monotonic() - wall))
    spent = statistics.median(shares["wait"])
    assert spent < 0.05 if mode == "poll" else spent > 0.5 * statistics.median(shares["compute"]), shares


@pytest.mark.alone("delays of a millisecond, which others lengthen")
@pytest.mark.parametrize("mode", ["spin", "busy-poll"])
def test_other_threads_go_on_beside_a_spinner(lab: Lab, mode: WaitMode) -> None:
    """A thread that wants the GIL now and then gets it no later than beside a loop of plain Python."""

    def delays(busy: Callable[[], object]) -> list[float]:
        """How long a sleep of 1 ms takes in another thread, while this one is `busy`."""
        found: list[float] = []
        stop = threading.Event()

        def ticks() -> None:
            while not stop.is_set():
                begin = time.monotonic()
                time.sleep(0.001)
                found.append(time.monotonic() - begin)

        thread = threading.Thread(target=ticks)
        thread.start()
        busy()
        stop.set()
        thread.join()
        return found

    beside_python: list[float] = []
    beside_waiter: list[float] = []
    with near(lab, mode) as interface:
        for _ in range(3):  # in turn: a busy machine is as busy for both
            beside_python += delays(compute)
            beside_waiter += delays(lambda: interface.receive(timeout=0.5))
    assert statistics.median(beside_waiter) < 2 * statistics.median(beside_python)


def steady(lab: Lab, rate: float, **options: Any) -> tuple[int, int, int]:
    """(packets, batches, sent) of a second at a steady rate; every number is checked."""
    with near(lab, "poll", ring_size=ROOMY, **options) as interface:
        seen: list[np.ndarray[Any, Any]] = []
        with lab.generator(rate=rate, seconds=1.0, cpu=1) as generator:
            while batch := interface.receive(timeout=0.5):
                seen.append(stamps(batch))
            sent = generator.wait(10).sent
        assert interface.statistics().dropped == 0
        numbers = np.concatenate(seen)
        check_whole(numbers, interface.counters()["redirected"], sent)
        return len(numbers), len(seen), sent


@pytest.mark.alone("how many packets come together depends on who else wants the CPUs")
def test_packets_come_together_at_a_steady_rate(lab: Lab) -> None:
    packets, batches, _ = steady(lab, 200_000)
    assert packets / batches > 100
    for _ in range(5):  # a machine that is busy elsewhere lets packets come together as well
        packets, batches, _ = steady(lab, 200_000, coalesce=0)
        if packets / batches < 100:
            break
    assert packets / batches < 100


@pytest.mark.alone("two generators and a receiver at a steady rate want both CPUs")
def test_two_queues_are_both_served_between_delays(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=2)
    with near(lab, "poll", ring_size=ROOMY) as interface:
        got = {0: 0, 1: 0}
        largest = 0
        with (
            lab.generator(rate=40_000, seconds=1.0, cpu=0) as even,
            lab.generator(rate=40_000, seconds=1.0, cpu=1) as odd,
        ):
            while batch := interface.receive(timeout=0.5):
                got[batch.queue] += len(batch)
                largest = max(largest, len(batch))
            sent = even.wait(10).sent, odd.wait(10).sent
        assert sum(got.values()) == interface.counters()["redirected"]
        assert got[even.queue] > 0.95 * sent[0]
        assert got[odd.queue] > 0.95 * sent[1]
        assert interface.statistics().dropped == 0
        assert largest > 4


@pytest.mark.timing("it counts delays, which depend on how fast the answers come")
def test_a_conversation_is_not_delayed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets that each wait for our answer to the one before: no delay in more than a few of them."""
    delays: list[float] = []
    real = time.sleep

    def sleep(seconds: float) -> None:
        delays.append(seconds)
        real(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with near(lab, "poll") as interface, Wire(lab) as wire:
        wire.sock.settimeout(5)
        answered = 0
        begin = time.monotonic()
        for i in range(3000):
            wire.sock.send(frame(i, 60))
            batch = interface.receive(timeout=5.0)
            assert len(batch) == 1
            interface.send(batch)
            wire.sock.recv(100)
            answered += 1
        elapsed = time.monotonic() - begin
    assert answered == 3000
    assert len(delays) <= 8 + elapsed
