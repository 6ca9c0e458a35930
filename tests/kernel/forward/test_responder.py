# SPDX-License-Identifier: Apache-2.0
"""A host in Python, and unmodified programs of the other end of the cable that talk to it: ping, arping, sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.echoing import IP4, IP6, PORT, Host, run
from tests.helpers.wire import eventually
from toolkit.lab import Lab

pytestmark = [
    pytest.mark.needs("ping"),
    pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU"),
]


@pytest.fixture(params=["sleeping", "spinning"])
def host(asking: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(asking, spin=request.param == "spinning") as running:
        yield running


def neighbour(lab: Lab, address: str) -> str:
    return run(lab, "ip", "neigh", "show", address, "dev", "veth1")


# --- ping -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [IP4, IP6])
def test_ping(asking: Lab, host: Host, address: str) -> None:
    """The address is resolved, and every kind of ping is answered whole: ping itself compares the payload."""
    for options in (
        ["-c", "5", "-i", "0.01"],
        ["-f", "-c", "2000"],
        ["-A", "-c", "100"],
        ["-c", "30", "-l", "30", "-i", "0.01"],
        ["-f", "-c", "300", "-s", "1400", "-l", "10"],
        ["-c", "3", "-i", "0.01", "-p", "a5"],
    ):
        said = run(asking, "ping", "-n", "-W", "20", *options, address)
        assert " 0% packet loss" in said
        for trouble in ("wrong data", "DUP", "checksum", "truncated", "different"):
            assert trouble not in said
        if "-f" not in options:
            assert "ttl=64" in said
    assert "02:00:00:00:00:01" in neighbour(asking, address)
    assert host.responder.statistics().answered >= 2439
    assert repr(host.responder).startswith("<Responder on veth0: received=")


@pytest.mark.parametrize("address", [IP4, IP6])
def test_ping_of_every_size(asking: Lab, address: str) -> None:
    with Host(asking) as host:
        for size in (0, 1, 2, 7, 8, 9, 15, 16, 17, 55, 56, 57, 127, 500, 999, 1000, 1399, 1400, 1452):
            said = run(asking, "ping", "-n", "-W", "20", "-c", "2", "-i", "0.002", "-s", str(size), address)
            assert " 0% packet loss" in said, size
            assert "wrong data" not in said
        assert host.interface.statistics().dropped == 0


def test_ping_with_options_and_from_afar(asking: Lab) -> None:
    """Record route and time stamps come back as they were; don't fragment, type of service and low TTL are fine."""
    with Host(asking):
        for options in (["-R"], ["-T", "tsonly"], ["-M", "do", "-s", "1472"], ["-Q", "0xb8"], ["-t", "1"]):
            said = run(asking, "ping", "-n", "-W", "20", "-c", "2", "-i", "0.01", *options, IP4)
            assert " 0% packet loss" in said, options


def test_what_is_not_for_us_is_not_answered(asking: Lab) -> None:
    with Host(asking) as host:
        run(asking, "ping", "-n", "-c", "1", IP4)
        before = host.responder.statistics().answered
        # Fragments, the network's broadcast and another host behind the same MAC address.
        run(asking, "ip", "neigh", "replace", "10.11.0.78", "lladdr", "02:00:00:00:00:01", "dev", "veth1")
        for options in (["-s", "3000", IP4], ["-b", "10.11.0.255"], ["10.11.0.78"]):
            done = asking.far.run(["ping", "-n", "-c", "2", "-i", "0.01", "-W", "0.2", *options], capture_output=True)
            assert b" 100% packet loss" in done.stdout, options
        assert host.responder.statistics().answered - before <= 1  # a question of the far kernel's for our MAC address
        assert host.responder.statistics().received - before >= 8


def test_many_hosts_ask_at_once(make_lab: Callable[..., Lab]) -> None:
    """On four queues, from as many processes; each answer goes back on the queue that the question came from."""
    lab = make_lab(queues=4, neighbours=False)
    with Host(lab) as host:
        pings = [
            lab.far.popen(["ping", "-n", "-q", "-f", "-c", "500", "-W", "20", address], stdout=-1, text=True)
            for address in (IP4, IP6, IP4, IP6)
        ]
        for ping in pings:
            said, _ = ping.communicate(timeout=30)
            assert " 0% packet loss" in said, said
        assert host.responder.statistics().answered >= 2000


# --- who has? -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("arping")
def test_arping(asking: Lab, host: Host) -> None:
    said = run(asking, "arping", "-c", "2", "-I", "veth1", IP4)
    assert said.upper().count("02:00:00:00:00:01") == 2, said


@pytest.mark.needs("iputils-arping")
def test_a_duplicate_ipv4_address_is_found(asking: Lab) -> None:
    """RFC 5227: a probe from 0.0.0.0 is answered, so the address is taken."""
    with Host(asking):
        for address, taken in ((IP4, True), ("10.11.0.78", False)):
            done = asking.far.run(["arping", "-D", "-c", "2", "-w", "1", "-I", "veth1", address], capture_output=True)
            assert (done.returncode != 0) is taken, done.stdout


@pytest.mark.parametrize("address", [IP4, IP6])
def test_the_kernel_resolves_and_confirms_the_address(asking: Lab, address: str) -> None:
    """REACHABLE after a question to all, and again after the unicast question of a kernel that wants to be sure."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # What it wants to be sure of it asks from its link-local address, and a Lab has none.
    run(asking, "ip", "addr", "add", "fe80::2/64", "dev", "veth1", "nodad")
    with Host(asking) as host, asking.far.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"?", (address, 9))
        assert eventually(lambda: "REACHABLE" in neighbour(asking, address)), neighbour(asking, address)
        answered = host.responder.statistics().answered
        run(asking, "ip", "neigh", "change", address, "dev", "veth1", "lladdr", "02:00:00:00:00:01", "nud", "probe")
        assert eventually(lambda: "REACHABLE" in neighbour(asking, address)), neighbour(asking, address)
        assert host.responder.statistics().answered > answered


@pytest.mark.parametrize("enhanced", [1, 0])
def test_a_duplicate_ipv6_address_is_found(asking: Lab, enhanced: int) -> None:
    """The far kernel gives itself our address, and one that is free; only the first fails (RFC 4862, RFC 7527)."""

    def configure() -> None:
        for key, value in (("accept_dad", 1), ("dad_transmits", 1), ("enhanced_dad", enhanced)):
            with open(f"/proc/sys/net/ipv6/conf/veth1/{key}", "w") as setting:
                setting.write(str(value))
        with open("/proc/sys/net/ipv6/conf/all/accept_dad", "w") as setting:
            setting.write("1")

    asking.far.call(configure)
    with Host(asking):
        run(asking, "ip", "addr", "add", f"{IP6}/64", "dev", "veth1")
        assert eventually(lambda: "dadfailed" in run(asking, "ip", "addr", "show", "dev", "veth1"), timeout=3.0)
        run(asking, "ip", "addr", "del", f"{IP6}/64", "dev", "veth1")
        run(asking, "ip", "addr", "add", "fd11::78/64", "dev", "veth1")
        assert eventually(lambda: "tentative" not in run(asking, "ip", "addr", "show", "dev", "veth1"), timeout=5.0)
        assert "dadfailed" not in run(asking, "ip", "addr", "show", "dev", "veth1")


# --- UDP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [IP4, IP6])
def test_udp_echo(asking: Lab, host: Host, address: str) -> None:
    """Through kernel sockets, which verify checksums; one datagram at a time, and many at once."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with asking.far.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
        sock.connect((address, PORT))
        for size in (0, 1, 2, 17, 18, 19, 1000, 1452):
            payload = bytes(i * 7 & 0xFF for i in range(size))
            sock.send(payload)
            assert sock.recv(2000) == payload
        for burst in range(20):
            payloads = [f"datagram {burst} {i}".encode() * (i + 1) for i in range(30)]
            for payload in payloads:
                sock.send(payload)
            assert [sock.recv(2000) for _ in payloads] == payloads


def test_two_echoes_do_not_talk_for_ever(asking: Lab) -> None:
    with Host(asking) as host, asking.far.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", PORT))
        sock.settimeout(0.2)
        run(asking, "ping", "-n", "-c", "1", IP4)
        before = host.responder.statistics().answered
        sock.sendto(b"tick", (IP4, PORT))
        with pytest.raises(TimeoutError):
            sock.recv(100)
        assert host.responder.statistics().answered - before <= 1
