# SPDX-License-Identifier: Apache-2.0
"""The end of a Tee: closed, forgotten, killed, forked, its interface gone; and what it refuses to begin."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import NEAR_MAC, Wire, child_environment, eventually, frame, numbers
from toolkit.errors import (
    ArgumentError,
    ClosedError,
    DeviceGoneError,
    StaleBatchError,
    SystemCallError,
    ToolkitError,
)
from toolkit.lab import Lab
from toolkit.program import Rule, attached, query

# --- the end ----------------------------------------------------------------------------------------------------------


def test_close_from_another_thread_and_again(lab: Lab) -> None:
    t = toolkit.tee("veth0", filter="all", netns=lab.netns)
    threading.Timer(0.2, t.close).start()
    with pytest.raises(ClosedError):
        t.receive(timeout=20)
    t.close()
    t.close()
    assert attached(_index(lab), lab.netns) is None
    for call in (t.receive, t.counters, t.detach, t.fileno, t.wait):
        with pytest.raises(ClosedError):
            call()
    assert "closed" in repr(t)


@pytest.mark.parametrize("end", ["detach", "close"])
def test_its_end_just_now_is_no_vanished_interface(lab: Lab, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    t = toolkit.tee("veth0", filter="all", netns=lab.netns)
    ending = threading.Thread(target=getattr(t, end))

    def while_it_ends(fd: int) -> Any:
        copy = os.dup(fd)
        monkeypatch.undo()  # the end asks as well
        try:
            ending.start()
            assert eventually(lambda: query.link_info(copy).ifindex == 0)
            return query.link_info(copy)
        finally:
            os.close(copy)

    monkeypatch.setattr(query, "link_info", while_it_ends)
    if end == "detach":
        assert not t.receive(timeout=0.3)
    else:
        with pytest.raises(ClosedError):
            t.receive(timeout=20)
    ending.join()
    t.close()


def test_two_receivers_are_refused(lab: Lab) -> None:
    with toolkit.tee("veth0", filter="all", netns=lab.netns) as t:
        first = threading.Thread(target=lambda: t.receive(timeout=20))
        first.start()
        assert eventually(t._guard.locked)
        with pytest.raises(ToolkitError, match="two threads"):
            t.receive(timeout=0)
        t.wake()
        first.join()


def test_a_forgotten_tee_goes(lab: Lab) -> None:
    toolkit.tee("veth0", filter="all", netns=lab.netns)
    assert eventually(lambda: attached(_index(lab), lab.netns) is None)


def test_a_deleted_interface_is_reported(lab: Lab) -> None:
    with toolkit.tee("veth0", filter="all", netns=lab.netns) as t:
        threading.Timer(0.1, lab.delete_interface).start()
        with pytest.raises(DeviceGoneError, match="veth0"):
            t.receive(timeout=20)


def test_in_a_forked_child_it_is_dead_and_the_parent_goes_on(lab: Lab, wire: Wire) -> None:
    with toolkit.tee("veth0", filter="all", netns=lab.netns) as t:
        wire.send([frame(1)])
        batch = t.receive(timeout=5)
        view = batch.packet(0)

        def work() -> None:
            try:
                t.receive(timeout=0)
            except ClosedError:
                t.close()
                with pytest.raises(StaleBatchError):
                    batch.packet(0)
                # Its memory stayed with the parent; to look at it must not end the process.
                os._exit(8 if any(bytes(view)) else 7)

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join(20)
        assert child.exitcode == 7
        assert numbers(batch) == [1]
        wire.send([frame(2)])
        assert numbers(t.receive(timeout=5)) == [2]


KILLED = """
    import sys
    import toolkit
    class Given:
        def fileno(self):
            return int(sys.argv[1])
    with toolkit.tee("veth0", filter="all", netns=Given()) as t:
        print("ready", flush=True)
        while True:
            t.receive(timeout=0.1)
"""


UNPRIVILEGED = """
    import toolkit
    with toolkit.tee("veth0", filter="all") as t:
        print("ready", flush=True)
        print(*(bytes(packet).hex() for packet in t.receive(timeout=20)))
"""


@pytest.mark.needs("setpriv")
def test_without_the_capability_that_the_faster_way_to_copy_needs(lab: Lab, wire: Wire) -> None:
    command = ["setpriv", "--bounding-set", "-perfmon,-sys_admin", sys.executable, "-c", textwrap.dedent(UNPRIVILEGED)]
    with lab.netns.popen(command, stdout=subprocess.PIPE, text=True, env=child_environment()) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        wire.send([frame(1, 333)])
        assert child.stdout.readline() == frame(1, 333).hex() + "\n"
    assert child.returncode == 0


def test_killed_it_leaves_nothing(lab: Lab) -> None:
    netns = lab.netns.fileno()
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(netns)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=child_environment(), pass_fds=[netns]
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert attached(_index(lab), lab.netns) is not None
        assert lab.ping().received == 1
        child.kill()
    assert eventually(lambda: attached(_index(lab), lab.netns) is None)
    assert lab.ping().received == 1


def _index(lab: Lab) -> int:
    with lab.netns.entered():
        return socket.if_nametoindex("veth0")


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "nothing says which packets"),
        ({"filter": "udp", "rules": [Rule("udp")]}, "cannot be given beside rules="),
        ({"filter": "udp", "snaplen": 0}, "snaplen"),
        ({"filter": "udp", "slots": 0}, "slots"),
        ({"filter": "udp", "slots": 1 << 40}, "slots"),
        ({"filter": "udp", "coalesce": -1.0}, "coalesce"),
        ({"rules": [Rule("udp", queue=5)]}, "queue 5"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(lab: Lab, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        toolkit.tee("veth0", netns=lab.netns, **options)
    assert attached(_index(lab), lab.netns) is None


def test_another_program_on_the_interface_is_not_replaced_unasked(lab: Lab) -> None:
    with toolkit.open("veth0", filter="udp", netns=lab.netns), pytest.raises(SystemCallError, match="attached"):
        toolkit.tee("veth0", filter="all", netns=lab.netns)
    with lab.netns.entered():
        lab.set_down()
    with pytest.raises(SystemCallError, match="up"):
        toolkit.tee("veth0", filter="all", netns=lab.netns)


def test_what_it_says_of_itself(lab: Lab) -> None:
    with toolkit.tee("veth0", filter="udp", snaplen=100, slots=1000, netns=lab.netns) as t:
        info = t.info()
        assert (info["interface"], info["filter"], info["tee"], info["snaplen"]) == ("veth0", "udp", True, 100)
        assert info["slots"] >= 1000
        assert not t.zero_copy
        assert "udp" in repr(t)
        assert t.device.mac == NEAR_MAC


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
def test_a_limit_is_a_number_of_packets(lab: Lab, wire: Wire, limit: Any) -> None:
    with toolkit.tee("veth0", filter="all", netns=lab.netns) as t:
        wire.send([frame(i) for i in range(5)])
        assert t.wait(5)
        with pytest.raises(ArgumentError, match="limit"):
            t.receive(timeout=0, limit=limit)
        assert eventually(lambda: t.counters()["redirected"] == 5)
        assert numbers(t.receive(timeout=5)) == [0, 1, 2, 3, 4]


def test_packets_of_several_queues_import_nothing(make_lab: Callable[..., Lab]) -> None:
    """An interrupt in an import inside receive() would leave Python's import lock taken."""
    lab = make_lab(queues=4)
    code = """
        import sys, time
        import toolkit
        class Given:
            def fileno(self):
                return int(sys.argv[1])
        with toolkit.tee("veth0", filter="all", netns=Given()) as t:
            t.receive(timeout=0)
            before = set(sys.modules)
            print("ready", flush=True)
            sys.stdin.readline()
            queues = set()
            while batch := t.receive(timeout=0.5):
                queues.add(batch.queue)
            print(len(queues), *(set(sys.modules) - before), flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(lab.netns.fileno())],
        pass_fds=[lab.netns.fileno()],
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "ready\n"
        with lab.generator(rate=1000, count=50, cpu=0) as one, lab.generator(rate=1000, count=50, cpu=1) as two:
            one.wait(10)
            two.wait(10)
        print(file=child.stdin, flush=True)
        assert child.stdout.readline().split() == ["2"]
