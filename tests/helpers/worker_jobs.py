# SPDX-License-Identifier: Apache-2.0
"""What the workers of the tests do. In a module of its own: every worker imports it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

from toolkit import Interface
from toolkit.workers import current


def count(interface: Interface) -> dict[str, Any]:
    """Receive until stopped; the numbers seen by queue, the kernel's counters, and where this ran."""
    me = current()
    assert me is not None
    packets = 0
    queues: dict[int, int] = {}
    while batch := interface.receive():
        packets += len(batch)
        queues[batch.queue] = queues.get(batch.queue, 0) + len(batch)
        me.report(packets)
    return {
        "pid": os.getpid(),
        "number": me.number,
        "received": packets,
        "queues": queues,
        "dropped": interface.statistics().dropped,
        "cpus": sorted(os.sched_getaffinity(0)),
        "stopping": me.stopping,
    }


def masks(interface: Interface) -> tuple[set[int], set[int]]:
    """The signals that a worker ignores, and those that it blocks."""
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN}
    return set(map(int, ignored)), set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def payloads(interface: Interface) -> list[bytes]:
    """Receive until stopped; every packet whole."""
    seen: list[bytes] = []
    while batch := interface.receive():
        seen += [bytes(packet) for packet in batch]
    return seen


def raise_in_first(interface: Interface) -> dict[str, Any]:
    """Worker 0 fails at its first packet, the others count."""
    me = current()
    assert me is not None
    if me.number == 0:
        interface.receive()
        raise ZeroDivisionError("on purpose")
    return count(interface)


def never_return(interface: Interface) -> None:
    """Look at nothing."""
    while True:
        time.sleep(1)


def unpicklable(interface: Interface) -> Any:
    """A result that cannot travel."""
    interface.receive()
    return lambda: None


def exit_at_once(interface: Interface) -> None:
    """Leave without a word."""
    os._exit(7)


def slowly_until_stopped(interface: Interface) -> int:
    """Take eight packets at a time, with pauses, until the flag says so."""
    me = current()
    assert me is not None
    packets = 0
    while not me.stopping:
        packets += len(interface.receive(timeout=0.05, limit=8))
        time.sleep(0.001)
    return packets


def fast(interface: Interface) -> tuple[int, int, float]:
    """Count as fast as it goes: packets, dropped, CPU seconds of this process."""
    packets = np.int64(0)
    while batch := interface.receive():
        packets += len(batch)
    return int(packets), interface.statistics().dropped, time.process_time()


def rules_and_times(interface: Any) -> tuple[list[str], str | None, int, int]:
    """Return what the worker's Interface says of its rules, and how many packets came with a time, and without."""
    timed = untimed = 0
    while batch := interface.receive():
        missing = int(np.isnat(batch.timestamps).sum())
        timed, untimed = timed + len(batch) - missing, untimed + missing
    return [one.rule for one in interface.rule_counters()], interface.filter, timed, untimed


def fail_when_packets_are_dropped(interface: Interface) -> None:
    """Receive nothing, and fail once the kernel has found no room."""
    while not interface.statistics().dropped:
        time.sleep(0.001)
    raise ZeroDivisionError("on purpose")
