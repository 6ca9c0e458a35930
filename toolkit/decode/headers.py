# SPDX-License-Identifier: Apache-2.0
"""Headers: the located headers as records, and masks of the packets that have each.

Each computed once, at first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from toolkit.decode.gather import Bytes, Positions
from toolkit.decode.layers import TRANSPORT, Layers
from toolkit.decode.layouts import (
    ARP,
    GRE,
    ICMP,
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    IPV4,
    IPV6,
    SCTP,
    TCP,
    UDP,
    VXLAN,
    VXLAN_PORTS,
    echo_types,
    gre_headers,
    link_payloads,
    ported_protocols,
    transport_headers,
)

__all__ = ["Headers"]

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Record = npt.NDArray[np.void]


_VXLAN_PORTS = np.array(VXLAN_PORTS, dtype=">u2").view(np.uint16)

Value = TypeVar("Value")


class _once(Generic[Value]):  # noqa: N801 (used as a decorator)
    """An attribute that is computed at first use. functools.cached_property takes a lock before Python 3.12."""

    def __init__(self, work: Callable[[Any], Value]) -> None:
        self.work = work
        self.__doc__ = work.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        """Record the attribute's name."""
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Value:
        """Compute the value, and keep it in the instance's dictionary, which is searched before this descriptor."""
        value = instance.__dict__[self.name] = self.work(instance)
        return value


class Headers(Layers):
    """The located headers as records, and masks of the packets that have them; all of shape (n,). Not thread-safe."""

    def __init__(self, memory: Bytes, offsets: Positions, lengths: Positions, depth: int = TRANSPORT) -> None:
        """Locate the headers; see Layers."""
        super().__init__(memory, offsets, lengths, depth)
        self._having: dict[str, int] = {}
        self._absent: dict[tuple[str, Any], Array] = {}

    def having(self, what: str) -> int:
        """Return for how many packets the mask named `what` is true."""
        count = self._having.get(what)
        if count is None:
            mask = getattr(self, what)
            count = self._having[what] = 0 if mask is None else int(np.count_nonzero(mask))
        return count

    def absent(self, what: str, dtype: Any) -> Array:
        """Return -1 where the mask named `what` is false, else 0: ORed to a field, it sets missing values to -1."""
        absent = self._absent.get((what, dtype))
        if absent is None:
            absent = self._absent[what, dtype] = np.subtract(getattr(self, what), True, dtype=dtype)
        return absent

    def none(self) -> Flags:
        """Return a mask that is false for all packets."""
        return np.zeros(len(self.length), dtype=np.bool_)

    @_once
    def ip4(self) -> Record:
        """Network headers as IPv4."""
        return self.network(IPV4)

    @_once
    def ip6(self) -> Record:
        """Network headers as IPv6."""
        return self.network(IPV6)

    @_once
    def arp(self) -> Record:
        """Network headers as ARP."""
        return self.network(ARP)

    @_once
    def tcp(self) -> Record:
        """Transport headers as TCP."""
        return self.transport.view(TCP).reshape(-1)

    @_once
    def udp(self) -> Record:
        """Transport headers as UDP. Every protocol with ports has them at the same place."""
        return self.transport.view(UDP).reshape(-1)

    @_once
    def icmp(self) -> Record:
        """Transport headers as ICMP or ICMPv6."""
        return self.transport.view(ICMP).reshape(-1)

    @_once
    def sctp(self) -> Record:
        """Transport headers as SCTP, with the first chunk."""
        return self.transport.view(SCTP).reshape(-1)

    @_once
    def vxlan(self) -> Record:
        """Transport headers as UDP and VXLAN."""
        return self.transport.view(VXLAN).reshape(-1)

    @_once
    def gre(self) -> Record:
        """Transport headers as GRE."""
        return self.transport.view(GRE).reshape(-1)

    @_once
    def has_ip6(self) -> Flags:
        """An IPv6 header."""
        return self.none() if self.is6 is None else self.is6

    @_once
    def has_arp(self) -> Flags:
        """ARP for IPv4 over Ethernet."""
        return self.none() if self.is_arp is None else self.is_arp

    @_once
    def present6(self) -> Array:
        """All ones where there is an IPv6 header, else 0; int64."""
        return np.negative(self.has_ip6, dtype=np.int64, casting="unsafe")

    @_once
    def has_id(self) -> Flags:
        """An identification: IPv4, or IPv6 with a fragment header."""
        if not self.fragments6:
            return self.is4
        mask = self.is4.copy()
        for rows, _ in self.fragments6:
            mask[rows] = True
        return mask

    @_once
    def traffic_class(self) -> npt.NDArray[np.uint8]:
        """Type of service, or traffic class."""
        field: npt.NDArray[np.uint8] = self.ip4["tos"]
        return field if self.is6 is None else np.where(self.is6, (self.ip6["flow"] >> 20).astype(np.uint8), field)

    @_once
    def has_ports(self) -> Flags:
        """A protocol with ports, with both inside the packet."""
        mask: Flags = ported_protocols().take(self.protocol) & (self.room >= 4)
        return mask

    @_once
    def has_tcp(self) -> Flags:
        """The 20 bytes that every TCP header has."""
        found: Flags = (self.protocol == IPPROTO_TCP) & (self.room >= 20)
        return found

    @_once
    def has_udp(self) -> Flags:
        """A UDP or UDP-Lite header."""
        found: Flags = ((self.protocol == IPPROTO_UDP) | (self.protocol == IPPROTO_UDPLITE)) & (self.room >= 8)
        return found

    @_once
    def has_icmp(self) -> Flags:
        """Type, code and checksum of ICMP or ICMPv6."""
        found: Flags = ((self.protocol == IPPROTO_ICMP) | (self.protocol == IPPROTO_ICMPV6)) & (self.room >= 4)
        return found

    @_once
    def has_echo(self) -> Flags:
        """An ICMP or ICMPv6 message with identifier and sequence number."""
        found: Flags = self.has_icmp & (self.room >= 8) & echo_types().take(self.icmp["type"])
        return found

    @_once
    def has_sctp(self) -> Flags:
        """An SCTP common header."""
        found: Flags = (self.protocol == IPPROTO_SCTP) & (self.room >= 12)
        return found

    @_once
    def has_chunk(self) -> Flags:
        """SCTP with the header of a first chunk."""
        found: Flags = self.has_sctp & (self.room >= 16)
        return found

    @_once
    def has_vxlan(self) -> Flags:
        """VXLAN in UDP, by its port and the flag that there is a network identifier."""
        if not self.having("has_udp"):
            return self.none()
        port = self.udp["dst"].view(np.uint16)  # compared in network order: swapping every port costs three times more
        found: Flags = (port == _VXLAN_PORTS[0]) | (port == _VXLAN_PORTS[1])
        if np.count_nonzero(found):
            found &= (self.protocol == IPPROTO_UDP) & (self.room >= 16) & (self.vxlan["flags"] & 8 != 0)
        return found

    @_once
    def has_gre(self) -> Flags:
        """Flags and protocol of GRE."""
        found: Flags = (self.protocol == IPPROTO_GRE) & (self.room >= 4)
        return found

    @_once
    def has_gre_key(self) -> Flags:
        """GRE with a key, in a complete header."""
        if not self.having("has_gre"):
            return self.none()
        found: Flags = self.has_gre & (self.gre["flags"] & 0x2000 != 0) & ~self.incomplete
        return found

    @_once
    def short(self) -> Flags:
        """The packet ends inside the Ethernet header, the VLAN tags, or the fixed part of the header behind them."""
        found: Flags = link_payloads().take(self.kind) > self.length - self.network_at
        return found

    @_once
    def transport_size(self) -> Positions:
        """Bytes of the transport header with its options, 0 for a protocol without columns."""
        size = transport_headers().take(self.protocol)
        if self.having("has_tcp"):
            np.copyto(size, (self.tcp["offset"] >> 4) * np.uint8(4), where=self.has_tcp)
        if self.having("has_vxlan"):
            size[self.has_vxlan] += 8
        if self.having("has_gre"):
            np.copyto(size, gre_headers().take(self.gre["flags"]), where=self.has_gre)
        found: Positions = size * self.readable
        return found

    @_once
    def incomplete(self) -> Flags:
        """Whether the transport header does not fit into the packet, or its length cannot be right."""
        size = self.transport_size
        found: Flags = size > self.room
        if self.having("has_tcp"):
            found |= self.has_tcp & (size < 20)
        if self.having("has_gre"):
            found |= self.has_gre & (size < 4)
        return found

    @_once
    def payload_at(self) -> Positions:
        """Where the payload begins: behind the last header that is known and complete."""
        found: Positions = np.minimum(self.transport_at + self.transport_size * ~self.incomplete, self.end)
        return found

    @_once
    def wrong_udp(self) -> Flags:
        """Whether the UDP length is larger than the IP packet allows, or smaller than the header."""
        if not self.having("has_udp"):
            return self.none()
        length = self.udp["length"]
        space = self.declared - self.transport_at
        wrong: Flags = (length > space) | ((length < 8) & (length != 0))  # 0: too long for 16 bits (RFC 2675)
        wrong &= self.has_udp & (self.protocol == IPPROTO_UDP)
        if np.count_nonzero(wrong):
            wrong &= (self.fragment & 0x2000) == 0  # of a fragment, it is the length of all fragments together
        return wrong
