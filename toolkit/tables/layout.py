# SPDX-License-Identifier: Apache-2.0
"""What the columns are in a table: the types that every engine knows, without the sign that -1 needs in NumPy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

__all__ = ["IP", "MACS", "NUMBERS", "PACKET", "WHOLE", "Addresses", "names"]

# "text": addresses as people write them, IPv4 and IPv6 in the same column. "binary": numbers for IPv4 (uint32, host
# order) and Ethernet (uint64), 16 bytes for IPv6, in columns of their own.
Addresses = Literal["text", "binary"]

PACKET: dict[str, Any] = {  # of the packet, in front of what its headers say
    "time": np.datetime64,
    "length": np.uint32,
    "wire_length": np.uint32,
    "queue": np.uint32,
    "rule": np.uint32,
}
NUMBERS: dict[str, Any] = {  # columns of toolkit.decode that are numbers; the values that there are fit the type
    "ethertype": np.uint16,
    "vlan": np.uint16,
    "vlan_inner": np.uint16,
    "arp_op": np.uint16,
    "ip_version": np.uint8,
    "ip_proto": np.uint8,
    "ip_ttl": np.uint8,
    "ip_len": np.uint32,
    "ip_id": np.uint32,
    "ip_dscp": np.uint8,
    "ip_ecn": np.uint8,
    "ip_flags": np.uint8,
    "ip_fragment_offset": np.uint16,
    "ip6_flow_label": np.uint32,
    "src_port": np.uint16,
    "dst_port": np.uint16,
    "tcp_flags": np.uint16,
    "tcp_seq": np.uint32,
    "tcp_ack": np.uint32,
    "tcp_window": np.uint16,
    "udp_len": np.uint16,
    "icmp_type": np.uint8,
    "icmp_code": np.uint8,
    "icmp_id": np.uint16,
    "icmp_seq": np.uint16,
    "sctp_vtag": np.uint32,
    "sctp_chunk": np.uint8,
    "vxlan_vni": np.uint32,
    "gre_proto": np.uint16,
    "gre_key": np.uint32,
    "payload_offset": np.uint32,
    "payload_len": np.uint32,
}
WHOLE = ("length", "wire_length", "queue", "truncated", "valid")  # never missing
MACS = ("eth_dst", "eth_src", "arp_sender_mac", "arp_target_mac")
IP = {  # columns of IPv4 addresses, and the one where an IPv6 packet has the same thing
    "arp_sender_ip": None,
    "arp_target_ip": None,
    "ip_src": "ip6_src",
    "ip_dst": "ip6_dst",
}


def names(decoded: list[str], addresses: Addresses) -> list[str]:
    """Return the names that these columns of toolkit.decode have in a table, in order."""
    inside = [IP[name] for name in decoded if IP.get(name)] if addresses == "text" else []
    return [name for name in decoded if name not in inside and name != "length"]
