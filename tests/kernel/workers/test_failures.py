# SPDX-License-Identifier: Apache-2.0
"""Workers that fail, die or do not return take nobody along; what cannot work is refused, and undone."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from tests.helpers import worker_jobs
from tests.helpers.wire import eventually
from tests.helpers.workers import gone, is_attached, send, two_cpus
from toolkit.errors import ArgumentError, SystemCallError
from toolkit.lab import Lab
from toolkit.workers import WorkerError, Workers


@two_cpus
def test_a_killed_worker_takes_nobody_along(
    wide: Lab, start: Callable[..., Workers], caplog: pytest.LogCaptureFixture
) -> None:
    workers = start()
    assert send(wide, queue=0, count=100) == 100
    eventually(lambda: workers.reports[0, 0] == 100)
    victim = workers.pids[0]
    assert victim is not None
    with caplog.at_level(logging.WARNING, logger="toolkit.workers"):
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"worker 0 of veth0 \(queues 0; pid \d+\) was killed by SIGKILL"):
            workers.futures[0].result(timeout=20)
    assert "was killed by SIGKILL" in caplog.text
    assert workers.alive == 1
    before = workers.counters()
    # Its XSKMAP entry went with its socket: the kernel gets what it would have got; the other worker is not disturbed.
    assert send(wide, queue=0, count=200) == 200
    assert send(wide, queue=1, count=300) == 300
    workers.stop()
    after = workers.counters()
    assert after["no_socket"] - before["no_socket"] == 200
    assert after["redirected"] - before["redirected"] == 300
    assert workers.futures[1].result(timeout=20)["queues"] == {1: 300}
    assert workers.reports[0, 0] == 100  # what it had told is not lost
    with pytest.raises(WorkerError, match="SIGKILL"):
        workers.results(timeout=20)


@two_cpus
def test_an_exception_in_a_worker_is_its_own(
    wide: Lab, start: Callable[..., Workers], caplog: pytest.LogCaptureFixture
) -> None:
    workers = start(worker_jobs.raise_in_first)
    send(wide, queue=0, count=1)
    with pytest.raises(ZeroDivisionError, match="on purpose") as raised:
        workers.futures[0].result(timeout=20)
    assert "raise_in_first" in str(raised.value.__cause__)  # the worker's own traceback
    assert "on purpose" in caplog.text
    eventually(lambda: gone(workers.pids[0]))
    before = workers.counters()
    send(wide, queue=0, count=70)
    send(wide, queue=1, count=90)
    workers.stop()
    assert workers.counters()["no_socket"] - before["no_socket"] == 70
    assert workers.futures[1].result(timeout=20)["queues"] == {1: 90}


def test_a_result_that_cannot_travel_is_an_error_not_a_hang(start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.unpicklable)
    workers.stop()
    with pytest.raises(Exception, match=r"pickle|local object"):
        workers.results(timeout=20)


def test_a_worker_that_leaves_without_a_word(start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.exit_at_once)
    with pytest.raises(WorkerError, match="ended with status 7 and no result"):
        workers.results(timeout=20)


def test_sigterm_ends_one_worker_with_its_result_under_fire(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start()
    with wide.generator(rate=100_000, cpu=0):
        assert eventually(lambda: workers.reports[0, 0] > 1000)
        assert workers.pids[0] is not None
        os.kill(workers.pids[0], signal.SIGTERM)
        result = workers.futures[0].result(timeout=20)
        # Its queue was taken out of the map first, and the kernel gets the packets: nothing is in flight.
        assert result["received"] + result["dropped"] == workers.counters()["redirected"]
        assert result["stopping"] is True
    assert workers.alive == 1
    assert workers.counters()["no_socket"] > 0


def test_close_kills_what_does_not_return(
    wide: Lab, start: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit._base.closing.CLOSE_TIMEOUT", 0.3)
    workers = start(worker_jobs.never_return)
    pids = workers.pids
    workers.close()
    assert all(gone(pid) for pid in pids)
    assert not is_attached(wide)


def test_forgotten_workers_end(start: Callable[..., Workers], wide: Lab) -> None:
    workers = Workers(wide.interface, worker_jobs.count, filter="udp", workers=2, netns=wide.netns, ring_size=1024)
    pids = workers.pids
    del workers
    gc.collect()
    assert eventually(lambda: all(gone(pid) for pid in pids))
    assert not is_attached(wide)


def test_what_a_worker_refuses_at_the_start_is_raised_and_undone(wide: Lab, start: Callable[..., Workers]) -> None:
    with pytest.raises(SystemCallError, match="zero-copy"):
        start(zero_copy=True)
    assert not is_attached(wide)
    gc.collect()
    before = sum(isinstance(one, Workers) for one in gc.get_objects())
    with pytest.raises(TypeError, match="no_such_option"):
        start(no_such_option=1)
    gc.collect()
    assert sum(isinstance(one, Workers) for one in gc.get_objects()) == before  # the error keeps nothing alive
    # One queue is taken: the worker that could bind goes as well.
    with (
        toolkit.Socket(wide.interface, 1, netns=wide.netns),
        pytest.raises(SystemCallError, match="queue 1 of veth0"),
    ):
        start()
    assert not is_attached(wide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 3}, "3 workers for 2 queue"),
        ({"workers": 0}, "0 workers"),
        ({"filter": None}, "nothing says which packets"),
        ({"cpus": [0]}, "one CPU for each of the 2 workers"),
        ({"cpus": [0, 4095]}, "4095"),
        ({"work": lambda interface: None}, "top level of a module"),
    ],
)
def test_arguments_are_checked_before_anything_starts(
    wide: Lab, start: Callable[..., Workers], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        start(**options)
    assert not is_attached(wide)
