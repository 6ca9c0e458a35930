# SPDX-License-Identifier: Apache-2.0
"""Promiscuous mode for as long as a process wants it: a NIC then passes on packets that are addressed to others.

By a membership of a packet socket, which the kernel counts, and which ends with its descriptor, however the process
ends. IFF_PROMISC (`ip link set NAME promisc on`) would stay set. tcpdump does the same.
"""

from __future__ import annotations

import errno
import socket
import struct

from toolkit._base.descriptor import Descriptor
from toolkit.errors import kernel_error

__all__ = ["promiscuous"]

# linux/if_packet.h
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_PROMISC = 1
_MEMBERSHIP = struct.Struct("=iHH8s")  # struct packet_mreq: ifindex, type, length of the address, address


def promiscuous(interface: str, ifindex: int) -> Descriptor:
    """Make the interface promiscuous until the result is closed; in the calling thread's network namespace.

    SystemCallError: no such interface (ENODEV), no privilege (EPERM).
    """
    try:
        # Protocol 0: the socket itself receives nothing.
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as member:
            member.setsockopt(
                _SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _MEMBERSHIP.pack(ifindex, _PACKET_MR_PROMISC, 0, b"")
            )
            return Descriptor(member.detach(), f"the promiscuous mode of {interface}")
    except OSError as refused:
        raise kernel_error(
            "promisc", refused.errno or errno.EIO, f"cannot have {interface} receive packets to all addresses"
        ) from None
