# SPDX-License-Identifier: Apache-2.0
"""The columns of each protocol, one function a column: Ethernet, VLAN, ARP, IP, TCP, UDP, ICMP, SCTP, VXLAN, GRE.

A docstring here is the column's description for users. A column is -1 where a packet does not have the field.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.decode.field import FIELDS, bits, field
from toolkit.decode.headers import Headers
from toolkit.decode.layers import LINK, LINK_AT, NET_AT, NETWORK, TAGS_AT, TRANSPORT, WORDS_AT

__all__ = ["FIELDS"]

Array = npt.NDArray[Any]

_ALL = 0xFFFFFFFF
_ADDRESS6 = np.dtype((np.void, 16))


def _mac(octets: Array) -> Array:
    """Return the first 6 of 8 bytes as a number."""
    shifted: Array = octets >> np.uint64(16)
    return shifted.view(np.int64)


@field(LINK, "", np.int64)
def length(h: Headers) -> Array:
    """Bytes of the packet in memory, int64."""
    return h.length.copy()


@field(LINK, "has_ethernet", np.int64)
def eth_dst(h: Headers) -> Array:
    """Ethernet destination as a number of 48 bits, int64."""
    column: Array = h.macs[0]
    return column


@field(LINK, "has_ethernet", np.int64)
def eth_src(h: Headers) -> Array:
    """Ethernet source as a number of 48 bits, int64."""
    column: Array = h.macs[1]
    return column


@field(LINK, "has_ethernet", np.int32)
def ethertype(h: Headers) -> Array:
    """Ethertype behind the VLAN tags (up to two), int32; below 1536 it is an IEEE 802.3 length."""
    return h.ethertype.copy()


@bits(LINK, "tagged", np.int16, LINK_AT + 3, 0, 0xFFF)
def vlan() -> None:
    """Identifier in the outer VLAN tag, int16."""


@bits(LINK, "tagged2", np.int16, TAGS_AT, 0, 0xFFF)
def vlan_inner() -> None:
    """Identifier in the second VLAN tag, int16."""


@field(NETWORK, "has_arp", np.int32)
def arp_op(h: Headers) -> Array:
    """ARP operation, int32: 1 request, 2 reply. The arp_ columns are of ARP for IPv4 over Ethernet."""
    return h.arp["op"].astype(np.int32)


@field(NETWORK, "has_arp", np.int64)
def arp_sender_mac(h: Headers) -> Array:
    """Ethernet address of the sender in ARP, int64."""
    return _mac(h.arp["sender_mac"])


@field(NETWORK, "has_arp", np.int64)
def arp_sender_ip(h: Headers) -> Array:
    """IPv4 address of the sender in ARP, int64."""
    return h.arp["sender_ip"].astype(np.int64)


@field(NETWORK, "has_arp", np.int64)
def arp_target_mac(h: Headers) -> Array:
    """Ethernet address of the target in ARP, int64."""
    return _mac(h.arp["target_mac"])


@field(NETWORK, "has_arp", np.int64)
def arp_target_ip(h: Headers) -> Array:
    """IPv4 address of the target in ARP, int64."""
    return h.arp["target_ip"].astype(np.int64)


@bits(NETWORK, "is_ip", np.int8, NET_AT, 28, 0xF)
def ip_version() -> None:
    """Version of the IP header, 4 or 6, int8."""


@bits(NETWORK, "is4", np.int64, NET_AT + 3, 0, _ALL)
def ip_src() -> None:
    """IPv4 source as a number of 32 bits in host order, int64."""


@bits(NETWORK, "is4", np.int64, NET_AT + 4, 0, _ALL)
def ip_dst() -> None:
    """IPv4 destination as a number of 32 bits in host order, int64."""


@field(NETWORK, "", np.uint8, has="has_ip6")
def ip6_src(h: Headers) -> Array:
    """IPv6 source, (n, 16) uint8; zeros where ip_version is not 6."""
    return _address6(h, 8)


@field(NETWORK, "", np.uint8, has="has_ip6")
def ip6_dst(h: Headers) -> Array:
    """IPv6 destination, (n, 16) uint8; zeros where ip_version is not 6."""
    return _address6(h, 24)


def _address6(h: Headers, at: int) -> Array:
    """Return the addresses from byte `at` of the header on, zeros where there is no IPv6."""
    column = np.zeros((len(h.length), 16), dtype=np.uint8)
    if h.is6 is not None:
        # Copied as items of 16 bytes: one memmove each.
        column.view(_ADDRESS6)[h.rows6, 0] = h.addresses6(at)[h.rows6]
    return column


@field(NETWORK, "is_ip", np.int16)
def ip_proto(h: Headers) -> Array:
    """Protocol behind IP and its extension headers (IPPROTO_*), int16; the last one found if those are broken."""
    column: Array = h.protocol.astype(np.int16)
    return column


@field(NETWORK, "is_ip", np.int16)
def ip_ttl(h: Headers) -> Array:
    """Time to live, or hop limit, int16."""
    limit = h.net[2] >> 24
    if h.is6 is not None:
        np.copyto(limit, h.net[1] & 0xFF, where=h.is6)
    column: Array = limit.astype(np.int16)
    return column


@field(NETWORK, "is_ip", np.int32)
def ip_len(h: Headers) -> Array:
    """Bytes of the whole IP packet by its header, int32: IPv4's total length, IPv6's payload length plus 40."""
    length: Array = h.net[0] & 0xFFFF
    if h.is6 is not None:
        np.copyto(length, (h.net[1] >> 16) + 40, where=h.is6)
    return length


@field(NETWORK, "has_id", np.int64)
def ip_id(h: Headers) -> Array:
    """Identification: IPv4's 16 bits, or the 32 bits of an IPv6 fragment header, int64."""
    column: Array = (h.net[1] >> 16).astype(np.int64)
    for rows, identification in h.fragments6:
        column[rows] = identification
    return column


@field(NETWORK, "is_ip", np.int8)
def ip_dscp(h: Headers) -> Array:
    """Differentiated services code point, int8."""
    return h.traffic_class >> 2


@field(NETWORK, "is_ip", np.int8)
def ip_ecn(h: Headers) -> Array:
    """Explicit congestion notification, int8: 0 to 3."""
    return h.traffic_class & 3


@field(NETWORK, "is_ip", np.int8)
def ip_flags(h: Headers) -> Array:
    """Fragmentation flags, int8: 1 more fragments, 2 do not fragment, 4 reserved. IPv6 has only the first."""
    return (h.fragment >> 13).astype(np.int8)


@field(NETWORK, "is_ip", np.int32)
def ip_fragment_offset(h: Headers) -> Array:
    """Offset of this fragment in its packet, bytes, int32. Where it is not 0 there are no ports."""
    shifted: Array = h.fragment << 3  # shifts the flags out of the 16 bits
    return shifted


@bits(NETWORK, "has_ip6", np.int32, NET_AT, 0, 0xFFFFF)
def ip6_flow_label() -> None:
    """IPv6 flow label, int32."""


@bits(TRANSPORT, "has_ports", np.int32, WORDS_AT, 16, 0xFFFF)
def src_port() -> None:
    """Source port of TCP, UDP, UDP-Lite or SCTP, int32."""


@bits(TRANSPORT, "has_ports", np.int32, WORDS_AT, 0, 0xFFFF)
def dst_port() -> None:
    """Destination port of TCP, UDP, UDP-Lite or SCTP, int32."""


@bits(TRANSPORT, "has_tcp", np.int16, WORDS_AT + 3, 16, 0x1FF)
def tcp_flags() -> None:
    """TCP flags, int16: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128, AE 256."""


@bits(TRANSPORT, "has_tcp", np.int64, WORDS_AT + 1, 0, _ALL)
def tcp_seq() -> None:
    """TCP sequence number, int64."""


@bits(TRANSPORT, "has_tcp", np.int64, WORDS_AT + 2, 0, _ALL)
def tcp_ack() -> None:
    """TCP acknowledgment number, int64; meaningless without the ACK flag."""


@bits(TRANSPORT, "has_tcp", np.int32, WORDS_AT + 3, 0, 0xFFFF)
def tcp_window() -> None:
    """TCP window as in the header, unscaled, int32."""


@bits(TRANSPORT, "has_udp", np.int32, WORDS_AT + 1, 16, 0xFFFF)
def udp_len() -> None:
    """UDP length field (UDP-Lite: checksum coverage), int32."""


@bits(TRANSPORT, "has_icmp", np.int16, WORDS_AT, 24, 0xFF)
def icmp_type() -> None:
    """Type of ICMP or ICMPv6 (ip_proto 1 or 58), int16."""


@bits(TRANSPORT, "has_icmp", np.int16, WORDS_AT, 16, 0xFF)
def icmp_code() -> None:
    """Code of ICMP or ICMPv6, int16."""


@bits(TRANSPORT, "has_echo", np.int32, WORDS_AT + 1, 16, 0xFFFF)
def icmp_id() -> None:
    """Identifier of an echo or timestamp message, int32."""


@bits(TRANSPORT, "has_echo", np.int32, WORDS_AT + 1, 0, 0xFFFF)
def icmp_seq() -> None:
    """Sequence number of an echo or timestamp message, int32."""


@bits(TRANSPORT, "has_sctp", np.int64, WORDS_AT + 1, 0, _ALL)
def sctp_vtag() -> None:
    """SCTP verification tag, int64."""


@bits(TRANSPORT, "has_chunk", np.int16, WORDS_AT + 3, 24, 0xFF)
def sctp_chunk() -> None:
    """Type of the first SCTP chunk, int16: 0 DATA, 1 INIT, 3 SACK, 4 HEARTBEAT, ..."""


@bits(TRANSPORT, "has_vxlan", np.int32, WORDS_AT + 3, 8, 0xFFFFFF)
def vxlan_vni() -> None:
    """VXLAN network identifier, int32: of UDP to port 4789 or 8472 with the flag that there is one.

    The payload is the inner Ethernet frame, which decode() can decode as well.
    """


@bits(TRANSPORT, "has_gre", np.int32, WORDS_AT, 0, 0xFFFF)
def gre_proto() -> None:
    """Ethertype of GRE's payload, int32; 0x6558 is an Ethernet frame. The payload begins behind GRE's options."""


@field(TRANSPORT, "has_gre_key", np.int64)
def gre_key(h: Headers) -> Array:
    """Key field of GRE, int64; in version 1 (PPTP) payload length and call number."""
    column: Array = np.where(h.words[0] & 0x80000000, h.words[2], h.words[1]).astype(np.int64)
    return column


@field(TRANSPORT, "has_ethernet", np.int32)
def payload_offset(h: Headers) -> Array:
    """Bytes from the packet's start to the payload, which is behind the last known header, int32.

    The payload of VXLAN and GRE is the packet inside.
    """
    return h.payload_at.astype(np.int32)


@field(TRANSPORT, "has_ethernet", np.int32)
def payload_len(h: Headers) -> Array:
    """Bytes of payload in memory, without Ethernet padding, int32."""
    return (h.end - h.payload_at).astype(np.int32)


@field(NETWORK, "", np.bool_)
def truncated(h: Headers) -> Array:
    """The bytes end before the headers, or before the length that the IP header declares; bool."""
    return h.short | (h.declared > h.length)


@field(TRANSPORT, "", np.bool_)
def valid(h: Headers) -> Array:
    """Every header up to TCP, UDP, ICMP, SCTP, GRE or ARP is complete and consistent; bool."""
    known = (h.kind < 2) | h.is_ip
    if h.is_arp is not None:
        known |= h.is_arp
    return known & ~(h.short | h.broken | h.incomplete | h.wrong_udp)
