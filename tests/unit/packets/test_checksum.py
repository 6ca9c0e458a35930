# SPDX-License-Identifier: Apache-2.0
"""Checksums of many packets against scapy, and against the sum written out by hand in toolkit.packets.frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Padding, Raw
from scapy.utils import checksum

from tests.helpers.scapy_packets import V4, V6, E
from toolkit.errors import ArgumentError
from toolkit.packets.checksum import checksum_of, fill_checksums, internet_checksum, update, updated
from toolkit.packets.matrix import as_matrix

ODD = Raw(b"\xff\xfeodd")

# Packets whose checksums scapy knows; each comes back as it was after its checksums were spoilt.
FILLED: dict[str, Packet] = {
    "udp": E / V4 / UDP(sport=1, dport=2) / Raw(b"payload!"),
    "udp odd": E / V4 / UDP(sport=1, dport=2) / ODD,
    "udp empty": E / V4 / UDP(),
    "udp padded": E / V4 / UDP() / Raw(b"ab") / Padding(b"\xaa" * 16),
    "udp jumbo": E / V4 / UDP() / Raw(bytes(range(256)) * 35 + b"x"),
    "tcp": E / V4 / TCP(sport=9, dport=8, seq=2**32 - 1) / ODD,
    "tcp options": E / V4 / TCP(options=[("MSS", 1460), ("WScale", 7)]),
    "tcp padded": E / V4 / TCP() / Padding(b"\x55" * 6),
    "icmp": E / V4 / ICMP(id=5, seq=6) / ODD,
    "icmp unreachable": E / V4 / ICMP(type=3, code=1) / V4 / UDP(chksum=7),
    "icmp of zeros": E / V4 / ICMP(type=0, code=0, id=0, seq=0) / Raw(bytes(8)),
    "ip options": E / IP(options=[IPOption_Router_Alert()]) / UDP() / ODD,
    "vlan": E / Dot1Q(vlan=5) / V4 / UDP() / ODD,
    "vlan twice": E / Dot1AD(vlan=5) / Dot1Q(vlan=6) / V6 / TCP() / ODD,
    "udp6": E / V6 / UDP(sport=1, dport=2) / ODD,
    "tcp6": E / V6 / TCP() / Raw(b"even"),
    "icmp6": E / V6 / ICMPv6EchoRequest(id=1, seq=2, data=b"abc"),
    "neighbour": E / V6 / ICMPv6ND_NS(tgt="fe80::1"),
    "udp6 extensions": E / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP() / ODD,
    "udp6 atomic fragment": E / V6 / IPv6ExtHdrFragment(id=4) / UDP() / ODD,
    "udp6 route used up": E / V6 / IPv6ExtHdrRouting(addresses=["::5"], segleft=0) / UDP() / ODD,
}

# Packets whose transport checksum cannot be known, or is another.
LEFT: dict[str, Packet] = {
    "fragment": E / IP(flags="MF", id=1) / UDP(len=900, chksum=0x1111) / Raw(bytes(64)),
    "fragment that looks whole": E / IP(flags="MF", id=1) / TCP(chksum=0x1111) / ODD,
    "fragment6 that looks whole": E / V6 / IPv6ExtHdrFragment(m=1, id=4) / TCP(chksum=0x1111) / ODD,
    "last fragment": E / IP(frag=3, id=1, proto=17) / Raw(b"\x11" * 40),
    "fragment6": E / V6 / IPv6ExtHdrFragment(m=1, id=4) / UDP(len=900, chksum=0x1111) / Raw(bytes(40)),
    "udp length wrong": E / V4 / UDP(len=200, chksum=0x1111) / ODD,
    "udp length short": E / V4 / UDP(len=7, chksum=0x1111) / ODD,
    "udp length zero": E / V6 / UDP(len=0, chksum=0x1111) / ODD,
    "cut short": E / IP(len=900) / UDP(len=880, chksum=0x1111) / ODD,
    "cut short tcp": E / IP(len=900) / TCP(chksum=0x1111) / ODD,
    "route ahead": E / V6 / IPv6ExtHdrRouting(addresses=["::5"], segleft=1) / UDP(chksum=0x1111) / ODD,
    "route behind options": E
    / V6
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrRouting(addresses=["::5", "::6"], segleft=1)
    / UDP(chksum=0x1111),
    "sctp": E / V4 / SCTP() / SCTPChunkInit(),
    "udp-lite": E / IP(proto=136) / UDP(chksum=0x1111) / ODD,
    "icmp on 6": E / IPv6(nh=1) / Raw(bytes(16)),
    "icmp6 on 4": E / IP(proto=58) / Raw(bytes(16)),
    "no transport": E / IP(proto=17),
    "other protocol": E / IP(proto=89) / Raw(bytes(30)),
    "ip header of 16 bytes": Ether(type=0x800) / Raw(b"\x44\0\0\x22" + bytes(5) + b"\x11" + bytes(24)),
    "ip header longer than the packet": Ether(type=0x800) / Raw(b"\x4f\0\0\x22" + bytes(5) + b"\x11" + bytes(24)),
    "arp": E / ARP(),
    "no ip": E / Raw(bytes(46)),
}


def spoilt(packet: bytes) -> bytes:
    """The packet with other bits in every checksum that stands where a checksum should."""
    parsed = Ether(packet)
    octets = bytearray(packet)
    for layer, place in ((IP, 10), (TCP, 16), (UDP, 6), (ICMP, 2), (ICMPv6EchoRequest, 2), (ICMPv6ND_NS, 2)):
        if layer in parsed:
            at = len(packet) - len(bytes(parsed[layer]))  # scapy's own idea of where the layer begins
            octets[at + place] ^= 0x5A
            octets[at + place + 1] ^= 0xC3
    return bytes(octets)


@pytest.mark.parametrize("name", FILLED)
def test_each_alone_as_scapy_has_it(name: str) -> None:
    good = bytes(FILLED[name])
    matrix, lengths = as_matrix([spoilt(good)])
    assert matrix.tobytes() != good
    assert fill_checksums(matrix, lengths).tolist() == [True]
    assert matrix.tobytes() == good


@given(st.lists(st.sampled_from([*FILLED, *LEFT]), min_size=1, max_size=30), st.integers(0, 3), st.randoms())
def test_any_mixture_in_one_matrix(names: list[str], extra: int, random: Any) -> None:
    good = [bytes((FILLED | LEFT)[name]) for name in names]
    given_packets = [spoilt(packet) if name in FILLED else packet for name, packet in zip(names, good, strict=True)]
    matrix, lengths = as_matrix(given_packets)
    # Rows are longer than the packets, and what stands there is nobody's.
    matrix = np.pad(matrix, ((0, 0), (0, extra)))
    beyond = np.arange(matrix.shape[1]) >= lengths[:, None]
    matrix[beyond] = random.randrange(256)
    before = matrix.copy()
    filled = fill_checksums(matrix, lengths)
    assert filled.tolist() == [name in FILLED for name in names]
    assert (matrix[beyond] == before[beyond]).all()
    for row, size, packet in zip(matrix, lengths, good, strict=True):
        assert row[:size].tobytes() == packet


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_known_is_left(name: str) -> None:
    packet = bytes(LEFT[name])
    matrix, lengths = as_matrix([packet])
    assert not fill_checksums(matrix, lengths).any()
    assert matrix.tobytes() == packet


def test_the_ip_header_of_a_fragment_is_filled_all_the_same() -> None:
    good = bytes(LEFT["last fragment"])
    matrix, lengths = as_matrix([good[:24] + b"\0\0" + good[26:]])
    assert not fill_checksums(matrix, lengths).any()
    assert matrix.tobytes() == good


def test_a_udp_checksum_of_zero_is_written_as_ones() -> None:
    packet = bytearray(bytes(E / V4 / UDP(chksum=0) / Raw(b"\0\0")))
    missing = int.from_bytes(bytes(Ether(bytes(E / V4 / UDP() / Raw(b"\0\0"))))[40:42], "big")
    packet[42:44] = missing.to_bytes(2, "big")  # then the sum of all is 0xffff
    matrix, _ = as_matrix([packet])
    assert fill_checksums(matrix).all()
    assert matrix[0, 40:42].tolist() == [0xFF, 0xFF]
    assert bytes(matrix[0]) == bytes(E / V4 / UDP() / Raw(bytes(packet[42:44])))


@given(st.integers(0, 20), st.integers(1, 65), st.data())
def test_the_sum_of_any_bytes_against_the_plain_one(n: int, width: int, data: st.DataObject) -> None:
    matrix = np.frombuffer(data.draw(st.binary(min_size=n * width, max_size=n * width)), np.uint8).reshape(n, width)
    ends = [sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width)))) for _ in range(n)]
    start, stop = np.array(ends, dtype=np.int64).reshape(n, 2).T
    result = internet_checksum(matrix, start, stop)
    assert result.dtype == np.uint16
    assert result.tolist() == [checksum(row[a:b].tobytes()) for row, (a, b) in zip(matrix, ends, strict=True)]
    evens = internet_checksum(matrix, start & ~1, stop)
    assert evens.tolist() == [checksum(row[a & ~1 : b].tobytes()) for row, (a, b) in zip(matrix, ends, strict=True)]
    if n:
        a, b = ends[0]
        assert internet_checksum(matrix, a, b).tolist() == [checksum(row[a:b].tobytes()) for row in matrix]
        assert internet_checksum(matrix).tolist() == [checksum(row.tobytes()) for row in matrix]


@given(st.binary(max_size=2000), st.integers(0, 1000), st.integers(0, 0xFFFF))
@example(b"", 0, 0)
@example(bytes(4), 0, 0xFFFF)
@example(b"\xff" * 40, 3, 0)
@example(b"\xf7\xff\x08\x00", 1, 0)
def test_a_single_run_of_bytes(data: bytes, at: int, new: int) -> None:
    """Against scapy: summed at once, and after one of its words changed."""
    assert checksum_of(data) == checksum_of(memoryview(data)) == checksum(data)
    words = len(data) // 2
    changed = bytearray(data)
    if words:
        changed[at % words * 2 : at % words * 2 + 2] = new.to_bytes(2, "big")
        old = int.from_bytes(data[at % words * 2 :][:2], "big")
        found = updated(checksum_of(data), old, new)
        assert found == (checksum(bytes(changed)) or 0xFFFF)
        assert updated(np.array([checksum_of(data)]), np.array([old]), new).tolist() == [found]


def test_carries_of_long_rows() -> None:
    matrix = np.full((3, 65535), 0xFF, dtype=np.uint8)
    assert internet_checksum(matrix).tolist() == [checksum(b"\xff" * 65535)] * 3
    assert internet_checksum(matrix, 0, [65534, 65535, 3]).tolist() == [0, 255, 255]


WORDS = st.integers(0, 0xFFFF)


@given(st.lists(st.tuples(WORDS, WORDS, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), min_size=1), st.data())
def test_update_gives_what_a_whole_computation_gives(rows: list[tuple[int, ...]], data: st.DataObject) -> None:
    table = np.array(rows, dtype=np.uint64)
    matrix = np.zeros((len(rows), 16), dtype=np.uint8)
    matrix[:, 0] = 1  # no packet is all zeros; then each sum has one form only
    matrix[:, 2:4] = table[:, 0].astype(">u2")[:, None].view(np.uint8)
    matrix[:, 4:8] = table[:, 2].astype(">u4")[:, None].view(np.uint8)
    matrix[:, 8:10] = internet_checksum(matrix).astype(">u2")[:, None].view(np.uint8)
    assert not internet_checksum(matrix).any()
    rewritten = matrix.copy()
    picked = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    rewritten[picked, 4:8] = table[picked, 3].astype(">u4")[:, None].view(np.uint8)
    expected = rewritten.copy()
    expected[:, 8:10] = 0
    expected[:, 8:10] = internet_checksum(expected).astype(">u2")[:, None].view(np.uint8)
    by_number, by_bytes = rewritten.copy(), rewritten.copy()
    update(by_number, 8, table[picked, 2], table[picked, 3], rows=picked)
    update(by_bytes, np.full(picked.sum(), 8), matrix[picked, 4:8], rewritten[picked, 4:8], rows=np.flatnonzero(picked))
    assert (by_number == expected).all()
    assert (by_bytes == expected).all()


def test_update_of_udp_keeps_none_and_never_becomes_none() -> None:
    matrix = np.array([[0, 0], [0, 1], [0xFF, 0xFF]], dtype=np.uint8)
    update(matrix, 0, 0, 1, udp=True)
    assert matrix.tolist() == [[0, 0], [0xFF, 0xFF], [0xFF, 0xFE]]
    update(matrix, 0, 1, 0)
    assert matrix.tolist() == [[0, 1], [0, 1], [0, 0]], "of any other checksum 0 is a value like any"


SQUARE = np.zeros((2, 20), dtype=np.uint8)
REFUSED = {
    "float": (
        lambda: fill_checksums(np.zeros((2, 60))),
        r"packets cannot be an array of shape \(2, 60\) and dtype float64",
    ),
    "one row": (lambda: fill_checksums(np.zeros(60, dtype=np.uint8)), r"shape \(n, width\)"),
    "a list": (lambda: fill_checksums([b"x"]), "packets cannot be .b'x'."),
    "not contiguous": (lambda: fill_checksums(np.zeros((2, 60), dtype=np.uint8)[:, ::2]), "not contiguous"),
    "read-only": (lambda: fill_checksums(np.frombuffer(bytes(60), np.uint8).reshape(1, 60)), "cannot be written"),
    "lengths": (lambda: fill_checksums(SQUARE.copy(), [20]), "one for each packet"),
    "long": (lambda: fill_checksums(SQUARE.copy(), [20, 21]), "0 to 20 bytes"),
    "stop": (lambda: internet_checksum(SQUARE, 0, 21), "does not lie inside the 20 bytes"),
    "start": (lambda: internet_checksum(SQUARE, -1), "does not lie inside"),
    "backwards": (lambda: internet_checksum(SQUARE, [0, 6], [4, 4]), "does not lie inside"),
    "starts": (lambda: internet_checksum(SQUARE, [0, 1, 2]), "one for each"),
    "outside": (lambda: update(SQUARE.copy(), 19, 0, 0), "at cannot be 19"),
    "wide": (lambda: update(SQUARE.copy(), 0, 0, 2**32), "32 bits at most"),
    "negative": (lambda: update(SQUARE.copy(), 0, -1, 0), "32 bits at most"),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(call: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        call()


def test_no_packets() -> None:
    assert fill_checksums(np.zeros((0, 64), dtype=np.uint8)).shape == (0,)
    assert internet_checksum(np.zeros((0, 64), dtype=np.uint8)).shape == (0,)
