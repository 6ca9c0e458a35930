# SPDX-License-Identifier: Apache-2.0
"""Which senders and ports a filter cannot tell apart: of each kind libpcap gives every member the same verdict."""

from __future__ import annotations

import random
import struct

import pytest

from tests.helpers.filter_corpus import EXPRESSIONS, some_warn
from toolkit.cli.guard_probes import Probe, Source, Target, _templates
from toolkit.errors import FilterError
from toolkit.packets import frames

FOUR = Target("10.11.0.1", "02:00:00:00:00:01", ())
SIX = Target("fd11::1", "02:00:00:00:00:01", ())
MORE = [
    "host 10.11.0.7 and tcp",
    "src net 10.11.0.0/25 and not src host 10.11.0.3",
    "tcp portrange 8000-8010",
    "udp[2:2] & 1 = 1",
    "udp[2:2] * 2 = 18000",
    "udp[0:2] = udp[2:2]",
    "udp[0:4] = 0x9c402328",
    "ip[15] & 3 = 2",
    "ip[12:4] - 10 > 0x0a0b0000",
    "ip[13] > ip[17]",
    "ether src 02:00:00:00:01:07 or ether[10:2] > 0x0150",
    "ip6 src host fd11::9 or ip6[22:2] & 0xf0 = 0x40",
    "src port 40000 and dst port 9000",
]


def senders(count: int, version: int) -> list[Source]:
    dice = random.Random(7)
    prefix = ("10.11.{}.{}", "fd11::{:x}:{:x}")[version == 6]
    pairs = [(0, at) for at in range(2, 12)] + [(dice.randrange(256), dice.randrange(256)) for _ in range(count)]
    return [Source(prefix.format(*pair), f"02:00:00:00:{pair[0]:02x}:{pair[1]:02x}") for pair in pairs]


def verdicts(probe: Probe, kind: str, source: Source, target: Target, begin: int, port: int) -> list[bool]:
    ports = struct.pack(">HH", begin or port, port)
    return probe.verdicts([head + ports + tail for head, tail in _templates(kind, source, target)])


def probes() -> list[Probe]:
    found = []
    for expression in [*MORE, *EXPRESSIONS]:
        if "protochain" not in expression:
            try:
                found.append(Probe(expression))
            except FilterError:
                continue
    assert len(found) > 100
    return found


@some_warn
@pytest.mark.parametrize("target", [FOUR, SIX], ids=["ipv4", "ipv6"])
def test_members_of_a_kind_are_alike_to_the_filter(target: Target) -> None:
    several = senders(30, 6 if target is SIX else 4)
    ports = (9, 22, 53, 80, 443, 1024, 8000, 8005, 8010, 8011, 9000, 9001, 40000, 65535)
    for probe in probes():
        raw = [frames.mac_bytes(one.mac) + frames.ip_bytes(one.address) for one in several]
        for kind in ("tcp", "udp"):
            for alike in probe.kinds(raw):
                found = {tuple(verdicts(probe, kind, several[at], target, 40000, 80)) for at in alike}
                assert len(found) == 1, [several[at] for at in alike]
            for begin in (40000, 0):
                for group in probe._kinds_of(ports, begin):
                    found = {tuple(verdicts(probe, kind, several[0], target, begin, port)) for port in group}
                    assert len(found) == 1, group


def test_many_are_few() -> None:
    """Else a host with hundreds of neighbours and sockets would wait."""
    raw = [frames.mac_bytes(one.mac) + frames.ip_bytes(one.address) for one in senders(500, 4)]
    ports = tuple(range(8000, 8500))
    assert len(Probe("all").kinds(raw)) == 1
    for expression in ("tcp", "udp port 53", "not port 22"):
        assert len(Probe(expression).kinds(raw)) < 60
        assert len(Probe(expression)._kinds_of(ports, 40000)) < 40


def test_who_sends_to_whom_is_not_all_to_all_for_a_filter_that_calculates() -> None:
    several, targets = senders(30, 4), [FOUR._replace(address=f"10.11.0.{at}") for at in range(20)]
    assert len(list(Probe("tcp").pairs(several, targets))) == len(several) * len(targets)
    few = list(Probe("ip[2:2] + 4 > 20").pairs(several, targets))
    assert len(few) == len(set(few)) == len(several) + len(targets) - 1
    assert {source for source, _ in few} == set(several)
    assert {target for _, target in few} == set(targets)


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("host 192.0.2.7 and tcp", ["192.0.2.7"]),
        ("src net 198.51.100.0/24", ["198.51.100.0"]),
        ("ip6 host 2001:db8::7", ["2001:db8::7"]),
        ("udp port 9", []),
        ("dst host 224.0.0.251 or dst host 255.255.255.255", []),
    ],
)
def test_hosts_that_a_filter_names(expression: str, named: list[str]) -> None:
    found = Probe(expression).named
    assert found[: len(named)] == named
    if not named:
        assert found == []


def test_macs_that_a_filter_names() -> None:
    assert Probe("ether src 02:0a:0b:0c:0d:0e and not ether dst ff:ff:ff:ff:ff:ff").named_macs == ["02:0a:0b:0c:0d:0e"]
