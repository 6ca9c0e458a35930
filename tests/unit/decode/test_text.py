# SPDX-License-Identifier: Apache-2.0
"""Packets as text."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from tests.helpers.decoding import decode_packets
from tests.helpers.tables import hextets
from toolkit.decode.notebook import batch_html
from toolkit.decode.text import format_ip, format_mac, summaries, summary

E = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="10.0.0.1", dst="10.0.0.2")
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")

LINES = [
    (E / V4 / UDP(sport=5000, dport=53) / Raw(bytes(36)), "10.0.0.1:5000 → 10.0.0.2:53 UDP 78 B"),
    (E / V4 / TCP(sport=1, dport=2, flags="SA"), "10.0.0.1:1 → 10.0.0.2:2 TCP [SYN ACK] 54 B"),
    (E / V4 / TCP(sport=1, dport=2, flags=0), "10.0.0.1:1 → 10.0.0.2:2 TCP [] 54 B"),
    (E / V4 / ICMP(type=8, seq=3), "ICMP echo request 10.0.0.1 → 10.0.0.2 seq 3 42 B"),
    (E / V4 / ICMP(type=3, code=1), "ICMP destination unreachable code 1 10.0.0.1 → 10.0.0.2 42 B"),
    (E / V4 / ICMP(type=77), "ICMP type 77 10.0.0.1 → 10.0.0.2 42 B"),
    (E / V6 / UDP(sport=5, dport=6), "[2001:db8::1]:5 → [2001:db8::2]:6 UDP 62 B"),
    (E / V6 / ICMPv6EchoRequest(seq=9), "ICMPv6 echo request 2001:db8::1 → 2001:db8::2 seq 9 62 B"),
    (E / V6 / ICMPv6ND_NS(), "ICMPv6 neighbor solicitation 2001:db8::1 → 2001:db8::2 78 B"),
    (E / V6 / IPv6ExtHdrFragment(nh=17, offset=2) / Raw(b"x"), "2001:db8::1 → 2001:db8::2 UDP fragment at 16 63 B"),
    (E / IP(src="1.2.3.4", dst="5.6.7.8", proto=47), "1.2.3.4 → 5.6.7.8 GRE 34 B [malformed]"),
    (E / IP(src="1.2.3.4", dst="5.6.7.8", proto=47) / Raw(b"\0\0\x08\0"), "1.2.3.4 → 5.6.7.8 GRE of IPv4 38 B"),
    (
        E / IP(src="1.2.3.4", dst="5.6.7.8") / UDP(sport=9, dport=4789) / Raw(b"\x08\0\0\0\0\0\x4d\0"),
        "1.2.3.4:9 → 5.6.7.8:4789 UDP VXLAN 77 50 B",
    ),
    (E / IP(src="1.2.3.4", dst="5.6.7.8", proto=200), "1.2.3.4 → 5.6.7.8 protocol 200 34 B"),
    (E / ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.2"), "ARP who-has 10.0.0.2 tell 10.0.0.1 42 B"),
    (E / ARP(op=2, psrc="10.0.0.1", hwsrc="02:00:00:00:00:09"), "ARP 10.0.0.1 is-at 02:00:00:00:00:09 42 B"),
    (E / ARP(op=3, psrc="1.1.1.1", pdst="2.2.2.2"), "ARP operation 3 1.1.1.1 → 2.2.2.2 42 B"),
    (E / Dot1Q(vlan=7) / V4 / UDP(sport=1, dport=2), "VLAN 7 10.0.0.1:1 → 10.0.0.2:2 UDP 46 B"),
    (E / Dot1Q(vlan=7) / Dot1Q(vlan=0) / V4 / UDP(sport=1, dport=2), "VLAN 7.0 10.0.0.1:1 → 10.0.0.2:2 UDP 50 B"),
    (E.__class__(bytes(E)[:12] + b"\x88\xcc"), "02:00:00:00:00:01 → 02:00:00:00:00:02 LLDP 14 B"),
    (E.__class__(bytes(E)[:12] + b"\x12\x34"), "02:00:00:00:00:01 → 02:00:00:00:00:02 ethertype 0x1234 14 B"),
    (E.__class__(bytes(E)[:12] + b"\x00\x26"), "02:00:00:00:00:01 → 02:00:00:00:00:02 802.3 14 B"),
]


@pytest.mark.parametrize(("packet", "line"), LINES, ids=[line for _, line in LINES])
def test_a_packet_in_a_line(packet: Ether, line: str) -> None:
    assert summary(decode_packets([bytes(packet)]), 0) == line


def test_what_is_wrong_with_a_packet_is_said() -> None:
    raw = bytes(E / V4 / UDP(sport=1, dport=2) / Raw(bytes(100)))
    wrong = bytes(E / V4 / UDP(sport=1, dport=2, len=7))
    lines = summaries(decode_packets([raw[:60], wrong, b"", raw]), limit=3)
    assert lines == [
        "10.0.0.1:1 → 10.0.0.2:2 UDP 60 B [cut short]",
        "10.0.0.1:1 → 10.0.0.2:2 UDP 42 B [malformed]",
        "no Ethernet header, 0 B [cut short]",
    ]


@given(st.lists(st.binary(max_size=90), max_size=4))
def test_any_bytes_have_words(packets: list[bytes]) -> None:
    columns = decode_packets(packets)
    assert len(summaries(columns)) == len(packets)
    assert repr(columns)
    assert columns._repr_html_()


@given(st.lists(st.integers(0, 2**32 - 1)), st.lists(st.binary(min_size=16, max_size=16)))
def test_addresses_are_written_as_ipaddress_does(small: list[int], large: list[bytes]) -> None:
    assert format_ip(np.array(small, dtype=np.int64)) == [str(ipaddress.IPv4Address(value)) for value in small]
    rows = np.frombuffer(b"".join(large), dtype=np.uint8).reshape(-1, 16)
    assert format_ip(rows) == [hextets(raw) for raw in large]


def test_missing_addresses_are_empty() -> None:
    assert format_mac([-1, 0x020000000001, 0xFFFFFFFFFFFF]) == ["", "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff"]
    assert format_ip([-1, 0]) == ["", "0.0.0.0"]
    assert format_mac(5) == ["00:00:00:00:00:05"]


def test_a_table_for_the_notebook_is_safe_html_and_knows_whole_packets() -> None:
    raw = bytes(E / V4 / UDP(sport=1, dport=2) / Raw(bytes(1000)))
    heads = np.zeros((10, 128), dtype=np.uint8)
    heads[:] = np.frombuffer(raw[:128], dtype=np.uint8)
    times = np.array(["2024-05-06T07:08:09.123456789"] * 9 + ["NaT"], dtype="datetime64[ns]")
    table = batch_html("<Batch>", heads, np.full(10, len(raw), dtype=np.uint32), times)
    assert "&lt;Batch&gt;" in table
    assert table.count("10.0.0.1:1 → 10.0.0.2:2 UDP 1042 B</td>") == 8
    assert "cut short" not in table
    assert "2024-05-06 07:08:09.123456789" in table
    assert "and 2 more" in table
    assert "<tbody></tbody>" in batch_html("none", heads[:0], np.zeros(0, np.uint32))
