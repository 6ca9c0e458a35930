# SPDX-License-Identifier: Apache-2.0
"""A filter that takes what services of this host wait for: asked before, named, refused without an answer."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.cli import ENVIRONMENT, XSK, running, xsk
from tests.helpers.wire import eventually, what_runs
from toolkit.cli import guard_services
from toolkit.cli.guard_probes import Probe
from toolkit.lab import Lab, Namespace
from toolkit.net import reach

PORT = 8080


def listening(namespace: Namespace, address: str = "", port: int = PORT) -> socket.socket:
    """A listening TCP socket of the kernel's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.entered():
        made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen()
    return made


def bound(namespace: Namespace, address: str = "", port: int = PORT) -> socket.socket:
    """A bound UDP socket of the kernel's."""
    with namespace.entered():
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    return made


def asked(lab: Lab, expression: str, interface: str = "", **how: bool) -> str:
    """What would be asked about, as one text; "" for nothing."""
    with lab.netns.entered():
        found = list(guard_services.harms(interface or lab.interface, Probe(expression), **how))
    return "\n".join(one.text for one in found)


def ip(lab: Lab, *commands: str) -> None:
    with lab.netns.entered():
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture
def service(lab: Lab) -> Iterator[socket.socket]:
    with listening(lab.netns) as made:
        yield made


@pytest.mark.parametrize(
    "command",
    [
        ["receive", "veth0", "-f", "tcp"],
        ["receive", "veth0", "-f", "all", "--workers", "1"],
        ["receive", "veth0", "-f", "tcp", "--tee", "--on-match", "drop"],
        ["receive", "veth0", "-f", "tcp", "--sample", "10"],
        ["capture", "veth0", "tcp", "-w", "/dev/null"],
        ["top", "veth0", "-f", "tcp"],
        ["drop", "veth0", "-f", "tcp"],
        ["drop", "veth0", "-f", "tcp", "--on-match", "drop"],
        ["forward", "veth0", "-f", "all"],
        ["demo", "-i", "veth0", "-f", "tcp"],
    ],
    ids=" ".join,
)
def test_each_command_asks_before_it_takes(lab: Lab, service: socket.socket, command: list[str]) -> None:
    done = xsk(lab, *command, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert f"TCP to port {PORT} (" in done.stderr
    assert f"pid {os.getpid()}), from anybody" in done.stderr
    assert "nothing was done" in done.stderr
    assert "--yes" in done.stderr
    assert done.stdout == ""
    assert what_runs(lab) is None


@pytest.mark.parametrize(
    "command",
    [
        ["receive", "-f", "tcp", "--yes"],
        ["receive", "-f", "tcp", "--tee"],
        ["receive", "-f", "tcp", "--on-match", "count"],
        ["receive", "-f", "tcp port 9"],
        ["top", "-f", "all", "--tee"],
        ["drop", "-f", "udp"],
        ["echo"],
    ],
    ids=" ".join,
)
def test_what_harms_nobody_or_is_wanted_goes_on(lab: Lab, service: socket.socket, command: list[str]) -> None:
    name, *more = command
    done = xsk(lab, name, "veth0", *more, "--seconds", "0.3", stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def test_echo_asks_for_the_port_of_somebody_else(lab: Lab) -> None:
    with bound(lab.netns, port=7):
        done = xsk(lab, "echo", "veth0", "--seconds", "0.3")
        assert done.returncode == 1
        assert "UDP to port 7 (" in done.stderr
        assert "echo UDP at another port (--udp-port; 0: nowhere); or say --yes" in done.stderr, "it has no --filter"
        for more in (["--yes"], ["--udp-port", "9"]):
            assert xsk(lab, "echo", "veth0", "--seconds", "0.3", *more).returncode == 0


def test_a_bridge_asks_for_both_ends_before_it_takes_from_one(lab: Lab) -> None:
    ip(lab, "link add other0 type veth peer name other1", "address add 10.77.0.1/24 dev other0", "link set other0 up")
    with listening(lab.netns, "10.77.0.1"):
        done = xsk(lab, "forward", "veth0", "other0", "-f", "tcp", "--both")
        proposed = done.stderr.split("Next step: '")[1].split("' leaves")[0]
        again = xsk(lab, "forward", "veth0", "other0", proposed, "--both", "--seconds", "0.2")
    assert done.returncode == 1
    assert "on veth0 and other0 takes packets that this host needs" in done.stderr
    assert again.returncode == 0, again.stderr


def test_the_truth_of_it(lab: Lab, service: socket.socket) -> None:
    """What it warns of happens, and with the filter that it proposes it does not."""
    refused = xsk(lab, "receive", "veth0", "-f", "all").stderr
    proposed = refused.split("Next step: '")[1].split("' leaves")[0]
    assert proposed == f"not tcp dst port {PORT}"

    def connects() -> bool:
        with lab.far.entered():
            client = socket.socket()
        with client:
            client.settimeout(0.7)
            try:
                client.connect((lab.ip, PORT))
            except OSError:
                return False
            return True

    assert connects()
    with running(lab, "receive", "veth0", "-f", proposed):
        assert connects()
    with running(lab, "receive", "veth0", "-f", "all", "--yes"):
        assert not connects()


def test_where_nothing_listens_nothing_is_asked(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    for one in (lab, make_lab(neighbours=False)):
        for expression in ("all", "arp", "tcp", "icmp6"):
            assert asked(one, expression) == ""


def test_other_addresses_and_ports_are_nobody_s_business(lab: Lab) -> None:
    ip(lab, "link add other0 type veth peer name other1", "link set other0 up", "address add 10.77.0.1/24 dev lo")
    with listening(lab.netns, "127.0.0.1"):
        assert asked(lab, "all") == ""
    with listening(lab.netns, lab.ip):
        assert f"port {PORT}" in asked(lab, "all")
        for expression in ("udp", "tcp port 9", "dst host 10.11.0.99", "ip6", "vlan", "icmp", "tcp dst portrange 1-79"):
            assert asked(lab, expression) == "", expression
        assert asked(lab, "all", "other0") == ""
        assert asked(lab, "all", "no-such") == ""
    with listening(lab.netns, "10.77.0.1"):
        assert f"port {PORT}" in asked(lab, "tcp"), "an address of lo is reached through any interface"


def test_on_lo_this_host_talks_to_itself(lab: Lab) -> None:
    ip(lab, "link set lo up")
    for address in ("127.0.0.1", "127.0.0.53", "::1", lab.ip, lab.ip6):
        with listening(lab.netns, address):
            assert f"TCP to port {PORT} (" in asked(lab, "all", "lo"), address
            assert f"TCP to port {PORT} (" in asked(lab, f"dst host {address}", "lo"), address
            assert asked(lab, f"tcp port {PORT} and src host {address}", "lo") != "", address
            assert asked(lab, "udp or arp or icmp6", "lo") == "", address
    with listening(lab.netns, "127.0.0.1") as server, lab.netns.entered():
        client = socket.create_connection(("127.0.0.1", PORT))
        with client, server.accept()[0]:
            assert asked(lab, f"tcp src port {PORT}", "lo").startswith("the TCP connection to 127.0.0.1")


@pytest.mark.parametrize("host", ["10.11.0.2", "10.11.0.77", "192.0.2.7"])
def test_hosts_that_the_filter_names(lab: Lab, service: socket.socket, host: str) -> None:
    assert asked(lab, f"src host {host}").endswith(f"from {host}")
    assert asked(lab, f"host {host} and tcp port {PORT}").endswith(f"from {host}")
    assert asked(lab, f"host {host} and udp port 9") == ""
    assert asked(lab, f"tcp and not host {host}") != ""


@pytest.mark.parametrize("expression", ["src host 192.0.2.7", "ether src 02:00:00:00:99:99", f"tcp port {PORT}"])
def test_a_filter_that_calculates_among_many_neighbours(make_lab: Callable[..., Lab], expression: str) -> None:
    """It tells all of them apart, so that not all can be tried: whom it names comes first."""
    lab = make_lab(neighbours=False)
    entries = "".join(f"neigh add 10.11.0.{at} lladdr 02:00:00:00:01:{at:02x} dev veth0\n" for at in range(3, 90))
    lab.netns.run(["ip", "-batch", "-"], input=entries, text=True, check=True)
    with listening(lab.netns):
        assert f"TCP to port {PORT} (" in asked(lab, f"{expression} and ip[2:2] + 4 > 20")


@pytest.mark.parametrize("expression", ["tcp[13] & 1 != 0", "tcp[tcpflags] == tcp-rst", "tcp and len <= 54"])
def test_segments_of_every_kind(lab: Lab, service: socket.socket, expression: str) -> None:
    """The end of a connection, and a bare acknowledgment of a host that sends no time stamps."""
    assert asked(lab, expression).startswith(f"TCP to port {PORT} (")


def test_ipv6_and_link_local(lab: Lab) -> None:
    with listening(lab.netns, "::"):
        assert f"TCP to port {PORT}" in asked(lab, "ip6 and tcp")
        assert "by IPv6" in asked(lab, "ip6")
        assert f"TCP to port {PORT}" in asked(lab, "ip and tcp"), "it takes IPv4 as well"
    ip(lab, "address add fe80::1/64 dev veth0 nodad")
    with lab.netns.entered():
        made = socket.socket(socket.AF_INET6)
        made.bind(("fe80::1", PORT, 0, socket.if_nametoindex("veth0")))
    with made:
        made.listen()
        assert f"port {PORT}" in asked(lab, "src net fe80::/10 and tcp")
        assert asked(lab, "ip6 dst host fd11::1") == ""


def test_udp_to_all_and_client_sockets(lab: Lab) -> None:
    with bound(lab.netns):
        assert f"UDP to port {PORT}" in asked(lab, "ether broadcast")
        assert asked(lab, "udp src port 53") == ""
    with bound(lab.netns, port=45000):
        assert asked(lab, "udp src port 53").endswith("from anybody with source port 53"), "it may wait for an answer"
        assert asked(lab, "udp dst port 45000").endswith("from anybody")
        assert asked(lab, "udp port 9") == "", "the first example of the README: nobody answers from the discard port"


@pytest.mark.parametrize(
    ("address", "expression"), [("", "udp"), ("", "ip[6:2] & 0x1fff != 0"), ("::", "ip6"), ("::", "ip6 proto 44")]
)
def test_later_fragments_have_no_ports(lab: Lab, address: str, expression: str) -> None:
    """A datagram without its second half never arrives: what is proposed leaves that alone too."""
    assert asked(lab, expression) == ""
    with bound(lab.netns, address) as service:
        assert "later fragments of UDP datagrams, from anybody" in asked(lab, expression)
        refused = xsk(lab, "receive", "veth0", "-f", "udp").stderr
        proposed = refused.split("Next step: '")[1].split("' leaves")[0]
        service.settimeout(10)
        with running(lab, "receive", "veth0", "-f", proposed), lab.far.entered():
            with socket.socket(service.family, socket.SOCK_DGRAM) as sender:
                sender.sendto(bytes(4000), (lab.ip6 if address else lab.ip, PORT))
            assert len(service.recv(5000)) == 4000


def test_multicast_that_somebody_joined(lab: Lab) -> None:
    with bound(lab.netns, port=5353) as made:
        assert asked(lab, "dst net 224.0.0.0/4") == ""
        group = socket.inet_aton("224.0.0.251") + socket.inet_aton(lab.ip)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        assert "UDP to port 5353" in asked(lab, "dst net 224.0.0.0/4")
        assert "UDP to port 5353" in asked(lab, "ether dst 01:00:5e:00:00:fb")
        assert asked(lab, "dst host 224.0.0.252") == ""
    with lab.netns.entered():
        index = socket.if_nametoindex("veth0")
    with bound(lab.netns, "::", port=5353) as made:
        group = socket.inet_pton(socket.AF_INET6, "ff02::fb") + index.to_bytes(4, sys.byteorder)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        assert "UDP to port 5353" in asked(lab, "ip6 dst host ff02::fb")
        assert "UDP to port 5353" in asked(lab, "ether dst 33:33:00:00:00:fb")


def test_connections_to_others(lab: Lab) -> None:
    with listening(lab.far) as server:
        with lab.netns.entered():
            client = socket.socket()
        with client:
            client.connect((lab.peer_ip, PORT))
            assert asked(lab, f"tcp src port {PORT}").startswith(f"the TCP connection to {lab.peer_ip} port {PORT} (")
            assert asked(lab, "tcp src port 9") == ""
            assert asked(lab, f"tcp dst port {client.getsockname()[1]} and greater 1000") != ""
        server.accept()[0].close()
    with bound(lab.netns, port=40001) as client:
        client.connect((lab.peer_ip, 53))
        assert asked(lab, "udp port 53").startswith(f"the UDP connection to {lab.peer_ip} port 53 (")


def test_neighbours_find_each_other(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(neighbours=False)
    with listening(lab.netns):
        assert asked(lab, "arp").startswith("ARP, so that")
        assert asked(lab, "arp", answered=True) == ""
        assert asked(lab, "ether broadcast").startswith("ARP, so that")
        assert asked(lab, "arp dst host 10.11.0.99") == ""
    with listening(lab.netns, "::"):
        assert asked(lab, "icmp6").startswith("neighbour discovery")
        proposed = xsk(lab, "receive", "veth0", "-f", "all").stderr.split("Next step: '")[1].split("' leaves")[0]
        assert asked(lab, proposed) == ""
        assert "arp" in proposed


def test_bridges_stand_on_their_ports(lab: Lab) -> None:
    ip(lab, "link add br0 type bridge", "link set veth0 master br0", "address add 10.43.0.1/24 dev br0")
    ip(lab, "link set br0 up")
    with listening(lab.netns, "10.43.0.1"):
        assert f"port {PORT}" in asked(lab, "tcp")
        assert asked(lab, "tcp and dst host 10.11.0.1") == ""


def test_tags_on_the_way(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every kernel has VLAN devices: here the lane is made by hand."""
    lane = reach.Lane("veth0.42", "02:00:00:00:00:01", (7, 42), True, {"10.42.0.1": 24}, (), {}, ())
    monkeypatch.setattr(reach, "lanes", lambda interface: [lane])
    with listening(lab.netns):
        for expression in (
            "vlan 7 and vlan 42 and tcp",
            "vlan 42 and tcp",
        ):  # as it is, and where the NIC takes one off
            assert f"port {PORT}" in asked(lab, expression)
        assert "ARP" in asked(lab, "vlan 7 and vlan 42 and arp")
        for expression in ("vlan 43", "vlan 42 and udp", "tcp"):
            assert asked(lab, expression) == ""


def test_what_comes_from_beyond(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway: hosts beyond it, name servers, the lease of an address."""
    resolvers = tmp_path / "resolv.conf"
    resolvers.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch example\n")
    monkeypatch.setattr(guard_services, "_RESOLVERS", (str(resolvers),))
    assert asked(lab, "udp port 53") == ""
    ip(lab, f"route add default via {lab.peer_ip}")
    assert asked(lab, "udp port 53") == "the answers of the name server 192.0.2.53"
    assert asked(lab, "udp port 67 or udp port 68") == ""
    ip(lab, f"address change {lab.ip}/24 dev veth0 valid_lft 600 preferred_lft 600")
    assert asked(lab, "udp port 68") == f"the DHCP server's answers, so that {lab.ip} expires"
    with listening(lab.netns):
        assert asked(lab, "ip and tcp and not src net 10.11.0.0/24").endswith("from hosts beyond the gateway")


def test_many_ports_are_one_line(lab: Lab) -> None:
    with contextlib.ExitStack() as made:
        for port in range(PORT, PORT + 40):
            made.enter_context(listening(lab.netns, port=port))
        text = asked(lab, "tcp")
        assert text.count("\n") == 0
        assert "and 34 more, from anybody" in text
        assert len(text) < 250
        refused = xsk(lab, "receive", "veth0", "-f", "tcp or udp").stderr
        assert "'(tcp or udp) and not tcp' leaves all of them alone" in refused
        assert "leave these packets out" in xsk(lab, "receive", "veth0", "-f", "tcp").stderr, "nothing is left of it"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_question_can_be_interrupted(lab: Lab, service: socket.socket, number: int) -> None:
    ours, theirs = pty.openpty()
    process = lab.netns.popen(
        [*XSK, "receive", "veth0", "-f", "tcp"], env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(number)
        if not eventually(lambda: process.poll() is not None, 5):  # it came between the question and the read
            process.send_signal(number)
        assert eventually(lambda: process.poll() is not None, 10)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert process.returncode == (1 if number == signal.SIGINT else -signal.SIGTERM)
    assert what_runs(lab) is None
