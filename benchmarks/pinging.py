# SPDX-License-Identifier: Apache-2.0
"""Round trips of the system's ping, with a program that answers at the near end."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.consumer import Consumer, PeerError
from benchmarks.isolation import Cores
from toolkit.lab import Lab

__all__ = ["Pinged", "pinging"]

_WARM_UP = 500  # round trips


@dataclass(frozen=True)
class Pinged:
    """The report of ping. Times in microseconds, which include ping's own system calls."""

    adaptive: float  # median round trip of ping -A: the next request follows the answer
    flood: float  # mean round trip of ping -f, which does not print each one
    lost: int  # of both
    answers: int


def pinging(start: Callable[[Lab], Consumer] | None, where: Cores, count: int) -> Pinged:
    """Send `count` requests with ping -A, and as many with ping -f. start: None leaves the answers to the kernel."""
    with Lab() as lab, contextlib.ExitStack() as parts:
        if start is not None:
            consumer = parts.enter_context(contextlib.closing(start(lab)))
            consumer.start()
        if _ping(lab, where, "-q", 1)[1]:
            raise PeerError("nobody answers ping")
        _ping(lab, where, "-A", _WARM_UP)
        adaptive, lost = _ping(lab, where, "-A", count)
        flood, also_lost = _ping(lab, where, "-f", count)
    times = [float(found) * 1e3 for found in re.findall(r"time=([\d.]+) ms", adaptive)]
    mean = re.search(r"= [\d.]+/([\d.]+)/", flood)
    if not times or mean is None:
        raise PeerError(f"ping had no answers: {flood.strip()}")
    return Pinged(statistics.median(times), float(mean[1]) * 1e3, lost + also_lost, 2 * count - lost - also_lost)


def _ping(lab: Lab, where: Cores, kind: str, count: int) -> tuple[str, int]:
    command = ["taskset", "-c", str(where.generator), "ping", "-n", kind, "-c", str(count), "-W", "1", lab.ip]
    done = lab.far.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    summary = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", done.stdout)
    if summary is None:
        raise PeerError(f"ping failed: {done.stdout.strip()}")
    return done.stdout, int(summary[1]) - int(summary[2])
