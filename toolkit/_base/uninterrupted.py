# SPDX-License-Identifier: Apache-2.0
"""uninterrupted(): run setup and cleanup as a whole, whatever signal arrives meanwhile.

Python runs signal handlers, and raises KeyboardInterrupt, between any two instructions of the main thread only. So work
that must not be cut short runs in a temporary thread, and the main thread waits for it.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from toolkit.errors import ToolkitError

__all__ = ["afterwards", "apart", "hurry", "interrupted", "uninterrupted"]

T = TypeVar("T")

_SLICE = 0.25  # seconds between two checks whether a thread has begun or ended
_STARTS = 20  # checks until the work is done in the calling thread, because no thread has begun

_passing = threading.local()  # in a thread that does such work: `job`, the _Job
_hurries = 0  # calls of hurry()


def afterwards(step: Callable[[], object]) -> None:
    """Run `step` after the uninterrupted work that calls this, in the waiting thread; outside of such work, run it now.

    For steps that need a thread of the threading module, such as logging.
    """
    job: _Job[Any] | None = getattr(_passing, "job", None)
    if job is None:
        step()
    else:
        job.steps.append(step)


def interrupted() -> bool:
    """Whether the uninterrupted work that calls this is to end soon: a signal came since it began.

    What waits for seconds asks this, and then waits no longer. False outside of such work, which a signal interrupts.
    """
    job: _Job[Any] | None = getattr(_passing, "job", None)
    return job is not None and (job.interrupt is not None or job.hurries != _hurries)


def hurry() -> None:
    """Have the work that is being done end soon. For a signal handler that raises nothing."""
    global _hurries
    _hurries += 1


def uninterrupted(
    work: Callable[[], T],
    *,
    timeout: float | None = None,
    stuck: str = "",
    dispose: Callable[[T], object] | None = None,
) -> T:
    """Run `work` to its end and return its result, or raise its exception.

    If a signal handler raises meanwhile, that is raised after the work, and the result goes to `dispose`. A second
    interrupt is raised at once; the work then ends by itself, and its result is dropped. When no thread can be started,
    `work` runs in the calling one. ToolkitError with the text `stuck` after `timeout` seconds: the work then waits for
    a lock that the calling code holds, because a signal handler interrupted it.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    return _outcome(_Job(work), timeout, stuck, dispose, here=True)


def apart(work: Callable[[], T], *, dispose: Callable[[T], object] | None = None) -> T:
    """Run `work` as uninterrupted() does, from any thread, but never in the calling one: in a thread that ends with it.

    It is a thread of the module threading, as libraries need it. ToolkitError when none can be started.
    """
    return _outcome(_Job(work), None, "", dispose, here=False)


class _Job(Generic[T]):
    """Work that the first thread to claim it does, and its result.

    Only locks and slots: an Event allocates memory when it is used, but a thread without memory must still be able to
    report its end.
    """

    __slots__ = ("_claim", "_done", "failure", "hurries", "interrupt", "made", "over", "result", "steps", "work")

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.result: Any = None
        self.failure: BaseException | None = None
        self.interrupt: BaseException | None = None  # what a signal handler raised in the waiting thread
        self.hurries = _hurries  # as of the beginning
        self.steps: list[Callable[[], object]] = []  # to be done afterwards
        self.made = False  # whether there is a result
        self.over = False
        self._claim = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._done.acquire()

    def __call__(self) -> None:
        if self._claim.acquire(False):
            self.do()

    def claim(self) -> bool:
        """Claim the work for the calling thread. False when another thread has claimed it."""
        return self._claim.acquire(False)

    @property
    def begun(self) -> bool:
        """Whether a thread has claimed the work."""
        return self._claim.locked()

    def do(self) -> None:
        """Do the work; the calling thread has claimed it."""
        before = None
        try:
            before = getattr(_passing, "job", None)
            _passing.job = self
            self.result = self.work()
            self.made = True
        except BaseException as failure:
            self.failure = failure
        finally:
            self.over = True
            self._done.release()
            _passing.job = before

    def wait(self, seconds: float) -> None:
        """Wait until the work is over, `seconds` at most. Check `over` then: an interrupt may hide the wake-up."""
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
                del raised  # its traceback refers to this frame: a cycle that would keep alive what the work made
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
    """Have a temporary thread do the job, and keep an interrupt that comes meanwhile. A second one is raised."""
    deadline: float | None = None
    checks = 0
    while True:  # again after an interrupt, which may come at any line from here on
        try:
            if deadline is None:
                deadline = float("inf") if timeout is None else time.monotonic() + timeout
            while not job.over and time.monotonic() < deadline:
                if not job.begun:
                    checks += 1
                    # Start another thread if none has begun after a while: without memory, a thread can die before its
                    # first step. The one that begins first does the work, the others end.
                    if checks > _STARTS or not _started(job if here else lambda: _start_known(job)):
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
    except (RuntimeError, MemoryError):  # the limit is reached, or the interpreter is shutting down
        return False
    return True


def _start_known(job: _Job[Any]) -> None:
    """Start the thread that does the work: in a temporary thread, which no signal interrupts."""
    try:
        threading.Thread(target=job, name="toolkit-apart", daemon=True).start()
    except (RuntimeError, MemoryError):
        _do_here(job, here=False)


def _do_here(job: _Job[Any], *, here: bool) -> None:
    if not job.claim():
        return  # a thread has begun meanwhile
    if not here:
        job.work = _refuse
    job.do()


def _refuse() -> None:
    raise ToolkitError(
        "cannot start a thread. Likely cause: memory is short, or the limit on processes is reached (`ulimit -u`, "
        "pids.max of the cgroup). Next step: raise the limit, or end other programs."
    )
