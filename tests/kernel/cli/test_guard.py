# SPDX-License-Identifier: Apache-2.0
"""A filter that would cut off the session one is in: asked before, refused without an answer; harmless ones are not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import ROOT
from toolkit.lab import Lab, Namespace
from toolkit.net import sessions
from toolkit.net.sessions import Session

LOGIN = ROOT / "tests" / "helpers" / "ssh_like.py"
XSK = (sys.executable, "-m", "toolkit.cli")
PORT = 2222


def logged_in(
    lab: Lab, *command: str, ipv6: bool = False, answer: str = "", netns: Namespace | None = None
) -> dict[str, Any]:
    """Log in to the near host from the far one, run a command there, and tell how it went."""
    address = lab.ip6 if ipv6 else lab.ip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SSH_LIKE_ANSWER": answer}
    process = (netns or lab.netns).popen(
        [sys.executable, str(LOGIN), address, str(PORT), *command],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        with lab.far.entered():
            peer = socket.create_connection((address, PORT), timeout=30)
        with peer:
            peer.sendall(b"hello")
            assert peer.recv(16) == b"still there?"
            peer.sendall(b"yes")
            out, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    report: dict[str, Any] = json.loads(out)
    return report


def receive(lab: Lab, expression: str, *more: str, **how: Any) -> dict[str, Any]:
    return logged_in(lab, *XSK, "receive", lab.interface, "-f", expression, "--seconds", "0.3", *more, **how)


@pytest.mark.parametrize(
    ("expression", "ipv6"),
    [("all", False), (f"tcp dst port {PORT}", True), ("tcp and greater 400", False)],
)
def test_what_takes_the_session_is_refused(lab: Lab, expression: str, ipv6: bool) -> None:
    report = receive(lab, expression, ipv6=ipv6)
    assert report["status"] == 1
    assert report["works"]
    assert "may cut you off" in report["err"]
    assert (lab.peer_ip6 if ipv6 else lab.peer_ip) in report["err"]
    assert "--yes" in report["err"]
    assert not report["out"], "nothing was opened"


@pytest.mark.parametrize("ipv6", [False, True])
def test_echo_answers_what_the_session_needs(make_lab: Callable[..., Lab], ipv6: bool) -> None:
    """It takes ARP and neighbour discovery, but as it answers them nobody is forgotten: no question over SSH."""
    lab = make_lab(neighbours=False)
    report = logged_in(lab, *XSK, "echo", lab.interface, "--seconds", "0.3", ipv6=ipv6)
    assert report["status"] == 0, report["err"]
    assert report["works"]


def test_copies_cut_nobody_off_but_what_is_dropped_does(lab: Lab) -> None:
    report = receive(lab, "all", "--tee", "--on-match", "drop")
    assert report["status"] == 1
    assert report["works"]
    assert "may cut you off" in report["err"]
    report = receive(lab, "all", "--tee")
    assert report["status"] == 0, report["err"]
    assert report["works"]


@pytest.mark.parametrize("expression", ["udp", "tcp[13] & 0x12 = 0x12"])
def test_what_leaves_it_alone_is_not_asked_about(lab: Lab, expression: str) -> None:
    report = receive(lab, expression)
    assert report["status"] == 0, report["err"]
    assert report["works"]
    assert "cut you off" not in report["err"]
    assert "filter: " + expression in report["err"]


def test_the_filter_that_it_proposes_is_taken(lab: Lab) -> None:
    refused = receive(lab, "all")
    proposed = refused["err"].split("Next step: '")[1].split("' leaves")[0]
    assert proposed.startswith(f"not ((tcp port {PORT} and host {lab.peer_ip}) or ")
    assert "arp" in proposed, "without which the session hangs after a while"
    last = receive(lab, proposed)
    assert last["status"] == 0, last["err"]
    assert last["works"]


@pytest.mark.parametrize(("expression", "ipv6", "word"), [("arp", False, "ARP"), ("icmp6", True, "discovery")])
def test_losing_the_neighbour_is_losing_the_session(lab: Lab, expression: str, ipv6: bool, word: str) -> None:
    report = receive(lab, expression, ipv6=ipv6)
    assert report["status"] == 1
    assert word in report["err"]
    assert "after a while" in report["err"]


@pytest.mark.parametrize("how", [("--yes",), ("--on-match", "count")])
def test_yes_and_what_only_counts_go_on(lab: Lab, how: tuple[str, ...]) -> None:
    report = receive(lab, "tcp", *how)
    assert report["status"] == 0, report["err"]
    assert report["works"], "the program is gone, and TCP sends again what was taken meanwhile"


@pytest.mark.parametrize(
    "command",
    [("drop", "-f", "tcp", "--on-match", "drop"), ("forward", "-f", "all", "--mac-swap")],
)
def test_the_other_commands_ask_too(lab: Lab, command: tuple[str, ...]) -> None:
    name, *more = command
    report = logged_in(lab, *XSK, name, lab.interface, *more, "--seconds", "0.3")
    assert report["status"] == 1
    assert "may cut you off" in report["err"]
    assert report["works"]


def test_workers_ask_too(lab: Lab) -> None:
    report = receive(lab, "tcp", "--workers", "1")
    assert report["status"] == 1
    assert "may cut you off" in report["err"]


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1)])
def test_on_a_terminal_one_is_asked(lab: Lab, answer: str, status: int) -> None:
    report = receive(lab, "tcp", answer=answer)
    assert "Go on all the same?" in report["out"]
    assert report["status"] == status, report["out"]
    assert ("filter: tcp" in report["out"]) is (answer == "y")
    assert report["works"]


def test_a_session_that_comes_in_elsewhere_is_nobody_s_business(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    """Another interface of the same host, and another network namespace."""
    with lab.netns.entered():
        subprocess.run(["ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1"], check=True)
        subprocess.run(["ip", "link", "set", "dev", "other0", "up"], check=True)
    report = logged_in(lab, *XSK, "receive", "other0", "-f", "all", "--seconds", "0.2")
    assert report["status"] == 0, report["err"]
    second = make_lab()
    pid = second.netns.popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        report = receive(lab, "all", "--netns", str(pid.pid))
        assert report["status"] == 0, report["err"]
        assert report["works"]
    finally:
        pid.communicate(b"\n")


def test_a_session_over_a_bridge_is_seen_on_its_ports(lab: Lab) -> None:
    with lab.netns.entered():
        for command in (
            "link add br0 type bridge",
            f"link set dev {lab.interface} master br0",
            "link set dev br0 up",
            "address add 10.43.0.1/24 dev br0",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        path = sessions.way_of(Session("10.43.0.1", 22, "10.43.0.2", 1234, 1, "sshd"))
    assert path.carriers == {"br0": (), lab.interface: ()}


def test_ancestors_and_their_sockets() -> None:
    pids = sessions.ancestors()
    assert pids[:2] == [os.getpid(), os.getppid()]
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        found = {(s.local, s.local_port, s.peer, s.peer_port, s.pid) for s in sessions.of_ancestors().found}
        for one in (client, accepted):
            assert (*one.getsockname(), *one.getpeername(), os.getpid()) in found
