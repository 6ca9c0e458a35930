# SPDX-License-Identifier: Apache-2.0
"""Work in a passing thread: it comes to its end whatever interrupts, and also where threads cannot be had."""

from __future__ import annotations

import _thread
import gc
import resource
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.interrupts import Interrupt, every_line
from toolkit._base import uninterrupted as module
from toolkit._base.uninterrupted import apart, uninterrupted
from toolkit.errors import ToolkitError


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less long for threads that do not come."""
    monkeypatch.setattr(module, "_SLICE", 0.01)


def dying(function: Callable[..., object], arguments: tuple[Any, ...]) -> int:
    """A thread that ends before its first step."""
    return _start(lambda: None, ())


def refused(function: Callable[..., object], arguments: tuple[Any, ...]) -> int:
    """No thread at all."""
    raise RuntimeError("can't start new thread")


def started_and_refused(function: Callable[..., object], arguments: tuple[Any, ...]) -> int:
    """Memory ran out when the thread was there already."""
    _start(function, arguments)
    time.sleep(0.05)
    raise MemoryError


_start = _thread.start_new_thread


@pytest.mark.parametrize("start", [dying, refused, started_and_refused])
def test_work_is_done_once_where_no_thread_begins(monkeypatch: pytest.MonkeyPatch, quick: None, start: Any) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", start)
    done: list[int] = []
    assert uninterrupted(lambda: done.append(1) or len(done)) == 1
    time.sleep(0.1)  # for what must not happen
    assert done == [1]


def test_a_thread_that_dies_is_followed_by_another(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    starts = iter([dying, dying, _start])
    monkeypatch.setattr(_thread, "start_new_thread", lambda function, arguments: next(starts)(function, arguments))
    assert uninterrupted(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("start", [dying, refused])
def test_what_must_not_run_here_does_not(monkeypatch: pytest.MonkeyPatch, quick: None, start: Any) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", start)
    done: list[int] = []
    with pytest.raises(ToolkitError, match=r"cannot start a thread.*memory is short"):
        apart(lambda: done.append(1))
    assert not done


def test_apart_is_another_thread_from_any() -> None:
    idents: list[int] = []
    before = _dummies()

    def both() -> None:
        idents.extend((threading.get_ident(), apart(lambda: threading.current_thread().ident or 0)))

    both()
    thread = threading.Thread(target=both)
    thread.start()
    thread.join()
    assert idents[0] != idents[1]
    assert idents[2] != idents[3]
    assert not _dummies() - before


def _dummies() -> set[threading.Thread]:
    """What `threading` made for threads that it does not know, and keeps after their end."""
    return {one for one in threading.enumerate() if type(one).__name__ == "_DummyThread"}


def test_interrupted_at_any_line_the_work_is_done_once_or_not_begun_and_disposed_of() -> None:
    done: list[int] = []
    disposed: list[int] = []

    def work(k: int) -> bool:
        done.clear()
        disposed.clear()
        interrupt = Interrupt(k)
        came = interrupt.run(lambda: uninterrupted(lambda: done.append(k) or k, dispose=disposed.append))
        assert len(done) <= 1, interrupt.where
        assert disposed == (done if came else []), interrupt.where
        return came

    assert every_line(work) > 10


def test_failures_are_raised_and_nothing_is_kept_by_them() -> None:
    class Big:
        """Stands for what the work had made until then."""

    gone: list[int] = []

    def work() -> None:
        big = Big()
        weakref.finalize(big, gone.append, 1)
        raise ValueError(str(big))

    gc.disable()
    try:
        uninterrupted(work)
    except ValueError:
        pass
    else:
        raise AssertionError("it did not fail")
    finally:
        gc.enable()
    until = time.monotonic() + 5  # the thread has its last steps to do
    while not gone and time.monotonic() < until:
        time.sleep(0.001)
    assert gone == [1]
    with pytest.raises(ToolkitError, match="too long"):
        uninterrupted(lambda: time.sleep(0.5), timeout=0.05, stuck="too long")


def test_without_memory_for_another_thread_it_ends() -> None:
    """The address space is full but for what a thread's stack takes: it is run here, or it fails; it does not hang."""
    code = """
    import resource, sys
    from toolkit._base.uninterrupted import uninterrupted
    uninterrupted(lambda: None)
    pages = int(open("/proc/self/statm").read().split()[0])
    for room in range(0, 12 << 20, 256 << 10):
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, resource.RLIM_INFINITY))
        try:
            assert uninterrupted(lambda: 7) == 7
        except MemoryError:
            pass
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("done")
    """
    assert resource.RLIMIT_AS
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100)
    assert ran.stdout == "done\n", ran.stderr
