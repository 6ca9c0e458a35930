# SPDX-License-Identifier: Apache-2.0
"""One run of one consumer under one load, with its own count and an independent one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.consumer import Consumer, Worker
from benchmarks.isolation import Cores
from benchmarks.memory import warm
from toolkit.lab import Lab
from toolkit.program import Program

__all__ = ["Run", "ceiling", "forwarding", "receiving", "sending"]

_WARM_UP = 0.4  # seconds of load before the measurement
_SETTLE = 0.15  # seconds until packets on their way have arrived
_SIZE = 64  # bytes of every packet

Start = Callable[[Lab], Consumer]


@dataclass(frozen=True)
class Run:
    """The result of one run of one consumer. Rates in packets/s."""

    offered: float  # by the generator; 0 if the consumer is the source
    rate: float  # of packets that were received, sent or forwarded
    seconds: float
    cpu: float  # CPU seconds a second: a consumer that spins uses 1.0 whatever it does
    counted: int  # packets by the consumer's own count
    witnessed: int | None  # the same by an independent program or counter; None if there is none
    lost: int  # of the offered packets, not delivered

    @property
    def cpu_ns(self) -> float:
        """CPU time a packet, ns."""
        return self.cpu * 1e9 / self.rate if self.rate else 0.0


def receiving(
    start: Start,
    where: Cores,
    seconds: float,
    *,
    rate: float | None = None,
    gro: bool = False,
    size: int = _SIZE,
    settle: float = _SETTLE,
    memory: int = 0,
) -> Run:
    """Load the near end for `seconds` with packets of `size` bytes. `gro`: for consumers without an XDP program.

    settle: seconds after which a consumer has counted all packets. memory: bytes that it may need, kept warm.
    """
    with Lab(gro=gro) as lab, contextlib.closing(start(lab)) as consumer:
        consumer.start()
        _warm_up(lab, where, rate, size, settle)
        warm(memory)
        before, lost = consumer.counts(), lab.counters()["rx_dropped"]
        with lab.generator(seconds=seconds, rate=rate, size=size, cpu=where.generator) as generator:
            used = consumer.cpu_ns()
            report = generator.wait(seconds + 10)
            used = consumer.cpu_ns() - used
        time.sleep(settle)
        after = consumer.counts()
        lost = lab.counters()["rx_dropped"] - lost
    received = after.received - before.received
    if after.redirected and after.received + after.dropped != after.redirected:
        raise AssertionError(f"{consumer.name}: received and dropped are not what was redirected: {after}")
    # All packets pass the veth: an AF_XDP consumer got those that it has not dropped.
    witnessed = report.sent - lost if not gro else None
    cpu = used * 1e-9 / report.seconds
    return Run(report.rate, received / report.seconds, report.seconds, cpu, received, witnessed, report.sent - received)


def forwarding(start: Start, where: Cores, seconds: float, *, frame: bytes | None = None) -> Run:
    """Load the near end at full speed; a program at the far end drops and counts what comes back.

    frame: sent repeatedly, instead of numbered ones.
    """
    with Lab() as lab, _drain(lab) as arrived, contextlib.closing(start(lab)) as consumer:
        consumer.start()
        _warm_up(lab, where, None)
        before, came = consumer.counts(), arrived()
        with lab.generator(seconds=seconds, size=_SIZE, frame=frame, cpu=where.generator) as generator:
            used = consumer.cpu_ns()
            report = generator.wait(seconds + 10)
            used = consumer.cpu_ns() - used
        time.sleep(_SETTLE)
        after, came = consumer.counts(), arrived() - came
    sent = after.sent - before.sent
    cpu = used * 1e-9 / report.seconds
    return Run(report.rate, came / report.seconds, report.seconds, cpu, sent, came, report.sent - came)


def sending(start: Start, where: Cores, seconds: float) -> Run:
    """Have the near end send; a program at the far end drops and counts."""
    with Lab() as lab, _drain(lab) as arrived, contextlib.closing(start(lab)) as consumer:
        first = consumer.counts().sent
        consumer.start()
        if isinstance(consumer, Worker):
            consumer.tell("send", seconds + 3 * _WARM_UP)
        time.sleep(_WARM_UP)
        began, came, used = time.perf_counter(), arrived(), consumer.cpu_ns()
        time.sleep(seconds)
        elapsed = time.perf_counter() - began
        came, used = arrived() - came, consumer.cpu_ns() - used
        if isinstance(consumer, Worker):
            consumer.hear()
        counted = consumer.counts().sent - first
    return Run(0.0, came / elapsed, elapsed, used * 1e-9 / elapsed, counted, came, 0)


def ceiling(where: Cores, seconds: float) -> float:
    """Return the packets/s that a program gets that drops all in the driver, at the same load: the upper bound."""
    with Lab() as lab, Program.build("xdp_drop.c") as program, program.attach(lab.interface, netns=lab.netns):
        _warm_up(lab, where, None)
        before = program.counters()["dropped"]
        with lab.generator(seconds=seconds, size=_SIZE, cpu=where.generator) as generator:
            report = generator.wait(seconds + 10)
        return (program.counters()["dropped"] - before) / report.seconds


@contextlib.contextmanager
def _drain(lab: Lab) -> Iterator[Callable[[], int]]:
    """Drop what arrives at the far end in its driver; yield a function that returns how many packets arrived."""
    with Program.build("xdp_drop.c") as program, program.attach(lab.peer, netns=lab.far):
        yield lambda: int(program.counters()["dropped"])


def _warm_up(lab: Lab, where: Cores, rate: float | None, size: int = _SIZE, settle: float = _SETTLE) -> None:
    with lab.generator(seconds=_WARM_UP, rate=rate, size=size, cpu=where.generator) as generator:
        generator.wait(10)
    time.sleep(settle)
