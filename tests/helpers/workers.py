# SPDX-License-Identifier: Apache-2.0
"""Workers on a cable, traffic for one of their queues, and what became of their processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers import worker_jobs
from toolkit.lab import Lab
from toolkit.program import attached
from toolkit.workers import Workers

__all__ = ["gone", "is_attached", "send", "starting", "two_cpus"]

MANY_CPUS = len(os.sched_getaffinity(0)) > 1
two_cpus = pytest.mark.skipif(not MANY_CPUS, reason="a veth fills two queues from two CPUs only")


def starting(lab: Lab) -> Iterator[Callable[..., Workers]]:
    """For a fixture: start workers on this cable: all packets, two workers, unless asked otherwise. All are closed."""
    made: list[Workers] = []

    def begin(work: Callable[..., Any] = worker_jobs.count, **options: Any) -> Workers:
        if "program" not in options:
            options.setdefault("filter", "udp")
        made.append(Workers(lab.interface, work, **{"workers": 2, "netns": lab.netns, "ring_size": 2048, **options}))
        return made[-1]

    yield begin
    for one in made:
        one.close()


def send(lab: Lab, *, queue: int, count: int, rate: float = 50_000) -> int:
    """Send `count` frames to a queue of the near end; how many really went out."""
    with lab.generator(count=count, rate=rate, cpu=queue) as generator:
        report = generator.wait(20)
    assert report.lost == 0
    return int(report.sent)


def gone(pid: int | None) -> bool:
    """Whether a process has ended (a zombie has, too)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def is_attached(lab: Lab) -> bool:
    with lab.netns.entered():
        return attached(socket.if_nametoindex(lab.interface)) is not None
