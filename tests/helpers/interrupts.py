# SPDX-License-Identifier: Apache-2.0
"""KeyboardInterrupt at every line of something, or at times of chance; and what a process holds before and after."""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Interrupt", "at_every_line", "at_times_of_chance", "every_line", "held"]


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
    look: Callable[[], object] = _nothing,
) -> int:
    """The same with real signals, within the time that make() takes; how many hit."""
    close(make())  # once for what is made at first use
    most = float("inf")  # seconds: the shortest of several, for others may have had the CPU in the middle of one
    for _ in range(5):
        began = time.monotonic()
        one = make()
        most = min(most, time.monotonic() - began)
        close(one)
        del one
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


class Interrupt:
    """Raises KeyboardInterrupt at the k-th line that toolkit code executes.

    Not at the line event that leaves a with block before __exit__ is called: no signal is handled there, so Python's
    compiler does not protect it (a lock would stay held).
    """

    def __init__(self, k: int) -> None:
        self.left = k
        self.where = ""
        self.line: dict[int, int] = {}  # of each frame, the line before

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        name = frame.f_globals.get("__name__", "")
        # The clock holds no frame, and how much of it runs depends on the time.
        if not name.startswith("toolkit") or name in ("toolkit.errors", "toolkit._base.clock"):
            return None
        if event in ("line", "call"):
            line, before = frame.f_lineno, self.line.get(id(frame), 0) if event == "line" else 0
            self.line[id(frame)] = line
            leaves_with = line <= before and linecache.getline(frame.f_code.co_filename, line).lstrip().startswith(
                "with "
            )
            self.left -= not leaves_with
            if self.left == 0 and not leaves_with:
                self.where = f"{name}:{line}"
                raise KeyboardInterrupt
        return self

    def run(self, work: Callable[[], object]) -> bool:
        """Whether it came to the interrupt."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            work()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def every_line(work: Callable[[int], bool]) -> int:
    """Call `work(k)` for k = 1, 2, ... until it says that no interrupt came any more; how many came."""
    for k in range(1, 5000):
        if not work(k):
            return k - 1
    raise AssertionError("it does not end")
