# SPDX-License-Identifier: Apache-2.0
"""Ready edits against scapy, one packet at a time: what they change is right, and everything else stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Raw

from toolkit.errors import ArgumentError
from toolkit.forward.edits import decrement_ttl, pop_vlan, push_vlan, set_macs, swap_ips_and_ports, swap_macs
from toolkit.packets.matrix import as_matrix

E = Ether(src="02:11:22:33:44:55", dst="02:66:77:88:99:aa")
V4 = IP(src="10.1.2.3", dst="192.168.200.254", ttl=7, id=0xBEEF)
V6 = IPv6(src="2001:db8::1", dst="fe80::ff:fe00:2", hlim=9)
TEXT = Raw(b"some payload, long enough for every head")
PACKETS: dict[str, Packet] = {
    "udp": E / V4 / UDP(sport=1, dport=2) / TEXT,
    "tcp": E / V4 / TCP(sport=3, dport=4) / TEXT,
    "icmp": E / V4 / ICMP() / TEXT,
    "options": E / IP(ttl=200, options=[IPOption_Router_Alert()]) / UDP(sport=5, dport=6) / TEXT,
    "first fragment": E / IP(flags="MF", ttl=3) / UDP(sport=5, dport=6, len=500, chksum=9) / TEXT,
    "later fragment": E / IP(frag=4, ttl=3, proto=17) / TEXT,
    "expired": E / IP(ttl=1) / UDP() / TEXT,
    "expired long ago": E / IP(ttl=0) / UDP() / TEXT,
    "last hop": E / IP(ttl=2) / UDP() / TEXT,
    "udp6": E / V6 / UDP(sport=7, dport=8) / TEXT,
    "icmp6": E / V6 / ICMPv6EchoRequest(data=TEXT.load),
    "extension": E / V6 / IPv6ExtHdrDestOpt() / TCP(sport=9, dport=10) / TEXT,
    "later fragment6": E / V6 / IPv6ExtHdrFragment(offset=7, nh=17) / TEXT,
    "expired6": E / IPv6(hlim=1) / UDP() / TEXT,
    "vlan": E / Dot1Q(vlan=5, prio=3) / V4 / UDP(sport=11, dport=12) / TEXT,
    "vlan twice": E / Dot1AD(vlan=5) / Dot1Q(vlan=6) / V6 / TCP(sport=13, dport=14) / TEXT,
    "sctp": E / V4 / SCTP(sport=1, dport=2) / SCTPChunkInit() / TEXT,
    "arp": E / ARP() / TEXT,
    "no ip": E / Raw(b"\x45" * 60),
}
# The ethertype says IP, the header does not.
BROKEN = {
    "version": Ether(type=0x800) / Raw(b"\x65" + bytes(80)),
    "version6": Ether(type=0x86DD) / Raw(b"\x45\0\0\x14" + bytes(80)),
    "header of 16": Ether(type=0x800) / Raw(b"\x44\0\0\x50" + bytes(4) + b"\x09" + bytes(80)),
}
K = 74  # a head that holds every header here
ALL = PACKETS | BROKEN
MIXES = st.lists(st.sampled_from(list(ALL)), min_size=1, max_size=30)


def heads_of(names: list[str], k: int = K) -> np.ndarray:
    return as_matrix([bytes(ALL[name])[:k].ljust(k, b"\0") for name in names])[0]


def reference(name: str, k: int = K, **changes: Any) -> bytes:
    """The head after the changes (layer and field as `IP_ttl`), with the IP checksum recomputed by scapy."""
    packet = ALL[name].copy()
    for key, value in changes.items():
        layer, field = key.split("_")
        setattr(packet[layer], field, value)
    return bytes(packet)[:k].ljust(k, b"\0")


@given(MIXES)
def test_swap_macs(names: list[str]) -> None:
    heads = heads_of(names)
    assert swap_macs(heads) is heads
    for name, row in zip(names, heads, strict=True):
        old = heads_of([name]).tobytes()
        assert row.tobytes() == old[6:12] + old[:6] + old[12:]


@given(MIXES)
def test_set_macs(names: list[str]) -> None:
    heads = heads_of(names)
    sources = np.arange(len(names)) + 0x02FF00000000
    assert set_macs(heads, dst="02:00:00:00:00:fe", src=sources) is heads
    for name, row, source in zip(names, heads, sources.tolist(), strict=True):
        expected = bytes.fromhex("0200000000fe") + source.to_bytes(6, "big") + heads_of([name]).tobytes()[12:]
        assert row.tobytes() == expected
    before = heads.copy()
    set_macs(heads)
    assert (heads == before).all()
    set_macs(heads, src=1)
    assert (heads[:, :6] == before[:, :6]).all()
    assert (heads[:, 6:12] == [0, 0, 0, 0, 0, 1]).all()


@pytest.mark.parametrize("k", [K, 62])
@given(names=MIXES)
def test_decrement_ttl(k: int, names: list[str]) -> None:
    heads = heads_of(names, k)
    keep = decrement_ttl(heads)
    assert keep.dtype == np.bool_
    for name, row, kept in zip(names, heads, keep.tolist(), strict=True):
        changes = {}
        if IP in ALL[name] and ALL[name][IP].ttl > 1:
            changes = {"IP_ttl": ALL[name][IP].ttl - 1}
        elif IPv6 in ALL[name] and ALL[name][IPv6].hlim > 1:
            changes = {"IPv6_hlim": ALL[name][IPv6].hlim - 1}
        assert row.tobytes() == reference(name, k, **changes), name
        assert kept == (not ("expired" in name or name in BROKEN)), name


def test_decrement_ttl_with_every_checksum_there_is() -> None:
    """As the kernel forwards: what a whole computation gives, for each of the values that a right checksum can have."""
    frame = np.frombuffer(bytes(PACKETS["udp"])[:34], dtype=np.uint8)
    heads = np.tile(frame, (65536, 1))
    heads[:, 18:20] = np.arange(65536, dtype=">u2").view(np.uint8).reshape(-1, 2)  # identification
    heads[:, 24:26] = 0
    words = heads[:, 14:].copy().view(">u2").astype(np.int64)

    def right(words: np.ndarray) -> np.ndarray:
        total = words.sum(axis=1)
        total = (total & 0xFFFF) + (total >> 16)
        return 0xFFFF - ((total & 0xFFFF) + (total >> 16))

    heads[:, 24:26] = right(words).astype(">u2").view(np.uint8).reshape(-1, 2)
    assert decrement_ttl(heads).all()
    words[:, 4] -= 0x100
    assert (heads[:, 24:26].copy().view(">u2")[:, 0] == right(words)).all()


@given(MIXES)
def test_swap_ips_and_ports(names: list[str]) -> None:
    heads = heads_of(names)
    changed = swap_ips_and_ports(heads)
    for name, row, did in zip(names, heads, changed.tolist(), strict=True):
        packet, changes = ALL[name], {}
        assert did == ((IP in packet or IPv6 in packet) and name != "sctp" and name not in BROKEN), name
        if did:
            layer = "IP" if IP in packet else "IPv6"
            changes = {f"{layer}_src": packet[layer].dst, f"{layer}_dst": packet[layer].src}
            for ported in ("TCP", "UDP"):
                if ported in packet:
                    changes |= {f"{ported}_sport": packet[ported].dport, f"{ported}_dport": packet[ported].sport}
        # scapy computes all checksums again, and they are the same: the sum does not depend on the order.
        assert row.tobytes() == reference(name, **changes), name


def test_swap_ips_and_ports_never_does_half_of_it() -> None:
    for k in (34, 36, 37):
        heads = heads_of(["udp", "icmp", "options", "later fragment"], k)
        before = heads.copy()
        assert swap_ips_and_ports(heads).tolist() == [False, True, False, True]
        assert (heads[[0, 2]] == before[[0, 2]]).all()


@given(MIXES, st.integers(0, 4095), st.integers(0, 7), st.sampled_from([0x8100, 0x88A8]))
def test_push_vlan_and_pop_it_again(names: list[str], vlan: int, priority: int, tpid: int) -> None:
    packets = heads_of(names)
    room = np.pad(packets, ((0, 0), (4, 0)), constant_values=0xEE)
    identifiers = (np.arange(len(names)) + vlan) % 4096
    assert push_vlan(room, identifiers, priority=priority, tpid=tpid) is room
    for row, packet, identifier in zip(room, packets, identifiers.tolist(), strict=True):
        parsed = Ether(row.tobytes())
        assert (parsed.type, parsed.vlan, parsed.prio) == (tpid, identifier, priority)
        assert row.tobytes()[:12] + row.tobytes()[16:] == packet.tobytes()
    cut = pop_vlan(room)
    assert cut.tolist() == [4] * len(names)
    assert (room[:, 4:] == packets).all()


@given(MIXES)
def test_pop_vlan_of_a_mixture(names: list[str]) -> None:
    heads = heads_of(names)
    cut = pop_vlan(heads)
    for name, row, count in zip(names, heads, cut.tolist(), strict=True):
        packet = ALL[name]
        if Dot1Q in packet or Dot1AD in packet:
            old = heads_of([name]).tobytes()
            assert count == 4
            assert row.tobytes()[4:] == old[:12] + old[16:]
        else:
            assert count == 0
            assert row.tobytes() == heads_of([name]).tobytes()


EDITS = [swap_macs, set_macs, decrement_ttl, swap_ips_and_ports, pop_vlan, lambda heads: push_vlan(heads, 1)]
IDS = ["swap_macs", "set_macs", "decrement_ttl", "swap_ips_and_ports", "pop_vlan", "push_vlan"]


@pytest.mark.parametrize("edit", EDITS, ids=IDS)
def test_no_packets_and_wrong_ones(edit: Any) -> None:
    edit(np.zeros((0, K), dtype=np.uint8))
    for wrong, text in (
        (np.zeros((2, 11), dtype=np.uint8), "heads of 11 bytes have no room for .* heads of [0-9]+ bytes at least"),
        (np.zeros((2, K)), "dtype uint8"),
        (np.zeros(K, dtype=np.uint8), r"shape \(n, width\)"),
        (np.zeros((2, 2 * K), dtype=np.uint8)[:, :K], "not contiguous"),
        (np.frombuffer(bytes(K), dtype=np.uint8).reshape(1, K), "cannot be written"),
    ):
        with pytest.raises(ArgumentError, match=text):
            edit(wrong)


REFUSED: dict[str, tuple[Any, str]] = {
    "mac": (lambda heads: set_macs(heads, dst="02:00"), "'dst': '02:00' is not an Ethernet address"),
    "macs": (lambda heads: set_macs(heads, src=[1, 2, 3]), "src cannot be .* one for all packets"),
    "large mac": (lambda heads: set_macs(heads, src=1 << 48), "packet 0 cannot be 281474976710656"),
    "vlan": (lambda heads: push_vlan(heads, 4096), "'vlan' of packet 0 cannot be 4096"),
    "vlans": (lambda heads: push_vlan(heads, [1, 2, 3]), "vlan cannot be .* one for all packets"),
    "priority": (lambda heads: push_vlan(heads, 1, priority=8), "'priority' of packet 0 cannot be 8"),
    "tpid": (lambda heads: push_vlan(heads, 1, tpid=0x800), "0x0800 announces no VLAN tag"),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_changes_nothing(call: Any, text: str) -> None:
    heads = heads_of(["udp", "vlan"])
    with pytest.raises(ArgumentError, match=text):
        call(heads)
    assert (heads == heads_of(["udp", "vlan"])).all()


def test_set_macs_with_one_wrong_address_writes_neither() -> None:
    heads = heads_of(["udp"])
    with pytest.raises(ArgumentError):
        set_macs(heads, dst="02:00:00:00:00:01", src="nonsense")
    assert (heads == heads_of(["udp"])).all()
