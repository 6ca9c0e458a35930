# SPDX-License-Identifier: Apache-2.0
"""`xsk echo` as a process, and the unmodified ping that it answers."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable

import pytest

from tests.helpers.cli import WAITS, ended, reconciles, running, transfer, udp_socket, xsk
from toolkit.lab import Lab

pytestmark = pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU")


@pytest.mark.needs("ping")
@pytest.mark.parametrize("how", [*WAITS, ["--generic"]], ids=" ".join)
def test_echo_answers_an_unmodified_ping(make_lab: Callable[..., Lab], how: list[str]) -> None:
    lab = make_lab(neighbours=False)  # the other kernel asks for MAC addresses first
    with running(lab, "echo", "veth0", "--json", *how) as process:
        four = lab.ping(count=100, interval=0.002)
        six = lab.ping(count=100, interval=0.002, ipv6=True)
        large = lab.ping(count=3, size=1400)
        report = ended(process)
    assert (four.received, six.received, large.received) == (100, 100, 3)
    # And ARP, and neighbour discovery; the first few may be the kernel's, which answers until the program is on.
    assert report["answered"] == report["received"] >= 195
    assert report["unanswered"] == 0
    assert set(report["addresses"]) == {lab.ip, lab.ip6}
    assert report["all_sent"]
    assert reconciles(report)


@pytest.mark.needs("ping")
def test_echo_loses_nothing_of_a_flood(lab: Lab) -> None:
    with running(lab, "echo", "veth0", "--json") as process:
        done = lab.far.run(["ping", "-f", "-q", "-c", "5000", lab.ip], capture_output=True, text=True, timeout=60)
        report = ended(process)
    assert " 5000 received" in done.stdout, done.stdout
    assert report["answered"] == report["redirected"] == 5000


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_echo_returns_datagrams_and_leaves_the_others_to_the_kernel(lab: Lab, family: socket.AddressFamily) -> None:
    address = lab.ip6 if family == socket.AF_INET6 else lab.ip
    with (
        running(lab, "echo", "veth0", "--udp-port", "4007", "--json") as process,
        udp_socket(lab.far, 0, family) as asker,
        udp_socket(lab.netns, 4008, family) as other,
    ):
        for size in (0, 1, 18, 777, 1400):
            body = os.urandom(size)
            asker.sendto(body, (address, 4007))
            assert asker.recvfrom(2000)[0] == body
        asker.sendto(b"for the kernel", (address, 4008))
        assert other.recv(100) == b"for the kernel"
        assert transfer(lab.netns, lab.far, lab.ip, 10_000)
        # Fragments cannot be answered here, so they are not taken: the kernel's own ping answer comes.
        assert lab.ping(count=1, size=4000, ipv6=family == socket.AF_INET6).received == 1
        report = ended(process)
    assert report["answered"] == report["redirected"] == 5
    assert report["passed"] > 0


def test_echo_is_a_host_that_was_not_there(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(neighbours=False)
    ask = ["ping", "-n", "-c", "3", "-i", "0.05", "-W", "20"]
    with running(
        lab, "echo", "veth0", "--ip", "10.11.0.99", "--ip", "fd11::99", "--udp-port", "0", "--json"
    ) as process:
        for address in ("10.11.0.99", "fd11::99", "10.11.0.1"):  # the last is the kernel's, and stays so
            told = lab.far.run([*ask, address], capture_output=True, text=True, timeout=30)
            assert " 3 received" in told.stdout, told.stdout
        report = ended(process)
    assert report["answered"] == report["redirected"] >= 8  # six pings, and two questions for the MAC address at least
    assert report["addresses"] == ["10.11.0.99", "fd11::99"]


def test_echo_without_an_address_says_what_to_do(lab: Lab) -> None:
    lab.netns.run(["ip", "address", "flush", "dev", "veth0"], check=True)
    done = xsk(lab, "echo", "veth0")
    assert done.returncode == 1
    assert "--ip" in done.stderr
    assert "ip address add" in done.stderr
    done = xsk(lab, "echo", "veth0", "--ip", "10.0.0.300")
    assert done.returncode == 1
    assert "10.0.0.300" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", WAITS, ids=" ".join)
def test_echo_says_that_the_interface_vanished(lab: Lab, how: list[str]) -> None:
    with running(lab, "echo", "veth0", "--json", *how) as process:
        assert lab.ping(count=3).received == 3
        lab.delete_interface()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "deleted" in err
    assert json.loads(out)["answered"] == 3
