# SPDX-License-Identifier: Apache-2.0
"""Isolation: one CPU for the generator, one for the program that is measured, at high priority; and CPU time used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Cores", "child_prefix", "cores", "cpu_ns", "undisturbed"]


class Cores(NamedTuple):
    """Two CPUs."""

    consumer: int
    generator: int


def cores() -> Cores:
    """Return the two CPUs: the first and the last that this process may use."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SystemExit("bench: needs two CPUs, one for each side")
    return Cores(cpus[0], cpus[-1])


def child_prefix(cpu: int) -> list[str]:
    """Return the command prefix that does for a child process what undisturbed() does for a thread."""
    pinned = ["taskset", "-c", str(cpu)]
    return [*pinned, "chrt", "-f", "1"] if _may_have_priority() else pinned


@contextlib.contextmanager
def undisturbed(cpu: int) -> Iterator[None]:
    """Keep this thread on `cpu` at high priority, so that other load on the machine is not measured."""
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, affinity)


def cpu_ns(pid: int) -> int:
    """Return the ns of CPU that all threads of a process have used (including softirqs that ran in their time)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            total += int((task / "schedstat").read_text().split()[0])
    return total


def _may_have_priority() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True
