# SPDX-License-Identifier: Apache-2.0
"""The columns of each protocol, one function a column: Ethernet, VLAN, ARP, IP, TCP, UDP, ICMP, SCTP, VXLAN, GRE.

A docstring here is the column's description for users. A column is -1 where a packet does not have the field.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.decode.field import FIELDS, field
from toolkit.decode.headers import Headers
from toolkit.decode.layers import LINK, NETWORK, TRANSPORT

__all__ = ["FIELDS"]

Array = npt.NDArray[Any]


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
    return _mac(h.ethernet["dst"])


@field(LINK, "has_ethernet", np.int64)
def eth_src(h: Headers) -> Array:
    """Ethernet source as a number of 48 bits, int64."""
    return _mac(h.ethernet["src"])


@field(LINK, "has_ethernet", np.int32)
def ethertype(h: Headers) -> Array:
    """Ethertype behind the VLAN tags (up to two), int32; below 1536 it is an IEEE 802.3 length."""
    return h.ethertype


@field(LINK, "tagged", np.int16)
def vlan(h: Headers) -> Array:
    """Identifier in the outer VLAN tag, int16."""
    return (h.ethernet["tci"] & 0xFFF).astype(np.int16)


@field(LINK, "tagged2", np.int16)
def vlan_inner(h: Headers) -> Array:
    """Identifier in the second VLAN tag, int16."""
    return (h.ethernet["tci1"] & 0xFFF).astype(np.int16)


@field(NETWORK, "has_arp", np.int32)
def arp_op(h: Headers) -> Array:
    """ARP operation, int32: 1 request, 2 reply. The arp_ columns are of ARP for IPv4 over Ethernet."""
    return h.arp["op"]


@field(NETWORK, "has_arp", np.int64)
def arp_sender_mac(h: Headers) -> Array:
    """Ethernet address of the sender in ARP, int64."""
    return _mac(h.arp["sender_mac"])


@field(NETWORK, "has_arp", np.int64)
def arp_sender_ip(h: Headers) -> Array:
    """IPv4 address of the sender in ARP, int64."""
    return h.arp["sender_ip"]


@field(NETWORK, "has_arp", np.int64)
def arp_target_mac(h: Headers) -> Array:
    """Ethernet address of the target in ARP, int64."""
    return _mac(h.arp["target_mac"])


@field(NETWORK, "has_arp", np.int64)
def arp_target_ip(h: Headers) -> Array:
    """IPv4 address of the target in ARP, int64."""
    return h.arp["target_ip"]


@field(NETWORK, "is_ip", np.int8)
def ip_version(h: Headers) -> Array:
    """Version of the IP header, 4 or 6, int8."""
    version: Array = h.is4.view(np.int8) << 2
    if h.is6 is not None:
        version[h.is6] = 6
    return version


@field(NETWORK, "is4", np.int64)
def ip_src(h: Headers) -> Array:
    """IPv4 source as a number of 32 bits in host order, int64."""
    return h.ip4["src"]


@field(NETWORK, "is4", np.int64)
def ip_dst(h: Headers) -> Array:
    """IPv4 destination as a number of 32 bits in host order, int64."""
    return h.ip4["dst"]


@field(NETWORK, "", np.uint8)
def ip6_src(h: Headers) -> Array:
    """IPv6 source, (n, 16) uint8; zeros where ip_version is not 6."""
    return _address6(h, "src")


@field(NETWORK, "", np.uint8)
def ip6_dst(h: Headers) -> Array:
    """IPv6 destination, (n, 16) uint8; zeros where ip_version is not 6."""
    return _address6(h, "dst")


def _address6(h: Headers, name: str) -> Array:
    if h.is6 is None:
        return np.zeros((len(h.length), 16), dtype=np.uint8)
    address: Array = h.ip6[name].copy()
    address.view(np.int64)[...] &= h.present6[:, None]
    return address


@field(NETWORK, "is_ip", np.int16)
def ip_proto(h: Headers) -> Array:
    """Protocol behind IP and its extension headers (IPPROTO_*), int16; the last one found if those are broken."""
    return h.protocol


@field(NETWORK, "is_ip", np.int16)
def ip_ttl(h: Headers) -> Array:
    """Time to live, or hop limit, int16."""
    if h.is6 is None:
        return h.ip4["ttl"]
    return np.where(h.is6, h.ip6["hop_limit"], h.ip4["ttl"])


@field(NETWORK, "is_ip", np.int32)
def ip_len(h: Headers) -> Array:
    """Bytes of the whole IP packet by its header, int32: IPv4's total length, IPv6's payload length plus 40."""
    column = h.ip4["length"].astype(np.int32)
    if h.is6 is not None:
        np.add(h.ip6["payload_length"], 40, out=column, where=h.is6, dtype=np.int32)
    return column


@field(NETWORK, "has_id", np.int64)
def ip_id(h: Headers) -> Array:
    """Identification: IPv4's 16 bits, or the 32 bits of an IPv6 fragment header, int64."""
    column: Array = h.ip4["id"].astype(np.int64)
    for rows, identification in h.fragments6:
        column[rows] = identification
    return column


@field(NETWORK, "is_ip", np.int8)
def ip_dscp(h: Headers) -> Array:
    """Differentiated services code point, int8."""
    return (h.traffic_class >> 2).view(np.int8)


@field(NETWORK, "is_ip", np.int8)
def ip_ecn(h: Headers) -> Array:
    """Explicit congestion notification, int8: 0 to 3."""
    return (h.traffic_class & 3).view(np.int8)


@field(NETWORK, "is_ip", np.int8)
def ip_flags(h: Headers) -> Array:
    """Fragmentation flags, int8: 1 more fragments, 2 do not fragment, 4 reserved. IPv6 has only the first."""
    return (h.fragment >> 13).astype(np.int8)


@field(NETWORK, "is_ip", np.int32)
def ip_fragment_offset(h: Headers) -> Array:
    """Offset of this fragment in its packet, bytes, int32. Where it is not 0 there are no ports."""
    return h.fragment << 3  # shifts the flags out of the 16 bits


@field(NETWORK, "has_ip6", np.int32)
def ip6_flow_label(h: Headers) -> Array:
    """IPv6 flow label, int32."""
    return (h.ip6["flow"] & 0xFFFFF).astype(np.int32)


@field(TRANSPORT, "has_ports", np.int32)
def src_port(h: Headers) -> Array:
    """Source port of TCP, UDP, UDP-Lite or SCTP, int32."""
    return h.udp["src"]


@field(TRANSPORT, "has_ports", np.int32)
def dst_port(h: Headers) -> Array:
    """Destination port of TCP, UDP, UDP-Lite or SCTP, int32."""
    return h.udp["dst"]


@field(TRANSPORT, "has_tcp", np.int16)
def tcp_flags(h: Headers) -> Array:
    """TCP flags, int16: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128, AE 256."""
    return (h.tcp["flags"] & 0x1FF).view(np.int16)


@field(TRANSPORT, "has_tcp", np.int64)
def tcp_seq(h: Headers) -> Array:
    """TCP sequence number, int64."""
    return h.tcp["seq"]


@field(TRANSPORT, "has_tcp", np.int64)
def tcp_ack(h: Headers) -> Array:
    """TCP acknowledgment number, int64; meaningless without the ACK flag."""
    return h.tcp["ack"]


@field(TRANSPORT, "has_tcp", np.int32)
def tcp_window(h: Headers) -> Array:
    """TCP window as in the header, unscaled, int32."""
    return h.tcp["window"]


@field(TRANSPORT, "has_udp", np.int32)
def udp_len(h: Headers) -> Array:
    """UDP length field (UDP-Lite: checksum coverage), int32."""
    return h.udp["length"]


@field(TRANSPORT, "has_icmp", np.int16)
def icmp_type(h: Headers) -> Array:
    """Type of ICMP or ICMPv6 (ip_proto 1 or 58), int16."""
    return h.icmp["type"]


@field(TRANSPORT, "has_icmp", np.int16)
def icmp_code(h: Headers) -> Array:
    """Code of ICMP or ICMPv6, int16."""
    return h.icmp["code"]


@field(TRANSPORT, "has_echo", np.int32)
def icmp_id(h: Headers) -> Array:
    """Identifier of an echo or timestamp message, int32."""
    return h.icmp["id"]


@field(TRANSPORT, "has_echo", np.int32)
def icmp_seq(h: Headers) -> Array:
    """Sequence number of an echo or timestamp message, int32."""
    return h.icmp["seq"]


@field(TRANSPORT, "has_sctp", np.int64)
def sctp_vtag(h: Headers) -> Array:
    """SCTP verification tag, int64."""
    return h.sctp["vtag"]


@field(TRANSPORT, "has_chunk", np.int16)
def sctp_chunk(h: Headers) -> Array:
    """Type of the first SCTP chunk, int16: 0 DATA, 1 INIT, 3 SACK, 4 HEARTBEAT, ..."""
    return h.sctp["chunk"]


@field(TRANSPORT, "has_vxlan", np.int32)
def vxlan_vni(h: Headers) -> Array:
    """VXLAN network identifier, int32: of UDP to port 4789 or 8472 with the flag that there is one.

    The payload is the inner Ethernet frame, which decode() can decode as well.
    """
    return (h.vxlan["vni"] >> 8).astype(np.int32)


@field(TRANSPORT, "has_gre", np.int32)
def gre_proto(h: Headers) -> Array:
    """Ethertype of GRE's payload, int32; 0x6558 is an Ethernet frame. The payload begins behind GRE's options."""
    return h.gre["type"]


@field(TRANSPORT, "has_gre_key", np.int64)
def gre_key(h: Headers) -> Array:
    """Key field of GRE, int64; in version 1 (PPTP) payload length and call number."""
    return np.where(h.gre["flags"] & 0x8000, h.gre["key2"], h.gre["key1"])


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
