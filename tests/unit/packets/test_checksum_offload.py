# SPDX-License-Identifier: Apache-2.0
"""Checksums left to the device: which packets are recognised, and that they come out as scapy makes them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.layers.vxlan import VXLAN
from scapy.packet import NoPayload, Packet, Raw

from toolkit.errors import ArgumentError
from toolkit.packets.checksum import internet_checksum
from toolkit.packets.checksum_offload import finish, finish_checksums, finish_one
from toolkit.packets.crc32c import crc32c

MANY = 40  # of each packet in a batch: more than are taken one by one
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="192.0.2.1", dst="198.51.100.77"), IPv6(src="2001:db8::1", dst="2001:db8:1::77")


def folded(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def left_open(frame: bytes) -> bytes:
    """The frame as a sender leaves it: the pseudo header's sum in place of the innermost checksum, or no CRC."""
    layer = Ether(frame)
    ip, transport = layer, None
    while not isinstance(layer, NoPayload | Raw):
        ip = layer if isinstance(layer, IP | IPv6) else ip
        transport = layer if isinstance(layer, TCP | UDP | SCTP) else transport
        layer = layer.payload
    assert transport is not None
    segment = bytes(transport)
    at = frame.rindex(segment[:12])  # unique: ports and, of TCP, the sequence number
    if isinstance(transport, SCTP):
        return frame[: at + 8] + bytes(4) + frame[at + 12 :]
    length = transport.len if isinstance(transport, UDP) else len(segment)
    raw, number = bytes(ip), 6 if isinstance(transport, TCP) else 17
    addresses = raw[8:40] if isinstance(ip, IPv6) else raw[12:20]
    pseudo = folded(addresses + length.to_bytes(4, "big") + number.to_bytes(4, "big"))
    field = at + (16 if number == 6 else 6)
    return frame[:field] + pseudo.to_bytes(2, "big") + frame[field + 2 :]


def tcp(size: int, port: int = 4321) -> Packet:
    return TCP(sport=port, dport=80, seq=0x12345678, options=[("Timestamp", (7, 8))]) / random.Random(size).randbytes(
        size
    )


def udp(size: int, port: int = 4321) -> Packet:
    return UDP(sport=port, dport=5201) / random.Random(size).randbytes(size)


TAGGED = ETHER / Dot1Q(vlan=42)
TWICE = ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=42)
RECORD = IP(src="192.0.2.1", dst="198.51.100.77", options=[IPOption_RR(length=7, routers=["0.0.0.0"])])
CARRIED = Ether(src="02:00:00:00:00:05", dst="02:00:00:00:00:06") / IP(src="10.0.0.1", dst="10.0.0.2") / tcp(333, 999)
LONELY = IPv6(src="fd00::5", dst="fd00::6") / udp(77, 999)
OUTER = UDP(sport=55555, dport=4789, chksum=0)

PACKETS: dict[str, Packet] = {
    **{f"tcp4-{size}": ETHER / V4 / tcp(size) for size in (0, 1, 6, 500, 1448)},
    **{f"udp4-{size}": ETHER / V4 / udp(size) for size in (0, 1, 2, 18, 255, 1472)},
    **{f"tcp6-{size}": ETHER / V6 / tcp(size) for size in (0, 1, 1428)},
    **{f"udp6-{size}": ETHER / V6 / udp(size) for size in (0, 3, 1452)},
    "vlan tcp4": TAGGED / V4 / tcp(100),
    "vlan udp6": TAGGED / V6 / udp(101),
    "qinq tcp6": TWICE / V6 / tcp(100),
    "qinq udp4": TWICE / V4 / udp(101),
    "options tcp4": ETHER / RECORD / tcp(200),
    "options udp4": TAGGED / RECORD / udp(201),
    "hop by hop tcp6": ETHER / V6 / IPv6ExtHdrHopByHop() / tcp(64),
    "destination udp6": TWICE / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / udp(65),
    "routed, arrived": ETHER / V6 / IPv6ExtHdrRouting(addresses=["2001:db8::9"], segleft=0) / tcp(20),
    "vxlan": ETHER / V4 / OUTER / VXLAN(vni=9, flags=8) / CARRIED,
    "vxlan6": ETHER / V6 / UDP(sport=55555, dport=8472) / VXLAN(vni=9, flags=8) / CARRIED,
    "geneve": ETHER / V4 / UDP(sport=55555, dport=6081, chksum=0) / GENEVE(vni=9) / CARRIED,
    "gre": ETHER / V4 / GRE(proto=0x86DD, key_present=1, key=5) / LONELY,
    "gre ethernet": TAGGED / V6 / GRE(proto=0x6558) / CARRIED,
    "ipip": ETHER / V4 / IP(src="10.0.0.1", dst="10.0.0.2") / tcp(31, 999),
    "sit": ETHER / V4 / LONELY,
    "ip6ip6": TAGGED / V6 / LONELY,
    "ipip in vxlan": ETHER
    / V4
    / OUTER
    / VXLAN(flags=8)
    / ETHER
    / V4
    / IP(src="10.0.0.1", dst="10.0.0.2")
    / udp(9, 999),
    "sctp4": ETHER / V4 / SCTP(sport=999, dport=2) / SCTPChunkData(data=b"x" * 701),
    "sctp6": TAGGED / V6 / SCTP(sport=999, dport=2) / SCTPChunkData(data=b"x" * 13),
}
NONE: dict[str, Packet] = {
    "arp": ETHER / ARP(),
    "icmp": ETHER / V4 / ICMP() / b"abc",
    "icmpv6": ETHER / V6 / ICMPv6EchoRequest(data=b"abc"),
    "udp without": ETHER / V4 / UDP(sport=1, dport=2, chksum=0) / b"abc",
    "first fragment": ETHER
    / IP(src="192.0.2.1", dst="192.0.2.2", flags="MF")
    / UDP(sport=1, dport=2, len=99)
    / bytes(40),
    "later fragment": ETHER / IP(src="192.0.2.1", dst="192.0.2.2", frag=7, proto=6) / bytes(40),
    "fragment6": ETHER / V6 / IPv6ExtHdrFragment(m=1, nh=17) / UDP(sport=1, dport=2, len=99, chksum=1) / bytes(40),
    "unknown ethertype": ETHER / bytes(50),
}


def batch(packets: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packets as they lie in a UMEM: a frame each, at places that differ, odd ones among them, with noise around."""
    memory = np.random.default_rng(3).integers(0, 256, 2048 * len(packets) + 2048, dtype=np.uint8)
    offsets = np.arange(len(packets))[::-1] * 2048 + 256 + np.arange(len(packets)) % 5
    for at, one in zip(offsets.tolist(), packets, strict=True):
        memory[at : at + len(one)] = np.frombuffer(one, np.uint8)
    return memory, offsets, np.array([len(one) for one in packets])


def bytes_of(memory: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    return [memory[at : at + size].tobytes() for at, size in zip(offsets.tolist(), lengths.tolist(), strict=True)]


@pytest.mark.parametrize("copies", [1, MANY], ids=["alone", "many"])
@pytest.mark.parametrize("name", PACKETS)
def test_what_was_left_open_comes_out_as_scapy_makes_it(name: str, copies: int) -> None:
    right = bytes(PACKETS[name])
    memory, offsets, lengths = batch([left_open(right)] * copies)
    assert bytes_of(memory, offsets, lengths) != [right] * copies
    before = memory.copy()
    assert finish(memory, offsets, lengths).all()
    assert bytes_of(memory, offsets, lengths) == [right] * copies
    changed = np.flatnonzero(memory != before)
    assert len(changed) <= 4 * copies  # nothing but the field


@pytest.mark.parametrize("copies", [1, MANY], ids=["alone", "many"])
@pytest.mark.parametrize("name", [*PACKETS, *NONE])
def test_what_is_right_or_has_none_stays_as_it_is(name: str, copies: int) -> None:
    right = bytes({**PACKETS, **NONE}[name])
    memory, offsets, lengths = batch([right] * copies)
    before = memory.copy()
    assert not finish(memory, offsets, lengths).any()
    assert (memory == before).all()


def test_a_batch_of_everything_at_once() -> None:
    """Each in its place: rows that were sorted by version, protocol and tags are not mixed up."""
    right = [bytes(one) for one in PACKETS.values()]
    mixed = [(left_open(one), one, True) for one in right] + [(one, one, False) for one in right]
    mixed += [(bytes(one), bytes(one), False) for one in NONE.values()]
    random.Random(5).shuffle(mixed)
    memory, offsets, lengths = batch([one for one, _, _ in mixed])
    assert finish(memory, offsets, lengths).tolist() == [opened for _, _, opened in mixed]
    assert bytes_of(memory, offsets, lengths) == [one for _, one, _ in mixed]


@pytest.mark.parametrize("copies", [1, MANY], ids=["alone", "many"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("wanted", [None, 0xFFFF], ids=["equal", "ffff"])
def test_a_right_checksum_that_happens_to_look_open_stays_right(kind: str, wanted: int | None, copies: int) -> None:
    """One in 65,535: to finish it makes the same checksum, byte for byte. Every such payload word is tried."""
    made = ETHER / (
        IP(src="192.0.2.1", dst="198.51.100.77") if wanted is None else IP(src="255.255.255.255", dst="0.0.0.0")
    )
    frame = bytes(made / (tcp(20) if kind == "tcp" else udp(20)))
    field = 14 + 20 + (16 if kind == "tcp" else 6)
    number = (6).to_bytes(2, "big") if kind == "tcp" else (17).to_bytes(2, "big")
    if wanted is not None:  # addresses whose pseudo header sums up to 0xffff
        rest = folded(number + (len(frame) - 34).to_bytes(2, "big"))
        frame = frame[:26] + (0xFFFF - rest).to_bytes(2, "big") + bytes(6) + frame[34:]
    pseudo = folded(frame[26:34] + number + (len(frame) - 34).to_bytes(2, "big"))
    assert wanted in (None, pseudo)
    # A last word that makes the right checksum equal to the pseudo header's sum.
    rest = folded(frame[34:field] + bytes(2) + frame[field + 2 : -2] + pseudo.to_bytes(2, "big"))
    last = (0xFFFF - pseudo - rest) % 0xFFFF
    frame = frame[:field] + pseudo.to_bytes(2, "big") + frame[field + 2 : -2] + last.to_bytes(2, "big")
    assert folded(frame[26:34] + number + (len(frame) - 34).to_bytes(2, "big") + frame[34:]) == 0xFFFF  # right
    memory, offsets, lengths = batch([frame] * copies)
    assert finish(memory, offsets, lengths).all()
    assert bytes_of(memory, offsets, lengths) == [frame] * copies


@pytest.mark.parametrize("copies", [1, MANY], ids=["alone", "many"])
def test_a_udp_checksum_never_becomes_none(copies: int) -> None:
    """Where the sum is 0xffff, 0xffff is written: 0 would say that there is no checksum."""
    frame = bytes(ETHER / V4 / UDP(sport=1, dport=2, chksum=1) / bytes(4))
    pseudo = folded(frame[26:34] + b"\0\x11" + frame[38:40])
    last = 0xFFFF - folded(frame[34:40] + pseudo.to_bytes(2, "big"))
    frame = frame[:40] + pseudo.to_bytes(2, "big") + last.to_bytes(2, "big") + bytes(2)
    memory, offsets, lengths = batch([frame] * copies)
    assert finish(memory, offsets, lengths).all()
    assert {one[40:42] for one in bytes_of(memory, offsets, lengths)} == {b"\xff\xff"}


@pytest.mark.parametrize("copies", [1, MANY], ids=["alone", "many"])
@pytest.mark.parametrize("name", ["tcp4-500", "udp6-3", "vlan tcp4", "options tcp4", "vxlan", "sctp4", "ipip"])
def test_a_packet_that_was_cut_or_lies_about_its_length_stays(name: str, copies: int) -> None:
    """Wherever it ends, and whatever its length fields say, nothing outside of it is read into a sum or written."""
    opened = left_open(bytes(PACKETS[name]))
    for size in [*range(14, min(90, len(opened))), len(opened) - 1]:
        memory, offsets, lengths = batch([opened[:size]] * copies)
        before = memory.copy()
        assert not finish(memory, offsets, lengths).any()
        assert (memory == before).all()
    for at in (16, 17, 18, 19, 20, 21, 38, 39):
        for value in (0, 1, 0x7F, 0xFF):
            memory, offsets, lengths = batch([opened[:at] + bytes([value]) + opened[at + 1 :]] * copies)
            inside = np.zeros(len(memory), dtype=bool)
            for start, size in zip(offsets.tolist(), lengths.tolist(), strict=True):
                inside[start : start + size] = True
            before = memory.copy()
            finish(memory, offsets, lengths)
            assert (memory == before)[~inside].all()


@pytest.mark.parametrize("copies", [1, MANY], ids=["alone", "many"])
@pytest.mark.parametrize("flags", ["MF", "later"])
def test_a_fragment_stays_even_if_its_field_looks_open(flags: str, copies: int) -> None:
    """Linux finishes a checksum before it cuts a packet: what looks so is that of more than is here, or data."""
    opened = bytearray(left_open(bytes(PACKETS["udp4-255"])))
    opened[20:22] = b"\x20\x00" if flags == "MF" else b"\x00\x07"
    memory, offsets, lengths = batch([bytes(opened)] * copies)
    before = memory.copy()
    assert not finish(memory, offsets, lengths).any()
    assert (memory == before).all()


def test_both_ways_agree_on_noise() -> None:
    """Random bytes behind headers that look like something: one by one and as arrays, the same is done."""
    rng = np.random.default_rng(11)
    frames = []
    for opened in [left_open(bytes(one)) for one in PACKETS.values()]:
        for _ in range(40):
            noisy = np.frombuffer(opened, np.uint8).copy()
            at = rng.integers(12, min(len(noisy), 90), 2)
            noisy[at] = rng.integers(0, 256, 2)
            frames.append(noisy.tobytes())
    memory, offsets, lengths = batch(frames)
    alone = [bytearray(one) for one in frames]
    one_by_one = [finish_one(memoryview(one)) for one in alone]
    assert finish(memory, offsets, lengths).tolist() == one_by_one
    assert bytes_of(memory, offsets, lengths) == [bytes(one) for one in alone]


def test_the_last_packet_may_end_with_the_memory() -> None:
    right = bytes(PACKETS["udp4-0"])
    for copies in (2, MANY):
        memory = np.frombuffer(left_open(right) * copies, np.uint8).copy()
        offsets = np.arange(copies) * len(right)
        assert finish(memory, offsets, np.full(copies, len(right))).all()
        assert memory.tobytes() == right * copies


def test_rows_of_a_matrix() -> None:
    right = [bytes(PACKETS[name]) for name in ("tcp4-500", "udp4-18", "tcp6-1")]
    width = max(map(len, right))
    matrix = (
        np.frombuffer(b"".join(left_open(one).ljust(width, b"\xee") for one in right), np.uint8).reshape(3, -1).copy()
    )
    assert finish_checksums(matrix, [len(one) for one in right]).all()
    assert [row[: len(one)].tobytes() for row, one in zip(matrix, right, strict=True)] == right
    assert finish_checksums(np.zeros((0, 64), np.uint8)).shape == (0,)
    assert internet_checksum(matrix[:1], 14, 34).tolist() == [0]
    for wrong in ([1, 2], [-1, 5, 5], [5, 5, width + 1]):
        with pytest.raises(ArgumentError, match="lengths"):
            finish_checksums(matrix, wrong)
    with pytest.raises(ArgumentError, match="does not lie inside"):
        finish(np.zeros(100, np.uint8), [50], [51])


def test_crc32c_of_many_lengths() -> None:
    """The check value of the catalogue of CRCs, and scapy's over rows of every length."""
    from scapy.layers.sctp import crc32c as reference

    assert crc32c(np.frombuffer(b"123456789", np.uint8)[None], np.array([9])).tolist() == [0xE3069283]
    rows = np.random.default_rng(1).integers(0, 256, (300, 299), dtype=np.uint8)
    sizes = np.arange(300)
    rows *= np.arange(299) < sizes[:, None]
    # scapy returns it in the order of the header's bytes.
    expected = [int.from_bytes(reference(row[:n].tobytes()).to_bytes(4, "big"), "little") for n, row in enumerate(rows)]
    assert crc32c(rows, sizes).tolist() == expected
