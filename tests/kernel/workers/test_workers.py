# SPDX-License-Identifier: Apache-2.0
"""One process a queue: every packet in one worker, and results merged."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable

import pytest

import toolkit
from tests.helpers import worker_jobs
from tests.helpers.wire import eventually
from tests.helpers.workers import gone, is_attached, send, two_cpus
from toolkit.errors import ClosedError
from toolkit.lab import Lab
from toolkit.workers import Workers, current


@two_cpus
def test_every_packet_is_received_by_the_worker_of_its_queue(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(cpus=[0, 1])
    assert [send(wide, queue=0, count=3000), send(wide, queue=1, count=5000)] == [3000, 5000]
    workers.stop()
    first, second = workers.results(timeout=10)
    assert (first["queues"], second["queues"]) == ({0: 3000}, {1: 5000})
    assert first["pid"] != second["pid"] != os.getpid()
    assert (first["cpus"], second["cpus"]) == ([0], [1])
    assert workers.counters()["redirected"] == 8000
    assert workers.reports[:, 0].tolist() == [3000, 5000]


@two_cpus
def test_a_flood_on_both_queues_reconciles_to_the_packet(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.fast)
    with wide.generator(seconds=0.5, cpu=0) as first, wide.generator(seconds=0.5, cpu=1) as second:
        sent = first.wait(10).sent + second.wait(10).sent
    workers.stop()
    results = workers.results(timeout=10)
    redirected = workers.counters()["redirected"]
    assert sum(received + dropped for received, dropped, _ in results) == redirected
    assert 0 < redirected <= sent
    assert all(received > 0 for received, _, _ in results)


def test_stop_under_fire_reconciles(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start()
    with wide.generator(cpu=0):
        assert eventually(lambda: workers.counters()["redirected"] > 1000)
        workers.stop()
        results = workers.results(timeout=10)
    assert sum(one["received"] + one["dropped"] for one in results) == workers.counters()["redirected"] > 0
    assert all(one["stopping"] for one in results)


def test_work_that_reads_the_flag_has_received_everything(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.slowly_until_stopped)
    send(wide, queue=0, count=1000, rate=1_000_000)
    workers.stop()
    results = workers.results(timeout=10)
    assert sum(results) == workers.counters()["redirected"] == 1000


def test_payloads_arrive_whole_and_once(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.payloads)
    sent = [f"datagram {number}".encode() for number in range(500)]
    assert wide.udp(sent, rate=20_000) == 500
    assert eventually(lambda: workers.counters()["redirected"] >= 500)
    workers.stop()
    seen = [packet[42 : 42 + len(b"datagram 0") + 2].rstrip(b"\0") for one in workers.results(10) for packet in one]
    assert sorted(seen) == sorted(sent)


def test_packets_of_several_frames_arrive_whole(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(mtu=9000)
    sent = [bytes([i]) * length for i, length in enumerate((10, 3900, 8972))]
    with Workers(lab.interface, worker_jobs.payloads, filter="udp", netns=lab.netns, ring_size=256) as workers:
        lab.udp(sent)
        assert eventually(lambda: workers.counters()["redirected"] == 3)
        workers.stop()
        (seen,) = workers.results(10)
    assert [packet[42:] for packet in seen] == sent


def test_one_worker_serves_several_queues(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=4)
    with Workers(lab.interface, worker_jobs.count, filter="udp", workers=2, netns=lab.netns, ring_size=1024) as workers:
        assert workers.queues == ((0, 2), (1, 3))
        assert workers.info()["queues"] == [0, 1, 2, 3]
        assert workers.info()["frames"] == 4 * 1280
        lab.udp(count=100)
        assert eventually(lambda: workers.counters()["redirected"] >= 100)
        workers.stop()
        assert sum(one["received"] for one in workers.results(10)) == 100


def test_a_program_of_ones_own_is_used_and_stays_open(
    wide: Lab, start: Callable[..., Workers], program: toolkit.Program
) -> None:
    workers = start(program=program)
    wide.udp(count=50)
    assert eventually(lambda: workers.counters()["redirected"] >= 50)
    workers.stop()
    assert sum(one["received"] for one in workers.results(10)) == 50
    workers.close()
    assert not program.closed
    assert program.counters()["redirected"] == 50
    assert not is_attached(wide)


def test_futures_go_with_concurrent_futures(start: Callable[..., Workers]) -> None:
    workers = start()
    with pytest.raises(TimeoutError, match="2 of 2 workers have not ended"):
        workers.results(timeout=0.05)
    workers.stop()
    numbers = {future.result()["number"] for future in concurrent.futures.as_completed(workers.futures, timeout=10)}
    assert numbers == {0, 1}
    assert workers.alive == 0


def test_nothing_is_left_after_close(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start()
    pids = workers.pids
    assert is_attached(wide)
    assert "2 of 2 at work, native" in repr(workers)
    workers.close()
    workers.close()
    assert not is_attached(wide)
    assert all(gone(pid) for pid in pids)
    assert "closed" in repr(workers)
    with pytest.raises(ClosedError):
        workers.stop()
    with toolkit.open(wide.interface, filter="udp", netns=wide.netns):  # the queues are free
        pass


def test_this_process_is_no_worker() -> None:
    assert current() is None
