# SPDX-License-Identifier: Apache-2.0
"""Receiving at rate: the live-frame generator on one CPU, one receiving process on the other."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import toolkit
from toolkit.lab import Lab
from toolkit.program import Program


@dataclass(frozen=True)
class Receiving:
    """One run. Rates in packets/s."""

    offered: float  # sent by the generator
    redirected: int
    received: int
    dropped: int
    rate: float
    cpu: float  # of one core, in the receiving process
    mean_batch: float
    octets: int  # 0 unless lengths were summed

    @property
    def share(self) -> float:
        """Received of redirected."""
        return self.received / max(self.redirected, 1)


def pin() -> tuple[int, int]:
    """Put this process on one CPU and name another for the generator: (ours, the generator's)."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SystemExit("bench: needs two CPUs, one for each side")
    return cpus[0], cpus[-1]


def receive(seconds: float, *, rate: float | None = None, sum_lengths: bool = False, **options: Any) -> Receiving:
    """Receive for `seconds` from a generator of `rate` (None: full speed) into an Interface opened with `options`."""
    ours, generators = pin()
    with Lab() as lab, toolkit.open(lab.interface, filter="udp", netns=lab.netns, **options) as interface:
        with lab.generator(seconds=seconds, rate=rate, cpu=generators) as generator:
            with undisturbed(ours):
                received, batches, octets, cpu, elapsed = _loop(interface, sum_lengths)
            report = generator.wait(10)
        interface.detach()
        while batch := interface.receive(timeout=0.05):
            received += len(batch)
        redirected, dropped = interface.counters()["redirected"], interface.statistics().dropped
    assert received + dropped == redirected, (received, dropped, redirected)
    return Receiving(
        report.rate,
        redirected,
        received,
        dropped,
        received / elapsed,
        cpu / elapsed,
        received / max(batches, 1),
        octets,
    )


@contextlib.contextmanager
def undisturbed(cpu: int) -> Iterator[None]:
    """Keep this thread on `cpu` and before everything else that wants it: other load on the machine is not measured."""
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, affinity)


def _loop(interface: toolkit.Interface, sum_lengths: bool) -> tuple[int, int, int, float, float]:
    received = batches = octets = 0
    while not (batch := interface.receive(timeout=1.0)):
        pass
    cpu, began = time.process_time(), time.perf_counter()
    while batch:
        received += len(batch)
        batches += 1
        if sum_lengths:
            octets += int(batch.lengths.sum())
        batch = interface.receive(timeout=0.1)
        last = time.perf_counter()
    return received, batches, octets, time.process_time() - cpu, max(last - 0.1 - began, 1e-9)


def ceiling(seconds: float) -> float:
    """Packets/s that an XDP program which drops everything in the driver sees, on the same load."""
    _, generators = pin()
    with Lab() as lab, Program.build("xdp_drop.c") as program, program.attach(lab.interface, netns=lab.netns):
        with lab.generator(seconds=seconds, cpu=generators) as generator:
            report = generator.wait(seconds + 10)
        return program.counters["dropped"] / report.seconds
