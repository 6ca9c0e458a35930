# SPDX-License-Identifier: Apache-2.0
"""How an object is closed: by any thread, once, as a whole, in no forked child. Open, closing, closed, or dead."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from tests.helpers.forks import in_child
from toolkit._base import fork
from toolkit._base.closing import Closable
from toolkit.errors import ClosedError, ToolkitError


class Well(Closable):
    """A thread that is inside draw() waits there, until it is woken."""

    def __init__(self) -> None:
        self.guard, self.woken, self.inside = threading.Lock(), threading.Event(), threading.Event()
        self.happened: list[str] = []
        self.refuse: Callable[[], object] = lambda: None
        super().__init__("the well", self.guard)
        fork.track(self)

    def draw(self) -> None:
        self._check_open()
        with self.guard:
            self.inside.set()
            self.woken.wait()
            self.happened.append("drawn")
        self._check_open()

    def _wake(self) -> None:
        self.woken.set()

    def _take_down(self) -> None:
        self.refuse()
        self.happened.append("taken down")

    def _abandon(self) -> None:
        self.happened.append("abandoned")


@pytest.fixture
def well() -> Well:
    return Well()


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_it_is_closed_once_at_the_end_of_the_block(well: Well) -> None:
    with well as entered:
        assert entered is well
        assert not well.closed
    assert well.closed
    well.close()
    assert well.happened == ["taken down"]
    with pytest.raises(ClosedError, match=r"^the well is closed"):
        well.draw()


def test_close_wakes_who_waits_inside_and_waits_for_it(well: Well) -> None:
    def draw() -> None:
        with pytest.raises(ClosedError, match="the well is closed"):
            well.draw()
        well.happened.append("out")

    drawing = in_thread(draw)
    assert well.inside.wait(20)
    well.close()
    drawing.join()
    assert well.happened.index("drawn") < well.happened.index("taken down")


def test_of_several_that_close_all_return_when_it_is_done(well: Well) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(20)

    well.refuse = slow
    seen: list[list[str]] = []

    def close() -> None:
        well.close()
        seen.append(list(well.happened))

    closing = [in_thread(close) for _ in range(3)]
    assert begun.wait(20)
    assert well.closed, "while it is closing"
    assert not seen
    go_on.set()
    for thread in closing:
        thread.join()
    assert seen == [["taken down"]] * 3


def test_what_raised_is_done_again_by_the_next_close(well: Well) -> None:
    def refuse() -> None:
        raise OSError(5, "not today")

    well.refuse = refuse
    with pytest.raises(OSError, match="not today"):
        well.close()
    assert well.closed
    well.refuse = lambda: None
    well.close()
    assert well.happened == ["taken down"]


def test_who_never_leaves_is_reported_and_nothing_is_taken_down(well: Well, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit._base.closing.CLOSE_TIMEOUT", 0.02)
    with well.guard, pytest.raises(ToolkitError, match="cannot close the well: a call is still inside it"):
        well.close()
    assert well.happened == []
    with pytest.raises(ClosedError):
        well.draw()
    well.close()
    assert well.happened == ["taken down"]


def test_a_lock_that_the_interrupted_caller_holds_is_no_dead_lock(well: Well, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit._base.closing._WHOLE_TIMEOUT", 0.1)
    lock = threading.Lock()

    def take() -> None:
        with lock:
            pass

    well.refuse = take
    with lock, pytest.raises(ToolkitError, match="signal handler"):
        well.close()
    well.close()  # waits for the one above, whose thread goes on
    assert well.happened == ["taken down"]


def test_an_interrupt_while_it_closes_comes_after_it(well: Well) -> None:
    well.refuse = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        well.close()
    assert well.happened == ["taken down"]


def test_a_handler_may_close_what_is_just_being_closed(well: Well) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: well.close())
    try:
        well.refuse = lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        well.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert well.happened == ["taken down"]


def test_in_a_forked_child_it_is_dead_and_nothing_is_taken_down(well: Well) -> None:
    def child() -> None:
        assert well.closed
        with pytest.raises(ClosedError, match="the well is dead: it belongs to the parent of a fork"):
            well.draw()
        well.close()
        assert well.happened == ["abandoned"]

    assert in_child(child) == 0
    assert not well.closed
    well.close()
    assert well.happened == ["taken down"]


def test_a_child_forked_while_it_closes_gives_up_its_copies(well: Well) -> None:
    status: list[int] = []

    def child() -> None:
        with pytest.raises(ClosedError, match="dead"):
            well.draw()
        well.close()
        assert well.happened == ["abandoned"]

    well.refuse = lambda: status.append(in_child(child))
    well.close()
    assert status == [0]
    assert well.happened == ["taken down"]


def test_what_was_closed_before_the_fork_stays_closed(well: Well) -> None:
    well.close()

    def child() -> None:
        with pytest.raises(ClosedError, match="the well is closed"):
            well.draw()
        assert well.happened == ["taken down"]

    assert in_child(child) == 0
