# SPDX-License-Identifier: Apache-2.0
"""Packets to send and to change: templates, single frames, checksums of many packets at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily

if TYPE_CHECKING:
    from toolkit.packets.checksum import fill_checksums, internet_checksum
    from toolkit.packets.checksum_offload import finish_checksums
    from toolkit.packets.frames import (
        arp,
        echo_frame,
        ethernet,
        icmp,
        icmpv6,
        ipv4,
        ipv6,
        tcp,
        tcp_frame,
        udp,
        udp_frame,
    )
    from toolkit.packets.template import Template

__all__ = [
    "Template",
    "arp",
    "echo_frame",
    "ethernet",
    "fill_checksums",
    "finish_checksums",
    "icmp",
    "icmpv6",
    "internet_checksum",
    "ipv4",
    "ipv6",
    "tcp",
    "tcp_frame",
    "udp",
    "udp_frame",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "template": "Template",
        "frames": "arp echo_frame ethernet icmp icmpv6 ipv4 ipv6 tcp tcp_frame udp udp_frame",
        "checksum": "fill_checksums internet_checksum",
        "checksum_offload": "finish_checksums",
    },
)
