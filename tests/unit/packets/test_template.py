# SPDX-License-Identifier: Apache-2.0
"""Template: what was filled in is what decode() reads, the checksums are scapy's, and nothing else changes."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Padding, Raw

from toolkit.decode import Columns, decode
from toolkit.errors import ArgumentError
from toolkit.packets.checksum import fill_checksums
from toolkit.packets.template import Template

E = Ether(src="02:11:22:33:44:55", dst="02:66:77:88:99:aa")
V4 = IP(src="10.1.2.3", dst="192.168.200.254", ttl=7, id=0xBEEF, tos=0x5D)
V6 = IPv6(src="2001:db8::1", dst="fe80::ff:fe00:2", hlim=9, tc=0xA2, fl=0x12345)
LINK = {"eth_dst", "eth_src"}
IN4 = LINK | {"ip_src", "ip_dst", "ip_ttl", "ip_id", "ip_dscp", "ip_ecn"}
IN6 = LINK | {"ip_src", "ip_dst", "ip6_src", "ip6_dst", "ip_ttl", "ip_dscp", "ip_ecn", "ip6_flow_label"}
PORTS = {"src_port", "dst_port"}
IN_TCP = PORTS | {"tcp_seq", "tcp_ack", "tcp_flags", "tcp_window"}
ECHO = {"icmp_type", "icmp_code", "icmp_id", "icmp_seq"}

# Each frame, and what it has a place for.
FRAMES: dict[str, tuple[Packet, set[str]]] = {
    "udp": (E / V4 / UDP(sport=1, dport=2) / Raw(b"payload of 19 bytes"), IN4 | PORTS | {"payload"}),
    "udp padded": (E / V4 / UDP() / Raw(b"abc") / Padding(b"\xaa" * 15), IN4 | PORTS | {"payload"}),
    "udp empty": (E / V4 / UDP(), IN4 | PORTS),
    "tcp": (E / V4 / TCP(flags="SA", options=[("MSS", 1460)]) / Raw(b"seven..x"), IN4 | IN_TCP | {"payload"}),
    "icmp": (E / V4 / ICMP(id=3, seq=4) / Raw(bytes(8)), IN4 | ECHO | {"payload"}),
    "options": (E / IP(options=[IPOption_Router_Alert()]) / UDP() / Raw(b"x"), IN4 | PORTS | {"payload"}),
    "fragment": (E / IP(frag=5, proto=17) / Raw(b"middle"), IN4 | {"payload"}),
    "vlan": (E / Dot1AD(vlan=7, prio=5) / Dot1Q(vlan=8, prio=3) / V4 / UDP(), IN4 | PORTS | {"vlan", "vlan_inner"}),
    "udp6": (E / V6 / UDP(sport=5, dport=6) / Raw(b"odd"), IN6 | PORTS | {"payload"}),
    "tcp6": (E / Dot1Q(vlan=9) / V6 / TCP(), IN6 | IN_TCP | {"vlan"}),
    "icmp6": (E / V6 / ICMPv6EchoRequest(data=b"data"), IN6 | ECHO | {"payload"}),
    "extension": (E / V6 / IPv6ExtHdrDestOpt() / UDP() / Raw(b"ext"), IN6 | PORTS | {"payload"}),
    "arp": (E / ARP(), LINK | {"arp_op", "arp_sender_mac", "arp_sender_ip", "arp_target_mac", "arp_target_ip"}),
    "no ip": (E / Raw(bytes(46)), LINK | {"payload"}),
}
BITS = {"ip_ttl": 8, "ip_dscp": 6, "ip_ecn": 2, "ip6_flow_label": 20, "tcp_flags": 9, "vlan": 12, "vlan_inner": 12}
BITS |= {"icmp_code": 8, "eth_dst": 48, "eth_src": 48, "arp_sender_mac": 48, "arp_target_mac": 48}
BITS |= dict.fromkeys(["ip_src", "ip_dst", "tcp_seq", "tcp_ack", "arp_sender_ip", "arp_target_ip"], 32)
INTEGERS = [np.int64, np.uint64]


def read(matrix: np.ndarray) -> Columns:
    n, width = matrix.shape
    return decode(np.ascontiguousarray(matrix).reshape(-1), np.arange(n) * width, np.full(n, width))


def draw_column(data: st.DataObject, name: str, n: int) -> Any:
    """A column of n values, or one for all."""
    size = 1 if data.draw(st.booleans()) else n
    if name.startswith(("ip6_s", "ip6_d")):
        raw = data.draw(st.binary(min_size=16 * size, max_size=16 * size))
        rows = np.frombuffer(raw, dtype=np.uint8).reshape(size, 16)
        return rows if size == n else rows[0]
    one = st.sampled_from([0, 8, 128]) if name == "icmp_type" else st.integers(0, (1 << BITS.get(name, 16)) - 1)
    values = data.draw(st.lists(one, min_size=size, max_size=size))
    form = data.draw(st.sampled_from([list, *INTEGERS]))
    if size != n:
        return values[0]
    return values if form is list else np.array(values, dtype=form)


def scapys(packet: bytes) -> bytes:
    """The packet with checksums as scapy computes them."""
    parsed = Ether(packet)
    for layer in (IP, TCP, UDP, ICMP):
        if layer in parsed and not (layer is not IP and IP in parsed and parsed[IP].frag):
            del parsed[layer].chksum
    if ICMPv6EchoRequest in parsed:
        del parsed[ICMPv6EchoRequest].cksum
    return bytes(parsed)


@pytest.mark.parametrize("kind", FRAMES)
def test_the_columns_are_those_of_the_frame(kind: str) -> None:
    frame, names = FRAMES[kind]
    template = Template(bytes(frame))
    assert set(template.columns) == names
    assert template.frame == bytes(frame)
    assert len(template) == len(bytes(frame))
    assert template.fill(3).tobytes() == bytes(frame) * 3, "a good frame without columns stays as it is"


@pytest.mark.parametrize("kind", FRAMES)
@given(data=st.data())
def test_what_is_filled_in_is_what_decode_reads(kind: str, data: st.DataObject) -> None:
    frame, names = FRAMES[kind]
    template, n = Template(bytes(frame)), data.draw(st.integers(2, 9))
    names = names - {"payload"} - ({"ip_src", "ip_dst"} if "ip6_src" in names else set())
    picked = data.draw(st.lists(st.sampled_from(sorted(names)), unique=True))
    columns = {name: draw_column(data, name, n) for name in picked}
    original = read(template.fill(n))
    payload = None
    if "payload" in template.columns:
        size = data.draw(st.integers(0, int(original.payload_len[0])))
        payload = np.frombuffer(data.draw(st.binary(min_size=n * size, max_size=n * size)), np.uint8).reshape(n, size)
    matrix = template.fill(n, payload=payload, **columns)
    assert matrix.shape == (n, len(template))
    after = read(matrix)
    for name in original:
        # What changes with the type of ICMP is whether there is an id: all three types that are drawn have one.
        expected = columns.get(name, original[name])
        assert (after[name] == np.broadcast_to(np.asarray(expected), original[name].shape)).all(), name
    at = int(original.payload_offset[0]) if kind != "arp" else len(template)
    end = at + (0 if payload is None else payload.shape[1])
    if payload is not None:
        assert (matrix[:, at:end] == payload).all()
    assert [row.tobytes() for row in matrix[:, end:]] == [template.frame[end:]] * n
    checked = matrix.copy()
    fill_checksums(checked)
    assert (checked == matrix).all()
    if not {"icmp_type", "icmp_code"} & set(picked):  # scapy's layers depend on them
        assert [row.tobytes() for row in matrix] == [scapys(row.tobytes()) for row in matrix]
    unsummed = template.fill(n, payload=payload, checksums=False, **columns)
    differing = np.flatnonzero((unsummed != matrix).any(axis=0))
    assert len(differing) <= 4, "checksums=False differs in nothing but checksums"


def test_checksums_false_leaves_the_frames_own() -> None:
    frame = bytearray(bytes(FRAMES["udp"][0]))
    frame[24:26], frame[40:42] = b"\x12\x34", b"\x56\x78"
    plain = Template(frame).fill(ip_ttl=[1, 2], checksums=False)
    assert plain[:, [24, 25, 40, 41]].tolist() == [[0x12, 0x34, 0x56, 0x78]] * 2


def test_a_udp_checksum_of_zero_is_written_as_ones() -> None:
    template = Template(bytes(FRAMES["udp"][0]))
    every = template.fill(src_port=np.arange(65536))
    assert not ((every[:, 40] == 0) & (every[:, 41] == 0)).any()
    assert ((every[:, 40] == 0xFF) & (every[:, 41] == 0xFF)).sum() == 1


def test_a_udp_length_shorter_than_the_packet() -> None:
    frame = bytes(E / IP() / UDP(len=11) / Raw(b"abcdefgh"))
    matrix = Template(frame).fill(payload=np.frombuffer(b"12345678", np.uint8).reshape(1, 8))
    checked = matrix.copy()
    assert fill_checksums(checked).all()
    assert (checked == matrix).all()


def test_addresses_as_text() -> None:
    four, six = Template(bytes(FRAMES["udp"][0])), Template(bytes(FRAMES["udp6"][0]))
    got = read(four.fill(2, ip_src="1.2.3.4", ip_dst=ipaddress.ip_address("5.6.7.8"), eth_dst="02-00-00-00-00-AB"))
    assert (got.ip_src[0], got.ip_dst[1], got.eth_dst[0]) == (0x01020304, 0x05060708, 0x0200000000AB)
    for address in ("2001:db8::7", ipaddress.ip_address("2001:db8::7"), 0x20010DB8 << 96 | 7):
        got = read(six.fill(2, ip_src=address, ip6_dst=b"\1" * 16))
        assert got.ip6_src[1].tobytes() == ipaddress.ip_address("2001:db8::7").packed
        assert got.ip6_dst[0].tobytes() == b"\1" * 16
    rows = np.arange(32, dtype=np.uint8).reshape(2, 16)
    assert (read(six.fill(ip_src=rows)).ip6_src == rows).all()


def test_how_many_there_are() -> None:
    template = Template(bytes(FRAMES["udp"][0]))
    assert len(template.fill()) == 1
    assert len(template.fill(ip_ttl=3)) == 1
    assert len(template.fill(5, ip_ttl=3)) == 5
    assert len(template.fill(ip_ttl=[3, 4])) == 2
    assert len(template.fill(payload=np.zeros((4, 2), dtype=np.uint8))) == 4
    assert template.fill(3, payload=b"same")[:, 42:46].tobytes() == b"same" * 3
    for empty in (template.fill(0), template.fill(ip_ttl=[], src_port=np.zeros(0, dtype=int))):
        assert empty.shape == (0, len(template))


def test_fill_into_reuses_memory_and_leaves_nothing_of_before() -> None:
    template = Template(bytes(FRAMES["udp"][0]))
    wide = np.full((4, len(template) + 7), 0xEE, dtype=np.uint8)
    out = wide[:, 3:-4]  # as frames that are longer than packets
    assert template.fill_into(out, src_port=[1, 2, 3, 4], payload=b"first") is out
    assert template.fill_into(out, dst_port=[5, 6, 7, 8]) is out
    assert (out == template.fill(dst_port=[5, 6, 7, 8])).all()
    assert (wide[:, :3] == 0xEE).all()
    assert (wide[:, -4:] == 0xEE).all()


U, S = Template(bytes(FRAMES["udp"][0])), Template(bytes(FRAMES["udp6"][0]))
REFUSED: dict[str, tuple[Any, str]] = {
    "no place": (lambda: U.fill(tcp_seq=1), "no place for a column 'tcp_seq'; it has eth_dst, .* payload"),
    "no such column": (lambda: U.fill(source=1), "no place for a column 'source'"),
    "of IPv6": (lambda: U.fill(ip6_src=bytes(16)), "no place for a column 'ip6_src'"),
    "a length": (lambda: U.fill(udp_len=9), "no place for a column 'udp_len'"),
    "too large": (lambda: U.fill(src_port=[1, 65536]), "'src_port' of packet 1 cannot be 65536.* 0 to 65535"),
    "negative": (lambda: U.fill(src_port=[-1]), r"packet 0 cannot be -1.*decode\(\) has -1"),
    "past 64 bits": (lambda: U.fill(ip_src=2**64), "'ip_src'"),
    "uint64": (lambda: U.fill(ip_src=np.array([2**63 + 1], np.uint64)), "from 0 to 4294967295"),
    "of the mask": (lambda: U.fill(ip_dscp=64), "from 0 to 63"),
    "float": (lambda: U.fill(ip_ttl=1.5), "one integer for each packet"),
    "bool": (lambda: U.fill(ip_ttl=True), "one integer for each packet"),
    "table": (lambda: U.fill(ip_ttl=[[1, 2]]), r"shape \(1, 2\)"),
    "ragged": (lambda: U.fill(ip_ttl=[[1, 2], [3]]), "'ip_ttl'"),
    "none": (lambda: U.fill(ip_ttl=None), "one integer"),
    "list of words": (lambda: U.fill(ip_src=["1.2.3.4"]), "addresses as numbers"),
    "bad address": (lambda: U.fill(ip_src="1.2.3"), "'ip_src': '1.2.3' is not an IPv4 address"),
    "IPv6 for IPv4": (lambda: U.fill(ip_src="::1"), "is not an IPv4 address"),
    "object of IPv6": (lambda: U.fill(ip_src=ipaddress.ip_address("::1")), "cannot be '::1'.* of 32 bits"),
    "bad mac": (lambda: U.fill(eth_dst="02:00:00:00:00"), "is not an Ethernet address"),
    "word for a port": (lambda: U.fill(dst_port="http"), "'http'.* integers"),
    "IPv4 for IPv6": (lambda: S.fill(ip_src="1.2.3.4"), "is not an IPv6 address"),
    "ints for IPv6": (lambda: S.fill(ip_src=np.arange(16)), r"shape \(n, 16\) and dtype uint8"),
    "15 bytes": (lambda: S.fill(ip_src=bytes(15)), r"shape \(n, 16\) and dtype uint8"),
    "lengths differ": (lambda: U.fill(ip_ttl=[1, 2], src_port=[1, 2, 3]), "ip_ttl 2, src_port 3"),
    "n differs": (lambda: U.fill(4, ip_ttl=[1, 2]), "n 4, ip_ttl 2"),
    "payload rows": (lambda: U.fill(4, payload=np.zeros((2, 2), np.uint8)), "n 4, payload 2"),
    "negative n": (lambda: U.fill(-1), "n cannot be -1"),
    "payload too long": (lambda: U.fill(payload=bytes(20)), "20 bytes does not fit: the template's frame has 19"),
    "payload of words": (lambda: U.fill(payload=np.zeros((1, 2))), "dtype uint8"),
    "payload text": (lambda: U.fill(payload="text"), "payload cannot be 'text'"),
    "no payload": (lambda: Template(bytes(FRAMES["udp empty"][0])).fill(payload=b"x"), "the template's frame has 0"),
    "frame of text": (lambda: Template("frame"), "a template is a frame as bytes, not str"),
    "frame of scapy": (lambda: Template(FRAMES["udp"][0]), r"Next step: bytes\(frame\)"),
    "short frame": (lambda: Template(bytes(13)), "cannot have 13 bytes"),
    "out too narrow": (lambda: U.fill_into(np.zeros((2, 60), np.uint8)), r"shape \(n, 61\)"),
    "out of words": (lambda: U.fill_into(np.zeros((2, 61))), "float64"),
    "out a list": (lambda: U.fill_into([]), "out cannot be"),
    "out read-only": (lambda: U.fill_into(np.frombuffer(bytes(61), np.uint8).reshape(1, 61)), "read-only"),
    "out transposed": (lambda: U.fill_into(np.zeros((61, 3), np.uint8).T), "rows do not lie together"),
    "out and columns": (lambda: U.fill_into(np.zeros((2, 61), np.uint8), ip_ttl=[1, 2, 3]), "n 2, ip_ttl 3"),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(call: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        call()


def test_what_is_refused_changes_nothing() -> None:
    out = np.full((2, len(U)), 7, dtype=np.uint8)
    for wrong in ({"ip_ttl": [1, 256]}, {"payload": bytes(20)}, {"nothing": 1}):
        with pytest.raises(ArgumentError):
            U.fill_into(out, **wrong)
    assert (out == 7).all()


def test_repr_says_what_it_makes() -> None:
    assert repr(U) == (
        "<Template: 10.1.2.3:1 → 192.168.200.254:2 UDP 61 B; columns eth_dst, eth_src, ip_src, ip_dst, ip_ttl, ip_id, "
        "ip_dscp, ip_ecn, src_port, dst_port, payload>"
    )
