# SPDX-License-Identifier: Apache-2.0
"""Putting things up and taking them down in one piece, whatever signal arrives meanwhile.

Python runs signal handlers, and raises KeyboardInterrupt, between any two instructions of the main thread and of no
other. So what must not be cut in half runs in a passing thread, and the main thread waits for it.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import TypeVar

from toolkit.errors import ToolkitError

__all__ = ["afterwards", "uninterrupted"]

T = TypeVar("T")

_START_PATIENCE = 5.0  # seconds that a thread may take to begin

_passing = threading.local()  # in a passing thread: what to do when its work is done


def afterwards(step: Callable[[], object]) -> None:
    """Run `step` when the uninterrupted work that this is a part of is done, in the thread that waits for it; or now.

    For what has to do with threads as Python knows them, such as a line of a log.
    """
    steps: list[Callable[[], object]] | None = getattr(_passing, "steps", None)
    if steps is None:
        step()
    else:
        steps.append(step)


def uninterrupted(
    work: Callable[[], T],
    *,
    patience: float | None = None,
    stuck: str = "",
    dispose: Callable[[T], object] | None = None,
) -> T:
    """Run `work` to its end; return or raise what it does, or afterwards raise what a signal handler raised meanwhile.

    What it returned goes to `dispose` in that case. A second interrupt is raised at once; the work then comes to its
    end by itself, and what it returned is dropped.
    ToolkitError with the text `stuck` when it takes more than `patience` seconds: it waits for something that the
    calling code holds, as when a signal handler interrupted that.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    steps: list[Callable[[], object]] = []
    try:
        return _in_passing_thread(work, steps, patience, stuck, dispose)
    finally:
        for step in steps:
            step()


def _in_passing_thread(
    work: Callable[[], T],
    steps: list[Callable[[], object]],
    patience: float | None,
    stuck: str,
    dispose: Callable[[T], object] | None,
) -> T:
    """See uninterrupted(). `steps`: gets what is to be done afterwards."""
    results: list[T] = []
    failures: list[BaseException] = []
    begun, done = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        _passing.steps = steps
        try:
            results.append(work())
        except BaseException as failure:
            failures.append(failure)
        finally:
            done.set()

    interrupt: BaseException | None = None
    finished = True
    while True:  # once more after an interrupt, which may come at any line from here on
        try:
            if interrupt is None:
                try:
                    # Not threading.Thread, whose start() can be interrupted after the thread was started.
                    _thread.start_new_thread(run, ())
                except RuntimeError:  # the interpreter is shutting down and starts no more threads
                    return work()
            elif not begun.wait(_START_PATIENCE):
                break  # it was not started
            finished = done.wait(patience)
            break
        except BaseException as raised:
            if interrupt is not None:
                raise
            interrupt = raised
    if interrupt is not None:
        if results and dispose is not None:
            dispose(results.pop())
        raise interrupt
    if not finished:
        raise ToolkitError(stuck)
    if failures:
        raise failures[0]
    return results[0]
