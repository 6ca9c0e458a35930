# SPDX-License-Identifier: Apache-2.0
"""Putting things up and taking them down in one piece, whatever signal arrives meanwhile.

Python runs signal handlers, and raises KeyboardInterrupt, between any two instructions of the main thread and of no
other. So what must not be cut in half runs in a passing thread, and the main thread waits for it.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from toolkit.errors import ToolkitError

__all__ = ["afterwards", "apart", "uninterrupted"]

T = TypeVar("T")

_SLICE = 0.25  # seconds between two looks: whether a thread has begun, whether it came to its end
_STARTS = 20  # looks until nobody waits any longer for a thread to begin

_passing = threading.local()  # in a thread that does such work: what to do when the work is done


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
    timeout: float | None = None,
    stuck: str = "",
    dispose: Callable[[T], object] | None = None,
) -> T:
    """Run `work` to its end; return or raise what it does, or afterwards raise what a signal handler raised meanwhile.

    What it returned goes to `dispose` in that case. A second interrupt is raised at once; the work then comes to its
    end by itself, and what it returned is dropped. Where no thread can be had, `work` runs in the calling one.
    ToolkitError with the text `stuck` when it takes more than `patience` seconds: it waits for something that the
    calling code holds, as when a signal handler interrupted that.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    return _outcome(_Job(work), timeout, stuck, dispose, here=True)


def apart(work: Callable[[], T], *, dispose: Callable[[T], object] | None = None) -> T:
    """Run `work` in a thread that ends with it, never in the calling one; else as uninterrupted(), from any thread.

    The thread is one that the module threading knows, as libraries want it. ToolkitError when none can be had.
    """
    return _outcome(_Job(work), None, "", dispose, here=False)


class _Job(Generic[T]):
    """Work that one thread does, whichever is the first to claim it, and what became of it.

    Locks and slots only: an Event takes memory when it is used, and a thread that has none must still be able to say
    that it is over.
    """

    __slots__ = ("_claim", "_done", "failure", "interrupt", "made", "over", "result", "steps", "work")

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.result: Any = None
        self.failure: BaseException | None = None
        self.interrupt: BaseException | None = None  # what a signal handler raised in the waiting thread
        self.steps: list[Callable[[], object]] = []  # what is to be done afterwards
        self.made = False  # whether there is a result
        self.over = False
        self._claim = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._done.acquire()

    def __call__(self) -> None:
        if self._claim.acquire(False):
            self.do()

    def claim(self) -> bool:
        """Keep everybody else from doing the work. False: somebody does it, or has done it."""
        return self._claim.acquire(False)

    @property
    def begun(self) -> bool:
        """Whether somebody does it, or has done it."""
        return self._claim.locked()

    def do(self) -> None:
        """Do it, having claimed it."""
        before = None
        try:
            before = getattr(_passing, "steps", None)
            _passing.steps = self.steps
            self.result = self.work()
            self.made = True
        except BaseException as failure:
            self.failure = failure
        finally:
            self.over = True
            self._done.release()
            _passing.steps = before

    def wait(self, seconds: float) -> None:
        """Wait until it is over, so many seconds at most. `over` tells: an interrupt may swallow that we were woken."""
        self._done.acquire(True, seconds)


def _outcome(
    job: _Job[T], timeout: float | None, stuck: str, dispose: Callable[[T], object] | None, *, here: bool
) -> T:
    try:
        try:
            _await(job, timeout, here=here)
        finally:
            for step in job.steps:
                afterwards(step)
        raised, job.interrupt, job.failure = job.interrupt or job.failure, None, None
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # it knows this frame: the two would keep each other, and all that the work has made
        if not job.over:
            raise ToolkitError(stuck)
        result: T = job.result
        return result
    except BaseException:
        if job.made and dispose is not None:
            disposed = dispose
            _await(_Job(lambda: disposed(job.result)), None, here=True)
        raise


def _await(job: _Job[Any], timeout: float | None, *, here: bool) -> None:
    """Have the job done by a passing thread, and keep the interrupt that came meanwhile. A second one is raised."""
    deadline: float | None = None
    looks = 0
    while True:  # once more after an interrupt, which may come at any line from here on
        try:
            if deadline is None:
                deadline = float("inf") if timeout is None else time.monotonic() + timeout
            while not job.over and time.monotonic() < deadline:
                if not job.begun:
                    looks += 1
                    # Once more where nobody has begun after a while: a thread can die before its first step, for want
                    # of memory. Whichever begins first does the work, the others end.
                    if looks > _STARTS or not _started(job if here else lambda: _start_known(job)):
                        _do_here(job, here=here)
                        continue
                job.wait(max(min(_SLICE, deadline - time.monotonic()), 0))
            return
        except BaseException as raised:
            if job.interrupt is not None:
                raise
            job.interrupt = raised


def _started(run: Callable[[], None]) -> bool:
    try:
        # Not threading.Thread, whose start() can be interrupted after the thread was started.
        _thread.start_new_thread(run, ())
    except (RuntimeError, MemoryError):  # as many as there may be; or the interpreter is shutting down
        return False
    return True


def _start_known(job: _Job[Any]) -> None:
    """In a passing thread, which nothing interrupts: start the one that does the work."""
    try:
        threading.Thread(target=job, name="toolkit-apart", daemon=True).start()
    except (RuntimeError, MemoryError):
        _do_here(job, here=False)


def _do_here(job: _Job[Any], *, here: bool) -> None:
    if not job.claim():
        return  # a thread has begun after all
    if not here:
        job.work = _refuse
    job.do()


def _refuse() -> None:
    raise ToolkitError(
        "cannot start a thread. Likely cause: memory is short, or the limit on processes is reached (`ulimit -u`, "
        "pids.max of the cgroup). Next step: raise the limit, or end other programs."
    )
