# SPDX-License-Identifier: Apache-2.0
"""SIGINT, SIGKILL and signal handlers at any moment: packets may be late, frames are not lost, nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import toolkit
from tests.helpers.storms import Storm, accounted
from tests.helpers.wire import (
    Wire,
    assert_all_free,
    child_environment,
    eventually,
    frame,
    netns_in_use,
    numbers,
    piece_by_piece,
)
from toolkit.errors import ClosedError, ToolkitError
from toolkit.lab import Lab
from toolkit.program import Program, attached
from toolkit.umem.umem import UMEM

pytestmark = pytest.mark.timing("signals at random moments of a loop, which moves on when it has a CPU")


@pytest.fixture
def traffic(lab: Lab) -> Iterator[None]:
    """Packets from the far end, as many as come, from a thread: numbered frames without a pause."""
    stop = threading.Event()
    frames = [frame(i, 64) for i in range(64)]

    def flood(wire: Wire) -> None:
        while not stop.is_set():
            wire.send(frames)
            time.sleep(0.001)

    with Wire(lab) as wire:
        thread = threading.Thread(target=flood, args=(wire,))
        thread.start()
        yield
        stop.set()
        thread.join()


@pytest.mark.parametrize("style", ["plain", "with", "release", "copy"])
def test_sigint_in_a_receiving_loop(lab: Lab, traffic: None, style: str) -> None:
    """Hundreds of times, at moments spread over the loop: each time the Interface goes on and every frame is there."""
    with toolkit.open("veth0", filter="all", ring_size=64, frames=96, netns=lab.netns) as interface, Storm() as storm:

        def loop() -> None:
            while True:
                batch = interface.receive(timeout=0.01)
                if style == "with":
                    with batch:
                        batch.lengths.sum()
                elif style == "release":
                    batch.release()
                elif style == "copy":
                    batch.copy()

        for _ in range(250):
            assert storm.strike_during(loop)
            audit = accounted(interface.umem)
            assert audit["user"] == audit["tx"] == audit["retired"] == 0
        # All of them are still in the round: none was lost to a loan that nobody holds.
        assert eventually(lambda: interface.receive(timeout=1.0))
        interface.receive(timeout=0)
        while batch := interface.receive(timeout=0):
            batch.release()
        audit = accounted(interface.umem)
        assert audit["received"] == 0, audit
        assert interface.receive(timeout=1.0)
        assert storm.sent == 250


def test_sigint_while_closing(lab: Lab, traffic: None) -> None:
    """close() is not cut in half: after the KeyboardInterrupt, or after a second close(), everything is gone."""
    with Storm(longest=0.004) as storm, Program.build("xsk_redirect.c") as program:
        for _ in range(60):
            interface = toolkit.open("veth0", program=program, ring_size=64, netns=lab.netns)
            interface.receive(timeout=1.0)
            storm.strike_during(interface.close)
            interface.close()
            assert interface.umem.closed
            assert interface.link.closed
            assert all(sock._core.fd < 0 for sock in interface.sockets)
            counts = interface.umem.ledger.audit()
            assert counts["free"] == counts["frames"]


def test_sigint_while_opening(lab: Lab, traffic: None) -> None:
    """An interrupted open() leaves nothing: the next one succeeds at once."""
    with lab.netns.entered():
        index = socket.if_nametoindex("veth0")
    with Storm(longest=0.03) as storm, Program.build("xsk_redirect.c") as program:
        for _ in range(60):
            opened: list[toolkit.Interface] = []
            storm.strike_during(
                lambda opened=opened: opened.append(
                    toolkit.open("veth0", program=program, ring_size=64, netns=lab.netns)
                )
            )
            for one in opened:
                one.close()
            assert attached(index, lab.netns) is None
        with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
            assert interface.receive(timeout=5.0)


def test_sigint_in_the_piece_by_piece_loop(lab: Lab, traffic: None) -> None:
    """Frames that were peeked or freed when the interrupt came are delayed until the Socket closes, at the latest."""
    with Program.build("xsk_redirect.c") as program, UMEM(128, 2048) as umem, Storm(3) as storm:
        for _ in range(40):
            with (
                toolkit.Socket("veth0", umem=umem, rx_size=64, tx_size=64, netns=lab.netns) as sock,
                piece_by_piece(program, lab, sock),
            ):

                def loop(sock: toolkit.Socket = sock) -> None:
                    while True:
                        sock.fill.fill_all(umem, 32)
                        sock.wait(0.05)
                        n, index = sock.rx.peek()
                        for i in range(n):
                            umem.free_frame(sock.rx.get(index + i).addr)
                        sock.rx.release(n)

                assert storm.strike_during(loop)
                accounted(umem)
            assert_all_free(umem)


# --- handlers -------------------------------------------------------------------------------------------------------


def receive_for_ever(target: Any, timeout: float | None) -> None:
    while True:
        target.receive(timeout=timeout)


@pytest.mark.timing("the end is due 8 s after the signal")
@pytest.mark.parametrize("level", ["interface", "socket"])
@pytest.mark.parametrize("timeout", [0, None])
def test_close_in_a_signal_handler(
    lab: Lab, wire: Wire, level: str, timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot succeed inside receive(), and says so after 5 s; outside it closes at once. Never a dead lock."""
    if (level, timeout) != ("interface", None):  # one case with the real timeout is enough
        monkeypatch.setattr("toolkit._base.closing.CLOSE_TIMEOUT", 0.5)
    with Program.build("xsk_redirect.c") as program:
        if level == "socket":
            target: Any = toolkit.Socket("veth0", netns=lab.netns)
        else:
            target = toolkit.open("veth0", program=program, ring_size=64, netns=lab.netns)
        said: list[BaseException | None] = []

        def handler(*_: object) -> None:
            try:
                target.close()
                said.append(None)
            except ToolkitError as refused:
                said.append(refused)

        before = signal.signal(signal.SIGALRM, handler)
        begin = time.monotonic()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(ClosedError):
                receive_for_ever(target, timeout)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - begin < 8
        assert len(said) == 1
        if said[0] is not None:
            assert "signal handler" in str(said[0])
            assert "set a flag" in str(said[0])
        target.close()
        assert target.umem.closed


def test_receive_in_a_signal_handler_that_interrupted_receive(lab: Lab, wire: Wire) -> None:
    with toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns) as interface:
        said: list[str] = []

        def handler(*_: object) -> None:
            try:
                interface.receive(timeout=0)
            except ToolkitError as refused:
                said.append(str(refused))

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            interface.receive(timeout=0.5)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert len(said) == 1
        assert "signal handler" in said[0]
        wire.send([frame(1)])
        assert numbers(interface.receive(timeout=5.0)) == [1]


# --- SIGKILL --------------------------------------------------------------------------------------------------------

RECEIVER = """
    import sys
    import toolkit
    class Given:
        def fileno(self):
            return int(sys.argv[1])
    with toolkit.open("veth0", filter="all", ring_size=64, netns=Given()) as interface:
        print("ready", interface.program.id, interface.link.id, flush=True)
        while True:
            interface.receive(timeout=0.1)
"""

LAB_OWNER = """
    import time
    import toolkit
    from toolkit.lab import Lab
    lab = Lab(queues=2)
    interface = toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns)
    sleeper = lab.far.popen(["sleep", "1000"])
    from toolkit._base.records import netns_here
    ends = []
    for end in (lab.netns, lab.far):
        with end.entered():
            ends += netns_here()
    print("ready", *ends, sleeper.pid, flush=True)
    while True:
        interface.receive(timeout=0.1)
"""


def start(code: str, *arguments: str, **popen: Any) -> tuple[subprocess.Popen[str], list[int]]:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
        **popen,
    )
    assert child.stdout is not None
    words = child.stdout.readline().split()
    assert words[:1] == ["ready"]
    return child, [int(word) for word in words[1:]]


def kill(child: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> int:
    child.send_signal(how)
    child.wait(10)
    assert child.stdout is not None
    child.stdout.close()
    return child.returncode


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_receiver_leaves_its_queue_and_interface_free(lab: Lab, traffic: None, how: signal.Signals) -> None:
    with lab.netns.entered():
        index = socket.if_nametoindex("veth0")
    netns = lab.netns.fileno()
    for turn in range(2):
        child, (program_id, link_id) = start(RECEIVER, str(netns), pass_fds=[netns], stderr=subprocess.DEVNULL)
        running = attached(index, lab.netns)
        assert running is not None
        assert running.program.id == program_id
        assert running.link_ids == (link_id,)
        time.sleep(0.05 * turn)
        assert kill(child, how) != 0
        assert eventually(lambda: attached(index, lab.netns) is None)
        with toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns) as interface:
            assert interface.receive(timeout=5.0)


def test_sigkill_takes_the_namespaces_and_their_programs_along() -> None:
    child, (near, near_cookie, far, far_cookie, sleeper) = start(LAB_OWNER)
    ends = ((near, near_cookie), (far, far_cookie))
    assert all(netns_in_use(*end) for end in ends)
    assert os.path.exists(f"/proc/{sleeper}")
    kill(child)
    assert eventually(lambda: not any(netns_in_use(*end) for end in ends))
    assert eventually(lambda: not os.path.exists(f"/proc/{sleeper}"))
