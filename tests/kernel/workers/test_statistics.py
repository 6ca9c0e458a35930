# SPDX-License-Identifier: Apache-2.0
"""What the kernel counts for the sockets of all workers, asked for in the parent: while they work, and afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.helpers import worker_jobs
from tests.helpers.wire import eventually
from toolkit.errors import ClosedError
from toolkit.lab import Lab
from toolkit.workers import Workers


def overload(lab: Lab, *, queue: int = 0) -> int:
    """Send 500 frames to a queue whose ring has room for 64; how many the program saw."""
    before = lab.counters()["rx_packets"]
    with lab.generator(count=500, rate=50_000, cpu=queue) as generator:
        sent = generator.wait(20).sent
    assert eventually(lambda: lab.counters()["rx_packets"] >= before + sent)
    return int(sent)


def test_of_workers_at_work_they_are_of_all_queues(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.never_return, ring_size=64)
    assert workers.statistics().dropped == 0
    sent = overload(wide, queue=0) + overload(wide, queue=1)
    assert workers.statistics().dropped == sent - 2 * 64
    workers.close()
    with pytest.raises(ClosedError):
        workers.statistics()


def test_of_workers_that_have_ended_they_are_those_of_their_end(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.count, ring_size=64)
    with wide.generator(seconds=0.3) as generator:
        generator.wait(20)
    workers.stop()
    results = workers.results(timeout=20)
    received = sum(one["received"] for one in results)
    assert workers.statistics().dropped == sum(one["dropped"] for one in results)
    assert received + workers.statistics().dropped == workers.counters()["redirected"] > 0


def test_one_that_failed_does_not_take_its_counts_along(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.fail_when_packets_are_dropped, ring_size=64)
    overload(wide)
    with pytest.raises(ZeroDivisionError):
        workers.futures[0].result(timeout=20)
    assert workers.statistics().dropped > 0


def test_one_that_was_killed_counts_as_last_asked(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.never_return, ring_size=64)
    sent = overload(wide)
    before = workers.statistics()
    assert before.dropped == sent - 64
    assert workers.pids[0] is not None
    os.kill(workers.pids[0], signal.SIGKILL)
    assert eventually(lambda: workers.alive == 1)
    assert workers.statistics() == before


@pytest.mark.timing("it is answered within a part of a second")
def test_one_that_does_not_answer_costs_a_second(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.never_return, ring_size=64)
    before = workers.statistics()
    assert workers.pids[0] is not None
    os.kill(workers.pids[0], signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert workers.statistics() == before
        assert 0.9 < time.monotonic() - began < 5
    finally:
        os.kill(workers.pids[0], signal.SIGCONT)
    began = time.monotonic()
    assert workers.statistics() == before
    assert time.monotonic() - began < 0.9
