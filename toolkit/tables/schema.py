# SPDX-License-Identifier: Apache-2.0
"""Schema.

The columns of a table and their types, which every engine has, and in which sums and differences are right.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

__all__ = ["IP", "MACS", "NUMBERS", "PACKET", "WHOLE", "Addresses", "names"]

# "text": addresses as text, IPv4 and IPv6 in the same column. "dictionary": the same, each distinct one kept once.
# "binary": IPv4 (host order) and Ethernet as int64, IPv6 as 16 bytes in columns of its own.
Addresses = Literal["text", "dictionary", "binary"]

# All numbers are signed, so that their differences are right: ports, lengths, sequence numbers. Numbers that are summed
# have 64 bits: Polars sums 32 bits in 32 bits, which overflow at 4 GB of packets. Names (a port, a type) have only the
# bits that their differences need: more would cost memory, and a third of the speed of writing a file.
_BYTES = _WORD = np.int64  # a number of bytes; 32 bits of a header
_HALF = np.int32  # 16 bits of a header
_OCTET = np.int16  # 8 bits

PACKET: dict[str, Any] = {  # of the packet, in front of the columns of its headers
    "time": np.datetime64,
    "length": _BYTES,
    "wire_length": _BYTES,
    "queue": _HALF,
    "rule": _WORD,
}
NUMBERS: dict[str, Any] = {  # columns of toolkit.decode that are numbers
    "ethertype": _HALF,
    "vlan": _HALF,
    "vlan_inner": _HALF,
    "arp_op": _HALF,
    "ip_version": _OCTET,
    "ip_proto": _OCTET,
    "ip_ttl": _OCTET,
    "ip_len": _BYTES,
    "ip_id": _WORD,  # 16 in IPv4, 32 in a fragment of IPv6
    "ip_dscp": _OCTET,
    "ip_ecn": _OCTET,
    "ip_flags": _OCTET,
    "ip_fragment_offset": _BYTES,
    "ip6_flow_label": _WORD,
    "src_port": _HALF,
    "dst_port": _HALF,
    "tcp_flags": _HALF,
    "tcp_seq": _WORD,
    "tcp_ack": _WORD,
    "tcp_window": _BYTES,
    "udp_len": _BYTES,
    "icmp_type": _OCTET,
    "icmp_code": _OCTET,
    "icmp_id": _HALF,
    "icmp_seq": _HALF,
    "sctp_vtag": _WORD,
    "sctp_chunk": _OCTET,
    "vxlan_vni": _WORD,
    "gre_proto": _HALF,
    "gre_key": _WORD,
    "payload_offset": _BYTES,
    "payload_len": _BYTES,
}
WHOLE = ("length", "wire_length", "queue", "truncated", "valid")  # never missing
MACS = ("eth_dst", "eth_src", "arp_sender_mac", "arp_target_mac")
IP = {  # columns of IPv4 addresses, and the column that has the same address of an IPv6 packet
    "arp_sender_ip": None,
    "arp_target_ip": None,
    "ip_src": "ip6_src",
    "ip_dst": "ip6_dst",
}


def names(decoded: list[str], addresses: Addresses) -> list[str]:
    """Return the names that these columns of toolkit.decode have in a table, in order."""
    inside = [IP[name] for name in decoded if IP.get(name)] if addresses != "binary" else []
    return [name for name in decoded if name not in inside and name != "length"]
