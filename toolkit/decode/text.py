# SPDX-License-Identifier: Apache-2.0
"""Decoded packets as text: addresses, and one line for a packet or a flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from toolkit.tables.address_text import ip6_text

__all__ = ["cell", "ethertype_name", "format_ip", "format_mac", "protocol_name", "summaries", "summary"]


class Table(Protocol):
    """Columns by name, as toolkit.decode.decode() makes them."""

    def __getitem__(self, name: str, /) -> npt.NDArray[Any]:
        """One column."""

    def __contains__(self, name: object, /) -> bool:
        """Whether there is such a column."""

    def __len__(self) -> int:
        """Packets."""


_PROTOCOLS = {
    0: "hop-by-hop options",
    1: "ICMP",
    2: "IGMP",
    4: "IP-in-IP",
    6: "TCP",
    17: "UDP",
    41: "IPv6-in-IP",
    43: "routing header",
    44: "fragment header",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMPv6",
    59: "no next header",
    60: "destination options",
    89: "OSPF",
    103: "PIM",
    112: "VRRP",
    132: "SCTP",
    136: "UDP-Lite",
}
_ETHERTYPES = {
    0x0800: "IPv4",
    0x0806: "ARP",
    0x6558: "Ethernet",
    0x8100: "VLAN",
    0x86DD: "IPv6",
    0x8847: "MPLS",
    0x8863: "PPPoE discovery",
    0x8864: "PPPoE",
    0x888E: "EAPOL",
    0x88A8: "VLAN",
    0x88CC: "LLDP",
    0x88F7: "PTP",
}
_ICMP = {
    0: "echo reply",
    3: "destination unreachable",
    4: "source quench",
    5: "redirect",
    8: "echo request",
    9: "router advertisement",
    10: "router solicitation",
    11: "time exceeded",
    12: "parameter problem",
    13: "timestamp request",
    14: "timestamp reply",
}
_ICMPV6 = {
    1: "destination unreachable",
    2: "packet too big",
    3: "time exceeded",
    4: "parameter problem",
    128: "echo request",
    129: "echo reply",
    130: "listener query",
    131: "listener report",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbor solicitation",
    136: "neighbor advertisement",
    137: "redirect",
    143: "listener report v2",
}
_TCP_FLAGS = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE"]


def format_mac(addresses: npt.ArrayLike) -> list[str]:
    """Write Ethernet addresses: shape (n,), numbers of 48 bits. A missing one (-1) becomes ''."""
    return [_mac(value) for value in np.atleast_1d(np.asarray(addresses)).tolist()]


def format_ip(addresses: npt.ArrayLike) -> list[str]:
    """Write IP addresses: shape (n,), numbers of 32 bits, for IPv4; (n, 16) uint8 for IPv6. Missing (-1) becomes ''."""
    array = np.asarray(addresses)
    if array.ndim == 2:
        return ip6_text(array.astype(np.uint8)).strings()
    return [_ip4(value) for value in np.atleast_1d(array).tolist()]


def _mac(value: int) -> str:
    return value.to_bytes(6, "big").hex(":") if value >= 0 else ""


def _ip4(value: int) -> str:
    return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}" if value >= 0 else ""


def _ip6(raw: bytes) -> str:
    return ip6_text(np.frombuffer(raw, dtype=np.uint8).reshape(1, 16)).strings()[0]


def protocol_name(number: int) -> str:
    """Name of an IP protocol."""
    return _PROTOCOLS.get(number, f"protocol {number}")


def ethertype_name(number: int) -> str:
    """Name of what an ethertype announces; below 1536 it is the length of an IEEE 802.3 frame."""
    return _ETHERTYPES.get(number) or (f"ethertype 0x{number:04x}" if number >= 1536 else "802.3")


def summaries(columns: Table, limit: int | None = None) -> list[str]:
    """Describe the first `limit` packets (all when None), one line each. For display, not for a hot path."""
    return [summary(columns, row) for row in range(len(columns) if limit is None else min(limit, len(columns)))]


def summary(columns: Table, row: int) -> str:
    """Describe one packet in a line: who, to whom, what, how long. Needs all columns."""

    def get(name: str) -> int:
        return int(columns[name][row])

    version = get("ip_version")
    if version >= 0:
        text = _ip(columns, row, get)
    elif get("arp_op") >= 0:
        text = _arp(get)
    else:
        text = _ethernet(get)
    if get("vlan") >= 0:
        inner = get("vlan_inner")
        text = f"VLAN {get('vlan')}{f'.{inner}' if inner >= 0 else ''} {text}"
    note = " [cut short]" if get("truncated") else "" if get("valid") else " [malformed]"
    return f"{text} {get('length')} B{note}"


def _ethernet(get: Callable[[str], int]) -> str:
    kind = get("ethertype")
    if kind < 0:
        return "no Ethernet header,"
    return f"{_mac(get('eth_src'))} → {_mac(get('eth_dst'))} {ethertype_name(kind)}"


def _arp(get: Callable[[str], int]) -> str:
    operation = get("arp_op")
    sender, target = _ip4(get("arp_sender_ip")), _ip4(get("arp_target_ip"))
    if operation == 1:
        return f"ARP who-has {target} tell {sender}"
    if operation == 2:
        return f"ARP {sender} is-at {_mac(get('arp_sender_mac'))}"
    return f"ARP operation {operation} {sender} → {target}"


def _ip(columns: Table, row: int, get: Callable[[str], int]) -> str:
    if get("ip_version") == 4:
        source, target = _ip4(get("ip_src")), _ip4(get("ip_dst"))
    else:
        source, target = (_ip6(columns[name][row].tobytes()) for name in ("ip6_src", "ip6_dst"))
    ends = _ends(source, get("src_port"), target, get("dst_port"))
    protocol = get("ip_proto")
    if get("icmp_type") >= 0:
        return _icmp(ends, get)
    text = f"{ends} {protocol_name(protocol)}"
    if get("tcp_flags") >= 0:
        text += f" {_tcp_flags(get('tcp_flags'))}"
    if get("vxlan_vni") >= 0:
        text += f" VXLAN {get('vxlan_vni')}"
    if get("gre_proto") >= 0:
        text += f" of {ethertype_name(get('gre_proto'))}"
    if get("ip_fragment_offset") > 0:
        text += f" fragment at {get('ip_fragment_offset')}"
    return text


def _icmp(ends: str, get: Callable[[str], int]) -> str:
    kind, code = get("icmp_type"), get("icmp_code")
    family, names = ("ICMPv6", _ICMPV6) if get("ip_proto") == 58 else ("ICMP", _ICMP)
    text = f"{family} {names.get(kind, f'type {kind}')}"
    if code > 0:
        text += f" code {code}"
    text += f" {ends}"
    return f"{text} seq {get('icmp_seq')}" if get("icmp_seq") >= 0 else text


def _tcp_flags(value: int) -> str:
    return "[" + " ".join(name for bit, name in enumerate(_TCP_FLAGS) if value >> bit & 1) + "]"


def _ends(source: str, source_port: int, target: str, target_port: int) -> str:
    """`a:1 → b:2`; without ports `a → b`; IPv6 in brackets where a port follows."""
    if source_port < 0:
        return f"{source} → {target}"
    if ":" in source:
        source, target = f"[{source}]", f"[{target}]"
    return f"{source}:{source_port} → {target}:{target_port}"


def cell(columns: Table, name: str, row: int) -> str:
    """Write one value of one column as people write it; '' when it is missing."""
    value = columns[name][row]
    if name in ("ip6_src", "ip6_dst"):
        raw = value.tobytes()
        return _ip6(raw) if any(raw) or ("ip_version" in columns and columns["ip_version"][row] == 6) else ""
    if value.dtype == np.bool_:
        return "yes" if value else ""
    number = int(value)
    if number < 0:
        return ""
    if name in ("eth_src", "eth_dst", "arp_sender_mac", "arp_target_mac"):
        return _mac(number)
    if name in ("ip_src", "ip_dst", "arp_sender_ip", "arp_target_ip"):
        return _ip4(number)
    if name == "ethertype":
        return f"0x{number:04x}"
    if name == "tcp_flags":
        return _tcp_flags(number)[1:-1]
    return str(number)
