# SPDX-License-Identifier: Apache-2.0
"""Every way of waiting: packets, payloads and counts end to end; SIGINT, close(), a vanished device."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.waiting import MODES, ROOMY, busy_polling_or_not, check_whole, near
from tests.helpers.wire import Wire, child_environment, collect, frame, piece_by_piece, run_child, stamps
from toolkit.abi.libc import libc_with_gil
from toolkit.errors import ArgumentError, ClosedError, DeviceGoneError, PrivilegeError
from toolkit.lab import Lab
from toolkit.wait.waiter import WaitMode

pytestmark = busy_polling_or_not


# --- packets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_payloads_arrive_as_sent(lab: Lab, wire: Wire, mode: WaitMode) -> None:
    sent = [frame(i, 60 + i * 9) for i in range(150)]
    with near(lab, mode) as interface:
        assert interface.info()["wait"] == mode
        sender = threading.Thread(target=wire.send, args=(sent,))  # wants the GIL for each, beside a spinner
        sender.start()
        got = collect(interface.receive, len(sent), timeout=30.0)
        sender.join()
        assert got == sent


@pytest.mark.alone("a generator and a receiver at full speed, each on a CPU: they fall behind beside others")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("queues", [1, 2])
def test_nothing_is_lost_at_100_000_a_second(make_lab: Callable[..., Lab], mode: WaitMode, queues: int) -> None:
    lab = make_lab(queues=queues)
    seen: list[np.ndarray[Any, Any]] = []
    with near(lab, mode, ring_size=ROOMY) as interface:
        with lab.generator(rate=100_000, count=100_000, cpu=1) as generator:
            while batch := interface.receive(timeout=1.0):
                seen.append(stamps(batch))
            report = generator.wait(10)
        assert interface.statistics().dropped == 0
        redirected = interface.counters()["redirected"]
    numbers = np.concatenate(seen)
    check_whole(numbers, redirected, report.sent)
    assert report.sent == 100_000


@pytest.mark.parametrize("mode", MODES)
def test_a_socket_waits_in_every_mode(lab: Lab, wire: Wire, mode: WaitMode) -> None:
    with (
        toolkit.Program.build("xsk_redirect.c") as program,
        toolkit.Socket("veth0", prefill=64, wait=mode, netns=lab.netns) as sock,
        piece_by_piece(program, lab, sock),
    ):
        assert sock.wait(0.05) is False
        wire.send([frame(7)])
        assert sock.wait(5.0) is True
        assert [bytes(packet) for packet in sock.receive(timeout=1.0)] == [frame(7)]


@pytest.mark.timing("a timeout is kept to 0.2 s, as far as a CPU is free then")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("timeout", [0, 0.001, 0.25])
def test_the_timeout_is_kept(lab: Lab, mode: WaitMode, timeout: float) -> None:
    with near(lab, mode) as interface:
        begin = time.monotonic()
        assert not interface.receive(timeout=timeout)
        assert timeout <= time.monotonic() - begin + 0.001 < timeout + 0.2


def test_another_mode_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"'sleep'.*\"poll\", \"busy-poll\" or \"spin\""):
        toolkit.open("veth0", filter="all", wait="sleep")
    with pytest.raises(ArgumentError, match="coalesce"):
        toolkit.open("veth0", filter="all", coalesce=-1)


# --- ways out -------------------------------------------------------------------------------------------------------


@pytest.mark.timing("the end is due 1.5 s after close()")
@pytest.mark.parametrize("mode", MODES)
def test_close_from_another_thread(lab: Lab, mode: WaitMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.wait.waiter._SLICE", 10)  # so that only the wake-up can end it in time
    with near(lab, mode) as interface:
        timer = threading.Timer(0.2, interface.close)
        timer.start()
        begin = time.monotonic()
        with pytest.raises(ClosedError):
            interface.receive()
        assert time.monotonic() - begin < 1.5
        timer.join()
        assert interface.umem.closed


@pytest.mark.timing("the end is due 1.5 s after the device went")
@pytest.mark.parametrize("mode", MODES)
def test_the_device_vanishes(lab: Lab, mode: WaitMode) -> None:
    with near(lab, mode) as interface:
        timer = threading.Timer(0.2, lab.delete_interface)
        timer.start()
        begin = time.monotonic()
        with pytest.raises(DeviceGoneError):
            interface.receive()
        assert time.monotonic() - begin < 1.5
        timer.join()


@pytest.mark.parametrize("mode", MODES)
def test_the_link_goes_down_and_up(lab: Lab, wire: Wire, mode: WaitMode) -> None:
    with near(lab, mode) as interface:
        lab.set_down()
        assert not interface.receive(timeout=0.2)
        lab.set_up()
        wire.send([frame(1)])
        assert collect(interface.receive, 1) == [frame(1)]


@pytest.mark.timing("a handler is due 0.25 s after its signal")
@pytest.mark.parametrize("mode", MODES)
def test_signal_handlers_run_and_the_wait_goes_on(lab: Lab, mode: WaitMode) -> None:
    ran: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: ran.append(time.monotonic()))
    try:
        with near(lab, mode) as interface:
            begin = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            assert not interface.receive(timeout=0.5)
            assert time.monotonic() - begin >= 0.5
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(ran) == 1
    assert 0.05 < ran[0] - begin < 0.35


WAITING = """
    import sys, warnings
    import toolkit
    class Given:
        def fileno(self):
            return int(sys.argv[2])
    with toolkit.open("veth0", filter="all", ring_size=64, wait=sys.argv[1], netns=Given()) as interface:
        print("ready", flush=True)
        try:
            interface.receive()
        except KeyboardInterrupt:
            print(interface.umem.audit()["rx"] > 0, flush=True)
            raise
"""


@pytest.mark.timing("the end of a process is due 2 s after SIGINT")
@pytest.mark.parametrize("mode", MODES)
def test_sigint_ends_a_waiting_program(lab: Lab, mode: WaitMode) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WAITING), mode, str(lab.netns.fileno())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[lab.netns.fileno()],
        env=child_environment(),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.3)
    begin = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=10)
    assert time.monotonic() - begin < 2
    assert out == "True\n"
    assert "KeyboardInterrupt" in err
    assert child.returncode == -signal.SIGINT


# --- busy polling -----------------------------------------------------------------------------------------------------

SO_BUSY_POLL, SO_INCOMING_NAPI_ID, SO_PREFER_BUSY_POLL = 46, 56, 69


def test_busy_polling_sets_the_socket_options(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=2)
    with near(lab, "busy-poll") as interface:
        for sock in interface.sockets:
            assert sock._core.sock.getsockopt(1, SO_PREFER_BUSY_POLL) == 1
            assert sock._core.sock.getsockopt(1, SO_BUSY_POLL) > 0
    with near(lab, "spin") as interface:
        assert interface.sockets[0]._core.sock.getsockopt(1, SO_PREFER_BUSY_POLL) == 0


@pytest.mark.timing("it counts turns of a loop in 0.2 s")
@pytest.mark.parametrize("mode", MODES)
def test_busy_polling_alone_drives_the_driver(
    make_lab: Callable[..., Lab], mode: WaitMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven: list[int] = []
    recv = libc_with_gil().recv

    def note(fd: int, *arguments: Any) -> int:
        driven.append(fd)
        return int(recv(fd, *arguments))

    lab = make_lab(queues=2)
    with near(lab, mode) as interface:
        monkeypatch.setattr(libc_with_gil(), "recv", note)
        assert not interface.receive(timeout=0.2)
        if mode == "busy-poll":
            assert {sock.fileno() for sock in interface.sockets} == set(driven)
            assert len(driven) > 200
        else:
            assert len(driven) < 20


@pytest.mark.filterwarnings("default:busy polling:RuntimeWarning")  # the others ignore it; here it is counted
def test_busy_polling_says_if_it_works(lab: Lab, wire: Wire, recwarn: pytest.WarningsRecorder) -> None:
    with near(lab, "busy-poll") as interface:
        wire.send([frame(1)])
        assert collect(interface.receive, 1) == [frame(1)]
        assert not interface.receive(timeout=0.4)
        assert not interface.receive(timeout=0.4)
        works = bool(interface.sockets[0]._core.sock.getsockopt(1, SO_INCOMING_NAPI_ID))
        assert interface.info()["busy_polling"] is works
    said = [str(one.message) for one in recwarn.list if "busy polling" in str(one.message)]
    assert len(said) == (0 if works else 1)
    if said:
        assert "of veth0" in said[0]
        assert 'wait="spin"' in said[0]


def test_busy_polling_without_privilege(lab: Lab) -> None:
    """SO_PREFER_BUSY_POLL wants CAP_NET_ADMIN: a clear error, and the queue is free afterwards."""
    run_child(
        f"""
        import toolkit
        class Given:
            def fileno(self):
                return {lab.netns.fileno()}
        try:
            toolkit.Socket("veth0", wait="busy-poll", netns=Given())
        except toolkit.errors.PrivilegeError as refused:
            assert "CAP_NET_ADMIN" in str(refused) and "queue 0 of veth0" in str(refused), refused
            assert 'wait="spin"' in str(refused), refused
        else:
            raise AssertionError("it was not refused")
        toolkit.Socket("veth0", wait="spin", netns=Given()).close()
        """,
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        pass_fds=[lab.netns.fileno()],
    )


def test_a_refused_busy_poll_leaves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PrivilegeError(1, "no")

    monkeypatch.setattr("toolkit.wait.waiter._prefer_busy_poll", refuse)
    with pytest.raises(PrivilegeError):
        near(lab, "busy-poll")
    monkeypatch.undo()
    near(lab, "busy-poll").close()
