# SPDX-License-Identifier: Apache-2.0
"""`xsk send` as a process, against an unmodified kernel at the other end of the wire."""

from __future__ import annotations

import collections
import json
import socket
import subprocess

import pytest

from tests.helpers.cli import ENVIRONMENT, XSK, ended, index_of, udp_socket, xsk
from tests.helpers.wire import Wire
from toolkit.lab import Lab
from toolkit.packets import frames
from toolkit.program import attached


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "10.11.0.2"), (socket.AF_INET6, "fd11::2")], ids=["IPv4", "IPv6"]
)
def test_send_reaches_a_socket_of_the_kernel(lab: Lab, family: socket.AddressFamily, address: str) -> None:
    flows: collections.Counter[int] = collections.Counter()
    with udp_socket(lab.far, 4000, family) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        done = xsk(
            lab,
            "send",
            "veth0",
            "--ip-dst",
            address,
            "--dst-port",
            "4000",
            "--src-port",
            "6000",
            "--flows",
            "3",
            "--size",
            "200",
            "-c",
            "1501",
            "--batch-size",
            "64",
            "--rate",
            "50000",
            "--json",
        )
        for _ in range(1501):  # the kernel checked MAC address, IP address and both checksums
            payload, sender = receiver.recvfrom(2000)
            assert len(payload) == 200 - 14 - (40 if family == socket.AF_INET6 else 20) - 8
            assert sender[0] == (lab.ip6 if family == socket.AF_INET6 else lab.ip)
            flows[sender[1]] += 1
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["sent"] == report["completed"] == 1501
    assert report["sent_bytes"] == 1501 * 200
    assert report["invalid"] == 0
    assert set(flows) == {6000, 6001, 6002}
    assert max(flows.values()) - min(flows.values()) <= 1


def test_send_a_frame_of_ones_own_and_leave_what_arrives_alone(lab: Lab, wire: Wire) -> None:
    text = "02:00:00:00:00:02 020000000001-88b5 " + bytes(range(50)).hex()
    done = xsk(lab, "send", "veth0", "--frame", text, "-c", "70", "--batch-size", "32")
    assert done.returncode == 0, done.stderr
    expected = bytes.fromhex("02000000000202000000000188b5") + bytes(range(50))
    assert wire.receive(70) == [expected] * 70
    assert "sent 70 = completed 70\n" in done.stderr
    # The options change it, and then its checksums are computed.
    mine = frames.udp_frame(source_mac=lab.mac, destination_mac=lab.peer_mac).hex()
    done = xsk(lab, "send", "veth0", "--frame", mine, "--dst-port", "77", "--ip-dst", "10.11.0.2", "-c", "1")
    wanted = frames.udp_frame(
        source_mac=lab.mac, destination_mac=lab.peer_mac, destination_port=77, destination_ip="10.11.0.2"
    )
    assert wire.receive(1) == [wanted], done.stderr


@pytest.mark.timing("a rate, measured until a signal comes")
def test_send_until_a_signal_attaches_nothing_and_completes(lab: Lab, wire: Wire) -> None:
    process = lab.netns.popen(
        [*XSK, "send", "veth0", "--ip-dst", "10.11.0.2", "--rate", "5000", "--json"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert len(wire.receive(500, timeout=20)) == 500
        assert attached(index_of(lab.netns, "veth0"), lab.netns) is None
        assert lab.ping(count=2).received == 2  # what arrives is the kernel's
        report = ended(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert report["sent"] == report["completed"] >= 500
    assert report["sent"] <= report["seconds"] * 5000 + 10


def test_send_says_that_the_interface_went_down_and_how_far_it_got(lab: Lab, wire: Wire) -> None:
    process = lab.netns.popen(
        [*XSK, "send", "veth0", "--ip-dst", "10.11.0.2", "--rate", "5000", "--json"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert len(wire.receive(200, timeout=20)) == 200
        lab.set_down()
        out, err = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 1
    assert "ENETDOWN" in err
    assert "Traceback" not in err
    report = json.loads(out)
    assert report["sent"] >= report["completed"] >= 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--ip-dst", "--eth-dst", "--frame"]),
        (["--ip-dst", "10.11.0.77"], ["10.11.0.77", "MAC address", "ping", "--eth-dst"]),
        (["--ip-dst", "10.99.0.1"], ["10.99.0.1", "no route", "ip route add", "--eth-dst"]),
        (["--ip-dst", "nonsense"], ["nonsense", "192.0.2.1"]),
        (["--ip-dst", "nonsense", "--eth-dst", "02:00:00:00:00:02"], ["nonsense", "--ip-dst", "IPv4"]),
        (["--eth-dst", "02:00"], ["02:00", "MAC address"]),
        (["--eth-dst", "02:00:00:00:00:02", "--src-port", "65000", "--flows", "1000"], ["65535", "--flows"]),
        (["--eth-dst", "02:00:00:00:00:02", "--size", "1600"], ["1600", "MTU", "1500"]),
        (["--eth-dst", "02:00:00:00:00:02", "--zero-copy"], ["veth0", "zero-copy"]),
        (["--eth-dst", "02:00:00:00:00:02", "--queue", "5"], ["queue 5", "EINVAL"]),
        (["--eth-dst", "zz:00:00:00:00:02"], ["zz:00", "MAC address"]),
        (["--frame", "xyz"], ["--frame", "hex"]),
        (["--frame", "0102"], ["2 bytes", "Ethernet header"]),
    ],
)
def test_send_refuses_in_a_sentence(lab: Lab, arguments: list[str], words: list[str]) -> None:
    done = xsk(lab, "send", "veth0", *arguments)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


def test_a_ping_is_advised_only_where_it_can_help(lab: Lab) -> None:
    """The kernel would ask for the MAC address of a neighbour only; where no route leads, nobody is one."""
    for address, routed in (("10.11.0.77", True), ("10.99.0.1", False), ("fd99::1", False)):
        said = xsk(lab, "send", "veth0", "--ip-dst", address).stderr
        assert ("`ping" in said) == routed, said
    lab.near.run(["ip", "route", "add", "10.99.0.0/16", "via", "10.11.0.77", "dev", "veth0"], check=True)
    said = xsk(lab, "send", "veth0", "--ip-dst", "10.99.0.1").stderr
    assert "`ping -c 1 -I veth0 10.11.0.77`" in said
