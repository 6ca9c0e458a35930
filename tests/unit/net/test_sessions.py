# SPDX-License-Identifier: Apache-2.0
"""Which frames a session is made of, and through which devices they come: what needs no session to be tried."""

from __future__ import annotations

import pytest

from toolkit.cli import guard_session
from toolkit.cli.guard_probes import Probe
from toolkit.cli.guard_services import Harm
from toolkit.net import reach, sessions, sockets
from toolkit.net.reach import NetworkLink
from toolkit.net.sessions import Path, Session

FOUR = Session("10.42.0.1", 22, "10.42.0.2", 1234, 7, "sshd")
SIX = Session("fd00::1", 22, "fd00::2", 1234, 7, "sshd")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


def harm(session: Session, path: Path, interface: str, expression: str) -> list[Harm]:
    return list(guard_session._harm(session, path, interface, Probe(expression)))


def way(session: Session, tags: tuple[int, ...] = (), tunnel: str = "") -> Path:
    return Path({"eth0": tags}, MACS[0], session.peer, MACS[1], tunnel)


@pytest.mark.parametrize("session", [FOUR, SIX], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    "expression",
    [
        "tcp",
        "tcp dst port 22",
        "ether dst 02:00:00:00:00:01",
        "ether src 02:00:00:00:00:02",
        "less 90",
        "greater 1000",
        "tcp and (len = 66 or len = 86)",  # an acknowledgment with time stamps
        "src port 1234 and not udp",
        "tcp port 80 or ip or ip6",
    ],
)
def test_what_takes_segments_of_the_session(session: Session, expression: str) -> None:
    (reported,) = harm(session, way(session), "eth0", expression)
    assert "hang at once" in reported.text
    (term,) = reported.without
    assert not Probe(f"({expression}) and not {term}").takes(guard_session._segments(session, way(session), ()))


@pytest.mark.parametrize("session", [FOUR, SIX], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    "expression",
    ["udp", "tcp port 80", "tcp src port 22", "host 192.0.2.1", "ether dst 02:00:00:00:00:02", "less 20", "icmp"],
)
def test_what_does_not(session: Session, expression: str) -> None:
    assert not (harm(session, way(session), "eth0", expression))


@pytest.mark.parametrize(
    ("session", "expression", "hurts"),
    [
        (FOUR, "arp", True),
        (FOUR, "icmp6", False),
        (SIX, "icmp6", True),
        (SIX, "arp", False),
        (FOUR, "broadcast", True),
        (SIX, "ether multicast", True),
        (SIX, "broadcast", False),
    ],
)
def test_what_takes_the_neighbour(session: Session, expression: str, hurts: bool) -> None:
    reported = harm(session, way(session), "eth0", expression)
    assert len(reported) == hurts
    assert all("after a while" in one.text for one in reported)


@pytest.mark.parametrize(
    ("tags", "expression", "takes"),
    [
        ((42,), "tcp", True),  # where the NIC takes the tag off
        ((42,), "vlan 42 and tcp", True),
        ((42,), "vlan 43", False),
        ((42,), "udp", False),
        ((), "vlan 42 and tcp", False),
        ((7, 42), "vlan 7 and vlan 42 and tcp", True),
    ],
)
def test_tags_on_the_way(tags: tuple[int, ...], expression: str, takes: bool) -> None:
    assert bool(harm(FOUR, way(FOUR, tags), "eth0", expression)) is takes


def test_other_interfaces_and_tunnels() -> None:
    assert not (harm(FOUR, way(FOUR), "eth1", "all"))
    (reported,) = harm(FOUR, way(FOUR, tunnel="wg0"), "eth1", "udp")
    assert "tunnel wg0" in reported.text


def test_devices_that_stand_on_others() -> None:
    def link(name: str, kind: str = "", lower: int = 0, master: int = 0, vlan: int | None = None) -> NetworkLink:
        return NetworkLink(name, kind, MACS[0], lower, master, vlan, False)

    links = {
        1: link("eth0", master=3),
        2: link("eth1", master=3),
        3: link("bond0", "bond"),
        4: link("bond0.7", "vlan", lower=3, vlan=7),
        5: link("inner", "vlan", lower=4, vlan=42),
        6: link("veth0", "veth", lower=1),
        7: link("br0", "bridge"),
    }
    carriers: dict[str, tuple[int, ...]] = {}
    sessions._descend(5, (), links, carriers)
    assert carriers == {"inner": (), "bond0.7": (42,), "bond0": (7, 42), "eth0": (7, 42), "eth1": (7, 42)}
    for alone in (6, 7):
        carriers = {}
        sessions._descend(alone, (), links, carriers)
        assert len(carriers) == 1


def test_addresses_as_proc_has_them() -> None:
    import sys

    if sys.byteorder == "little":
        assert sockets._endpoint("0100007F:0016") == ("127.0.0.1", 22)
        assert sockets._endpoint("0000000000000000FFFF00000100007F:0016") == ("127.0.0.1", 22), "IPv4 in IPv6"
        assert sockets._endpoint("000000FD000000000000000001000000:04D2") == ("fd00::1", 1234)


def test_devices_that_others_stand_on() -> None:
    """The other way: from the interface to whoever gets its packets."""

    def link(name: str, kind: str = "", lower: int = 0, master: int = 0, vlan: int | None = None) -> NetworkLink:
        return NetworkLink(name, kind, MACS[0], lower, master, vlan, False)

    links = {
        1: link("eth0", master=3),
        2: link("eth1", master=3),
        3: link("bond0", "bond"),
        4: link("bond0.7", "vlan", lower=3, vlan=7),
        5: link("inner", "vlan", lower=4, vlan=42, master=8),
        6: link("veth0", "veth", lower=1),
        7: link("mac0", "macvlan", lower=3),
        8: link("br0", "bridge"),
    }
    above: dict[int, tuple[int, ...]] = {}
    reach._ascend(1, (), links, above)
    assert above == {1: (), 3: (), 4: (7,), 5: (7, 42), 8: (7, 42), 7: ()}
    above = {}
    reach._ascend(6, (), links, above)
    assert above == {6: ()}
