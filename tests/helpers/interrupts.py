# SPDX-License-Identifier: Apache-2.0
"""KeyboardInterrupt at every line of something, or at times of chance; and what a process holds before and after."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.unit.rings.test_interrupted import Interrupt, every_line

__all__ = ["at_every_line", "at_times_of_chance", "held"]


def held() -> dict[str, Any]:
    """What this process holds: descriptors with what they are of, threads, children."""
    descriptors = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptors.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
    own = f"/proc/{os.getpid()}/fd"
    children: list[str] = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children") as file:
            children += file.read().split()
    return {
        "descriptors": sorted(one for one in descriptors if one[1] != own and not one[1].endswith("/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "dummies": sum(type(one).__name__ == "_DummyThread" for one in threading.enumerate()),
        "children": sorted(children),
    }


def nothing_left(before: dict[str, Any], where: str) -> None:
    """Wait until the process holds what it held before: threads on their way out take a moment."""
    until = time.monotonic() + 10
    while (now := held()) != before and time.monotonic() < until:
        time.sleep(0.002)
        gc.collect()
    assert {name: (had, now[name]) for name, had in before.items() if had != now[name]} == {}, where


def settled() -> dict[str, Any]:
    """What the process holds once threads that are on their way out have gone."""
    gc.collect()
    now, same = held(), 0
    while same < 20:
        time.sleep(0.005)
        before, now = now, held()
        same = same + 1 if now == before else 0
    return now


def _nothing() -> None:
    """Look at nothing else."""


def at_every_line(
    make: Callable[[], Any],
    close: Callable[[Any], object],
    *,
    look: Callable[[], object] = _nothing,
    step: int = 1,
) -> int:
    """Interrupt `make` at each line of the toolkit in turn: nothing is left, and the next try works. How many lines."""
    close(make())  # what is made once for all is there
    before = settled()

    def interrupted(k: int) -> bool:
        interrupt, made = Interrupt(k), []
        if not interrupt.run(lambda: made.append(make())):
            close(made.pop())
            return False
        assert not made, interrupt.where
        nothing_left(before, interrupt.where)
        look()
        if k % 10 == 0:
            close(make())
        return True

    lines = every_line(lambda k: interrupted(1 + (k - 1) * step)) * step
    nothing_left(before, "the end")
    return lines


def at_times_of_chance(
    make: Callable[[], Any],
    close: Callable[[Any], object],
    tries: int,
    most: float,
    look: Callable[[], object] = _nothing,
) -> int:
    """The same with real signals, within `most` seconds; how many hit."""
    close(make())
    before, hits = settled(), 0

    def handler(number: int, frame: Any) -> None:
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    armed = [False]
    former = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(tries):
            made: list[Any] = []
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, most))
                made.append(make())
                armed[0] = False
            except KeyboardInterrupt:
                hits += 1
            armed[0] = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            for one in made:
                close(one)
            made.clear()
            look()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    nothing_left(before, f"after {hits} interrupts")
    return hits
