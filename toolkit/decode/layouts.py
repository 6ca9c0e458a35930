# SPDX-License-Identifier: Apache-2.0
"""Layouts: headers as NumPy record types, in network byte order, and the protocol numbers that follow each other."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ARP",
    "CHUNK",
    "ECHO",
    "ETH_P_8021AD",
    "ETH_P_8021Q",
    "ETH_P_ARP",
    "ETH_P_IP",
    "ETH_P_IPV6",
    "ETH_P_QINQ1",
    "EXTENSION",
    "EXTENSIONS",
    "GRE",
    "GRE_BASE",
    "ICMP",
    "IPPROTO_AH",
    "IPPROTO_DSTOPTS",
    "IPPROTO_FRAGMENT",
    "IPPROTO_GRE",
    "IPPROTO_HOPOPTS",
    "IPPROTO_ICMP",
    "IPPROTO_ICMPV6",
    "IPPROTO_ROUTING",
    "IPPROTO_SCTP",
    "IPPROTO_TCP",
    "IPPROTO_UDP",
    "IPPROTO_UDPLITE",
    "IPV4",
    "IPV6",
    "LINK_WIDTH",
    "NETWORK_WIDTH",
    "PORTS",
    "SCTP",
    "TCP",
    "TRANSPORT_WIDTH",
    "UDP",
    "UDP_BASE",
    "VXLAN_PORTS",
    "constant",
    "echo_types",
    "ethertype_kinds",
    "extension_protocols",
    "gre_headers",
    "ipv4_headers",
    "link_payloads",
    "ported_protocols",
    "transport_headers",
    "transport_masks",
]

# linux/if_ether.h
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_8021Q = 0x8100
ETH_P_IPV6 = 0x86DD
ETH_P_8021AD = 0x88A8
ETH_P_QINQ1 = 0x9100  # stacked tags before 802.1ad was written; libpcap takes it for a VLAN tag too

# linux/in.h, linux/in6.h
IPPROTO_HOPOPTS = 0
IPPROTO_ICMP = 1
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_ROUTING = 43
IPPROTO_FRAGMENT = 44
IPPROTO_GRE = 47
IPPROTO_AH = 51
IPPROTO_ICMPV6 = 58
IPPROTO_DSTOPTS = 60
IPPROTO_SCTP = 132
IPPROTO_UDPLITE = 136

VXLAN_PORTS = (4789, 8472)  # IANA's, and the one that Linux used before


def _record(width: int, **fields: tuple[str, int]) -> np.dtype[np.void]:
    """Return a record of `width` bytes; fields are name=(format, offset), and may overlap."""
    formats = [form for form, _ in fields.values()]
    places = [place for _, place in fields.values()]
    return np.dtype({"names": list(fields), "formats": formats, "offsets": places, "itemsize": width})


def constant(value: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
    """Return a number as an array of shape (), which costs a function of NumPy half as much as a Python int."""
    return np.array(value, dtype=dtype)


LINK_WIDTH = 56  # wide enough for the IP or ARP header as well, when there is no VLAN tag
NETWORK_WIDTH = 40
IPV4 = _record(
    40,
    version_ihl=("u1", 0),
    tos=("u1", 1),
    length=(">u2", 2),
    id=(">u2", 4),
    fragment=(">u2", 6),
    ttl=("u1", 8),
    protocol=("u1", 9),
    src=(">u4", 12),
    dst=(">u4", 16),
)
IPV6 = _record(
    40,
    flow=(">u4", 0),
    payload_length=(">u2", 4),
    next=("u1", 6),
    hop_limit=("u1", 7),
    src=("(16,)u1", 8),
    dst=("(16,)u1", 24),
)
ARP = _record(
    40,
    formats=(">u4", 2),  # ar_pro, ar_hln, ar_pln at once
    op=(">u2", 6),
    sender_mac=(">u8", 8),
    sender_ip=(">u4", 14),
    target_mac=(">u8", 18),
    target_ip=(">u4", 24),
)
EXTENSION = _record(8, next=("u1", 0), size=("u1", 1), fragment=(">u2", 2), id=(">u4", 4))

TRANSPORT_WIDTH = 20
UDP = _record(TRANSPORT_WIDTH, src=(">u2", 0), dst=(">u2", 2), length=(">u2", 4))
GRE = _record(TRANSPORT_WIDTH, flags=(">u2", 0), type=(">u2", 2))

# Extension headers, behind IPv4 (AH alone) or IPv6.
EXTENSIONS = (IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_AH, IPPROTO_DSTOPTS)


@lru_cache(maxsize=1)
def ethertype_kinds() -> npt.NDArray[np.uint8]:
    """Return the kind of each ethertype: 0 unknown, 1 VLAN tag, 2 ARP, 4 IPv4, 6 IPv6. Shape (65536,), uint8."""
    kinds = np.zeros(1 << 16, dtype=np.uint8)
    kinds[[ETH_P_8021Q, ETH_P_8021AD, ETH_P_QINQ1]] = 1
    kinds[ETH_P_ARP] = 2
    kinds[ETH_P_IP] = 4
    kinds[ETH_P_IPV6] = 6
    return kinds


@lru_cache(maxsize=1)
def ipv4_headers() -> npt.NDArray[np.int64]:
    """Return the bytes of the IPv4 header by its first byte, -1 when that is not of version 4. Shape (256,), int64."""
    sizes = np.full(256, -1, dtype=np.int64)
    sizes[0x40:0x50] = np.arange(16) * 4
    return sizes


@lru_cache(maxsize=1)
def extension_protocols() -> npt.NDArray[np.bool_]:
    """Return whether a protocol is an extension header: [0] behind IPv4, [1] behind IPv6. Shape (2, 256), bool."""
    walked = np.zeros((2, 256), dtype=np.bool_)
    walked[:, IPPROTO_AH] = True
    walked[1, EXTENSIONS] = True
    return walked


@lru_cache(maxsize=1)
def transport_headers() -> npt.NDArray[Any]:
    """Return the bytes of the fixed header of each protocol with columns, 0 for the others. Shape (256,), int64."""
    sizes = np.zeros(256, dtype=np.int64)
    sizes[[IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP, IPPROTO_UDPLITE]] = 8
    sizes[IPPROTO_GRE] = 4
    sizes[IPPROTO_SCTP] = 12
    sizes[IPPROTO_TCP] = 20
    return sizes


@lru_cache(maxsize=1)
def gre_headers() -> npt.NDArray[Any]:
    """Return the bytes of the GRE header by its first 16 bits (RFC 2784, 2890, 2637). Shape (65536,), int8.

    0 where they are unknown: later versions, and RFC 1701's source routes, which RFC 2784 has receivers discard.
    """
    flags = np.arange(1 << 16)
    options = sum((flags & bit != 0).astype(np.int8) for bit in (0x8000, 0x2000, 0x1000))  # checksum, key, sequence
    version = flags & 7
    acknowledged = (version == 1) & (flags & 0x0080 != 0)
    sizes = 4 * (1 + options + acknowledged)
    sizes[(version > 1) | (flags & 0x4000 != 0)] = 0
    table: npt.NDArray[np.int8] = sizes.astype(np.int8)
    return table


@lru_cache(maxsize=1)
def link_payloads() -> npt.NDArray[np.int64]:
    """Return the least bytes of a header by the kind of its ethertype (ethertype_kinds). Shape (7,), int64."""
    return np.array([0, 4, 28, 0, 20, 0, 40], dtype=np.int64)


# What a transport header may have: bits of transport_masks().
PORTS, TCP, UDP_BASE, ICMP, ECHO, SCTP, CHUNK, GRE_BASE = (1 << bit for bit in range(8))


@lru_cache(maxsize=1)
def transport_masks() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return what headers of each protocol have, shape (256,), and what this many bytes have room for, shape (21,)."""
    protocols, room = np.zeros(256, dtype=np.uint8), np.zeros(21, dtype=np.uint8)
    for numbers, least, bit in (
        ([IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_UDPLITE], 4, PORTS),
        ([IPPROTO_TCP], 20, TCP),
        ([IPPROTO_UDP, IPPROTO_UDPLITE], 8, UDP_BASE),
        ([IPPROTO_ICMP, IPPROTO_ICMPV6], 4, ICMP),
        ([IPPROTO_ICMP, IPPROTO_ICMPV6], 8, ECHO),  # if its type has an identifier
        ([IPPROTO_SCTP], 12, SCTP),
        ([IPPROTO_SCTP], 16, CHUNK),
        ([IPPROTO_GRE], 4, GRE_BASE),
    ):
        protocols[numbers] |= bit
        room[least:] |= bit
    return protocols, room


@lru_cache(maxsize=1)
def ported_protocols() -> npt.NDArray[np.bool_]:
    """Return whether each protocol begins with two ports. Shape (256,), bool."""
    ported = np.zeros(256, dtype=np.bool_)
    ported[[IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_UDPLITE]] = True
    return ported


@lru_cache(maxsize=1)
def echo_types() -> npt.NDArray[np.bool_]:
    """Return whether a type of ICMP (echo, timestamp) or ICMPv6 (echo) has identifier and sequence.

    Shape (256,), bool.
    """
    echo = np.zeros(256, dtype=np.bool_)
    echo[[0, 8, 13, 14, 128, 129]] = True
    return echo
