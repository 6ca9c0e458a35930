# SPDX-License-Identifier: Apache-2.0
"""Well-formed packets: every column against scapy's own parse, and what Columns promises."""

from __future__ import annotations

import ipaddress
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, GRE, GRE_PPTP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Padding, Raw

from tests.helpers.decode_reference import reference
from tests.helpers.decoding import decode_packets, lay_out, rows
from tests.helpers.scapy_packets import PACKETS, V4, V6, E
from toolkit.decode import Columns, decode
from toolkit.decode.protocol_columns import FIELDS
from toolkit.errors import ArgumentError

Row = dict[str, Any]


def mac(text: str) -> int:
    return int(text.replace(":", ""), 16)


def expected(raw: bytes) -> Row:
    """Every column of a well-formed packet, from scapy's parse."""
    layer = Ether(raw)
    row: Row = dict.fromkeys(FIELDS, -1)
    row |= {"length": len(raw), "ip6_src": bytes(16), "ip6_dst": bytes(16), "truncated": False, "valid": True}
    row |= {"eth_dst": mac(layer.dst), "eth_src": mac(layer.src), "ethertype": layer.type}
    at, layer = 14, layer.payload
    for name in ("vlan", "vlan_inner"):
        if isinstance(layer, Dot1Q | Dot1AD):
            row |= {name: layer.vlan, "ethertype": layer.type}
            at, layer = at + 4, layer.payload
    end = len(raw)
    if isinstance(layer, ARP):
        row |= {"arp_op": layer.op, "arp_sender_mac": mac(layer.hwsrc), "arp_target_mac": mac(layer.hwdst)}
        row["arp_sender_ip"] = int(ipaddress.IPv4Address(layer.psrc))
        row["arp_target_ip"] = int(ipaddress.IPv4Address(layer.pdst))
    elif isinstance(layer, IP):
        end, at = at + layer.len, at + expect_ipv4(row, layer)
    elif isinstance(layer, IPv6):
        end, at = at + 40 + layer.plen, at + expect_ipv6(row, layer)
    return row | {"payload_offset": at, "payload_len": end - at}


def expect_ipv4(row: Row, ip: IP) -> int:
    """Fill in the columns; returns the bytes of all headers from here on."""
    row |= {"ip_version": 4, "ip_src": int(ipaddress.IPv4Address(ip.src)), "ip_dst": int(ipaddress.IPv4Address(ip.dst))}
    row |= {"ip_ttl": ip.ttl, "ip_len": ip.len, "ip_id": ip.id, "ip_dscp": ip.tos >> 2, "ip_ecn": ip.tos & 3}
    row |= {"ip_flags": int(ip.flags), "ip_fragment_offset": ip.frag * 8}
    return ip.ihl * 4 + expect_behind(row, ip.proto, ip.payload)


def expect_ipv6(row: Row, ip: IPv6) -> int:
    row |= {
        "ip_version": 6,
        "ip6_src": ipaddress.IPv6Address(ip.src).packed,
        "ip_ttl": ip.hlim,
        "ip6_flow_label": ip.fl,
    }
    row |= {"ip6_dst": ipaddress.IPv6Address(ip.dst).packed, "ip_len": ip.plen + 40, "ip_dscp": ip.tc >> 2}
    row |= {"ip_ecn": ip.tc & 3, "ip_flags": 0, "ip_fragment_offset": 0}
    return 40 + expect_behind(row, ip.nh, ip.payload)


def expect_behind(row: Row, protocol: int, layer: Any) -> int:
    """What follows an IP header: extension headers and AH, then the transport."""
    size = 0
    while isinstance(layer, IPv6ExtHdrHopByHop | IPv6ExtHdrDestOpt | IPv6ExtHdrRouting | IPv6ExtHdrFragment | AH):
        if isinstance(layer, IPv6ExtHdrFragment):
            row |= {"ip_fragment_offset": layer.offset * 8, "ip_flags": layer.m, "ip_id": layer.id}
            size += 8
        else:
            size += (layer.payloadlen + 2) * 4 if isinstance(layer, AH) else (layer.len + 1) * 8
        is_ah = isinstance(layer, AH)  # scapy leaves what follows it undissected
        protocol, layer = layer.nh, layer.payload
        layer = {6: TCP, 17: UDP}[protocol](bytes(layer)) if is_ah else layer
    row["ip_proto"] = protocol
    if row["ip_fragment_offset"]:
        return size
    if isinstance(layer, TCP | UDP | SCTP):
        row |= {"src_port": layer.sport, "dst_port": layer.dport}
    if isinstance(layer, TCP):
        row |= {"tcp_flags": int(layer.flags), "tcp_seq": layer.seq, "tcp_ack": layer.ack, "tcp_window": layer.window}
        return size + layer.dataofs * 4
    if isinstance(layer, UDP):
        row["udp_len"] = layer.len
        if isinstance(layer.payload, VXLAN) and int(layer.payload.flags) & 8:
            row["vxlan_vni"] = layer.payload.vni
            return size + 16
        return size + 8
    if isinstance(layer, GRE | GRE_PPTP):
        return size + expect_gre(row, layer)
    if protocol in (1, 58):
        row |= {"icmp_type": layer.type, "icmp_code": layer.code}
        if isinstance(layer, ICMPv6EchoRequest | ICMPv6EchoReply) or (protocol == 1 and layer.type in (0, 8)):
            row |= {"icmp_id": layer.id, "icmp_seq": layer.seq}
        return size + 8
    if isinstance(layer, SCTP):
        row["sctp_vtag"] = layer.tag
        if layer.payload:
            row["sctp_chunk"] = layer.payload.type
        return size + 12
    return size


def expect_gre(row: Row, layer: Any) -> int:
    row["gre_proto"] = layer.proto
    if isinstance(layer, GRE_PPTP):
        row["gre_key"] = layer.payload_len << 16 | layer.call_id
        return 8 + 4 * (layer.seqnum_present + layer.acknum_present)
    if layer.key_present:
        row["gre_key"] = layer.key
    return 4 + 4 * (layer.chksum_present + layer.key_present + layer.seqnum_present)


@pytest.mark.parametrize("name", PACKETS)
def test_every_column_agrees_with_scapy(name: str) -> None:
    raw = bytes(PACKETS[name])
    assert rows(decode_packets([raw])) == [expected(raw)]


def test_all_together_agree_with_scapy() -> None:
    packets = [bytes(packet) for packet in PACKETS.values()]
    assert rows(decode_packets(packets * 3)) == [expected(raw) for raw in packets] * 3


payload = st.binary(max_size=64).map(Raw)
port = st.integers(1, 65535)
# Ports from 50000: scapy goes on to parse what runs over the well-known ones.
high = st.integers(50000, 65535)
tcp = st.builds(TCP, sport=high, dport=high, flags=st.integers(0, 511), seq=st.integers(0, 2**32 - 1), window=port)
udp = st.builds(UDP, sport=high, dport=high)
icmp = st.builds(ICMP, type=st.sampled_from([0, 8]), id=port, seq=port)
icmp6 = st.builds(ICMPv6EchoRequest, id=port, seq=port, data=st.binary(max_size=40))
ip4 = st.builds(IP, tos=st.integers(0, 255), ttl=st.integers(0, 255), id=port, flags=st.sampled_from([0, 2, 4]))
ip6 = st.builds(IPv6, tc=st.integers(0, 255), fl=st.integers(0, 2**20 - 1), hlim=st.integers(0, 255))
extensions = st.lists(
    st.one_of(
        st.builds(IPv6ExtHdrHopByHop, options=st.binary(max_size=80).map(lambda data: [PadN(optdata=data)])),
        st.builds(IPv6ExtHdrDestOpt, options=st.binary(max_size=80).map(lambda data: [PadN(optdata=data)])),
        st.integers(0, 5).map(lambda hops: IPv6ExtHdrRouting(addresses=["::9"] * hops)),
        st.builds(IPv6ExtHdrFragment, m=st.booleans(), id=st.integers(0, 2**32 - 1)),
    ),
    max_size=8,
)
tags = st.lists(st.builds(Dot1Q, vlan=st.integers(0, 4095)), max_size=2)


@st.composite
def any_layers(draw: st.DrawFn) -> bytes:
    packet = E
    for tag in draw(tags):
        packet = packet / tag
    if draw(st.booleans()):
        packet = packet / draw(ip4) / draw(st.one_of(tcp, udp, icmp)) / draw(payload)
    else:
        packet = packet / draw(ip6)
        for header in draw(extensions):
            packet = packet / header
        packet = packet / draw(icmp6) if draw(st.booleans()) else packet / draw(st.one_of(tcp, udp)) / draw(payload)
    return bytes(packet)


@settings(max_examples=100)
@given(st.lists(any_layers(), min_size=1, max_size=6))
def test_layers_stacked_at_random_agree_with_scapy(packets: list[bytes]) -> None:
    assert rows(decode_packets(packets)) == [expected(raw) for raw in packets]


@pytest.mark.parametrize("name", PACKETS)
def test_a_packet_cut_anywhere_is_what_the_plain_decoder_makes_of_it(name: str) -> None:
    raw = bytes(PACKETS[name])
    cut = [raw[:length] for length in range(min(len(raw), 200) + 1)]
    assert rows(decode_packets(cut)) == [reference(packet) for packet in cut]


def test_nine_extension_headers_are_one_too_many() -> None:
    chain = E / V6
    for _ in range(9):
        chain = chain / IPv6ExtHdrDestOpt()
    columns = decode_packets([bytes(chain / UDP()), bytes(E / V6 / UDP())])
    assert columns.valid.tolist() == [False, True]
    assert columns.ip_proto.tolist() == [60, 17]
    assert columns.src_port[0] == -1


def test_a_packet_cut_behind_its_headers_is_truncated_and_valid() -> None:
    raw = bytes(E / V4 / TCP(sport=1) / Raw(bytes(1000)))
    columns = decode_packets([raw, raw[:96], raw[:54], raw[:53], raw[:34], raw[:33], raw[:14], raw[:13], b""])
    assert columns.truncated.tolist() == [False] + [True] * 8
    assert columns.valid.tolist() == [True] * 3 + [False] * 6
    assert columns.payload_len.tolist() == [1000, 42, 0, 19, 0, 19, 0, -1, -1]
    assert columns.src_port.tolist() == [1, 1, 1, 1, -1, -1, -1, -1, -1]
    assert columns.tcp_flags.tolist() == [2, 2, 2, -1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize(("dataofs", "valid"), [(0, False), (4, False), (5, True), (7, True), (8, False), (15, False)])
def test_a_tcp_header_must_have_20_bytes_and_fit(dataofs: int, valid: bool) -> None:
    columns = decode_packets([bytes(E / V4 / TCP(sport=5, dataofs=dataofs) / Raw(bytes(8)))])
    assert columns.valid[0] == valid
    assert columns.src_port[0] == 5
    assert columns.payload_offset[0] == 34 + (dataofs * 4 if valid else 0)


@pytest.mark.parametrize(("flags", "valid"), [(0x4000, False), (2, False), (7, False), (0x3000, True), (0x3081, True)])
def test_gre_that_cannot_be_walked_is_reported(flags: int, valid: bool) -> None:
    """Source routes (RFC 1701) and later versions: nobody knows where their payload begins."""
    columns = decode_packets([bytes(E / IP(proto=47) / Raw(flags.to_bytes(2, "big") + b"\x08\0" + bytes(range(20))))])
    assert columns.gre_proto[0] == 0x0800
    assert columns.valid[0] == valid
    assert columns.gre_key[0] == (0x00010203 if valid else -1)
    assert columns.payload_offset[0] == (34 + 4 * bin(flags & 0x3080).count("1") + 4 if valid else 34)


def test_what_a_tunnel_carries_can_be_decoded_in_its_turn() -> None:
    inner = E / Dot1Q(vlan=5) / V6 / TCP(sport=1234)
    memory, offsets, lengths = lay_out([bytes(E / V4 / UDP(sport=50000, dport=4789) / VXLAN(vni=9) / inner)] * 3)
    outer = decode(memory, offsets, lengths)
    again = decode(memory, offsets.astype(np.int64) + outer.payload_offset, outer.payload_len)
    assert rows(again) == [expected(bytes(inner))] * 3


def test_ports_are_not_read_from_padding() -> None:
    """An IP packet of 22 bytes in a frame of 60: where its UDP header ought to be, Ethernet's padding stands."""
    raw = bytes(E / IP(proto=17, len=22) / Raw(b"\x12\x34") / Padding(b"\xff" * 24))
    columns = decode_packets([raw])
    assert columns.src_port[0] == columns.dst_port[0] == columns.udp_len[0] == -1
    assert not columns.valid[0]
    assert not columns.truncated[0]


def test_columns_hold_no_reference_to_packet_memory() -> None:
    memory, offsets, lengths = lay_out([bytes(packet) for packet in PACKETS.values()])
    known = rows(decode(memory, offsets, lengths))
    lengths = lengths.astype(np.int64)  # of a type that needs no conversion, which would be a copy
    columns = decode(memory, offsets, lengths)
    gone = weakref.ref(memory)
    memory[:] = 0xDE  # the frames went back, and the next packets are in them
    lengths[:] = 0
    del memory
    assert gone() is None
    assert rows(columns) == known


def test_memory_may_be_read_only_and_offsets_of_any_integer_type() -> None:
    memory, offsets, lengths = lay_out([bytes(packet) for packet in PACKETS.values()])
    known = rows(decode(memory, offsets, lengths))
    memory.flags.writeable = False
    assert rows(decode(memory, offsets.astype(np.int32), lengths.astype(np.int64))) == known
    assert rows(decode(np.frombuffer(memory.tobytes(), dtype=np.uint8), offsets.tolist(), lengths.tolist())) == known


@pytest.mark.parametrize(
    ("offsets", "lengths"),
    [
        ([0], [101]),
        ([100], [1]),
        ([-1], [10]),
        ([0], [-1]),
        ([2**63 - 1], [1]),
        ([1], [2**63 - 1]),
        ([2**62], [2**63 - 1]),
        ([0, 1], [1]),
    ],
)
def test_packets_outside_of_the_memory_are_refused(offsets: list[int], lengths: list[int]) -> None:
    with pytest.raises(ArgumentError, match="packet"):
        decode(np.zeros(100, dtype=np.uint8), offsets, lengths)


@pytest.mark.parametrize("memory", [np.zeros((4, 4), np.uint8), np.zeros(9, np.int8), np.zeros(9, np.uint8)[::2]])
def test_memory_of_another_shape_is_refused(memory: np.ndarray) -> None:
    with pytest.raises(ArgumentError, match=r"contiguous.*Next step"):
        decode(memory, [0], [1])


def test_an_unknown_column_is_named_with_those_there_are() -> None:
    with pytest.raises(ArgumentError, match=r"'sport'.*src_port"):
        decode(np.zeros(9, np.uint8), [0], [9], columns=["sport"])
    columns = decode(np.zeros(9, np.uint8), [0], [9], columns=["eth_src"])
    with pytest.raises(ArgumentError, match=r"'eth_dst'.*eth_src"):
        columns["eth_dst"]
    with pytest.raises(AttributeError, match="eth_dst"):
        _ = columns.eth_dst


@pytest.fixture(name="columns")
def columns_of_all() -> Columns:
    return decode_packets([bytes(packet) for packet in PACKETS.values()])


def test_columns_behave_like_a_mapping_of_arrays(columns: Columns) -> None:
    assert len(columns) == len(PACKETS)
    assert list(columns) == columns.keys() == list(Columns.explain()) == list(FIELDS)
    assert "ip_src" in columns
    assert "sport" not in columns
    assert columns["ip_src"] is columns.ip_src
    assert "ip_src" in dir(columns)
    assert dict(columns).keys() == columns.to_dict().keys()
    assert not decode_packets([])


def test_columns_survive_pickling_before_and_after_use(columns: Columns) -> None:
    fresh = pickle.loads(pickle.dumps(columns))
    known = rows(columns)
    assert rows(fresh) == known
    assert rows(pickle.loads(pickle.dumps(columns))) == known


def test_writing_into_a_column_changes_no_other(columns: Columns) -> None:
    known = rows(columns)
    fresh = decode_packets([bytes(packet) for packet in PACKETS.values()])
    for name in fresh:
        if name != "valid":
            fresh[name][...] = 1
    assert fresh.valid.tolist() == [row["valid"] for row in known]
    for name in FIELDS:
        alone = decode_packets([bytes(packet) for packet in PACKETS.values()])
        alone[name][...] = 0
        left = [{key: value for key, value in row.items() if key != name} for row in rows(alone)]
        assert left == [{key: value for key, value in row.items() if key != name} for row in known], name


@pytest.mark.needs("pandas")
def test_pandas_gets_a_row_for_each_packet(columns: Columns) -> None:
    """What is in each cell, tests/unit/tables/test_tables.py holds."""
    frame = columns.to_pandas(addresses="binary")
    assert list(frame.columns) == columns.keys()
    assert frame["src_port"].astype("Int32").fillna(-1).tolist() == columns.src_port.tolist()
    assert [source is None for source in frame["ip6_src"]] == (columns.ip_version != 6).tolist()


def test_repr_shows_packets_and_html_a_table(columns: Columns) -> None:
    text = repr(columns)
    assert text.startswith(f"<Columns: {len(PACKETS)} packets, {len(FIELDS)} columns>")
    assert "10.1.2.3:40000 → 192.168.200.254:443 TCP" in text
    assert f"and {len(PACKETS) - 8} more" in text
    html = columns._repr_html_()
    assert "<th>src_port</th>" in html
    assert "<td>02:11:22:33:44:55</td>" in html
    assert "<th>arp_op</th>" not in html  # none among the packets shown
    few = decode(*lay_out([bytes(E)]), columns=["eth_src", "vlan"])
    assert repr(few) == "<Columns: 1 packet, 2 columns: eth_src, vlan>"
    assert "02:11:22:33:44:55" in few._repr_html_()
