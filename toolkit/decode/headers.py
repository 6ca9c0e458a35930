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
    CHUNK,
    ECHO,
    GRE,
    GRE_BASE,
    ICMP,
    IPPROTO_UDP,
    IPV4,
    IPV6,
    LINK_WIDTH,
    PORTS,
    SCTP,
    TCP,
    TRANSPORT_WIDTH,
    UDP,
    UDP_BASE,
    VXLAN_PORTS,
    constant,
    echo_types,
    gre_headers,
    link_payloads,
    transport_headers,
    transport_masks,
)

__all__ = ["Having", "Headers"]

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Record = npt.NDArray[np.void]

Value = TypeVar("Value")

_ADDRESS6 = np.dtype((np.void, 16))

_2, _16, _24, _28 = (constant(shift) for shift in (2, 16, 24, 28))
_INT8 = np.dtype(np.int8)
_1 = constant(1, np.int8)
_MAC = constant(16, np.uint64)
_LONGEST, _SHORTEST_TCP, _VXLAN = (constant(size, np.int64) for size in (TRANSPORT_WIDTH, 20, 16))
_TCLASS_4, _TCLASS_6 = constant(16), constant(20)
_PORTS_OF_VXLAN = [constant(port, np.uint16) for port in VXLAN_PORTS]
_VXLAN_FLAG = constant(0x08000000)
_PROTOCOL_UDP = constant(IPPROTO_UDP, np.uint8)
_BITS = {bit: constant(bit, np.uint8) for bit in (PORTS, TCP, UDP_BASE, ICMP, ECHO, SCTP, CHUNK, GRE_BASE)}


class _once(Generic[Value]):  # noqa: N801 - used as a decorator, as cached_property is
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


class Having:
    """Which of the packets have something. mask: shape (n,), bool; None: none of them. count: how many."""

    __slots__ = ("_absent", "count", "every", "mask")

    def __init__(self, mask: Flags | None) -> None:
        """Count them."""
        self.mask = mask
        self.count = 0 if mask is None else int(np.count_nonzero(mask))
        self.every = mask is not None and self.count == len(mask)
        self._absent: dict[Any, Array] = {}

    def absent(self, dtype: np.dtype[Any]) -> Array:
        """Return -1 where the mask is false, else 0: ORed to a field, it sets missing values to -1."""
        absent = self._absent.get(dtype)
        if absent is None:
            assert self.mask is not None
            absent = self._absent.get(_INT8)
            if absent is None:
                absent = self._absent[_INT8] = self.mask.view(_INT8) - _1
            absent = self._absent[dtype] = absent.astype(dtype, copy=False)
        return absent


class Headers(Layers):
    """The located headers as numbers, and masks of the packets that have them. Not thread-safe.

    Masks have shape (n,), and are not to be changed: several names may stand for one array.
    """

    def __init__(self, memory: Bytes, offsets: Positions, lengths: Positions, depth: int = TRANSPORT) -> None:
        """Locate the headers; see Layers."""
        super().__init__(memory, offsets, lengths, depth)
        self._having: dict[str, Having] = {}

    def share(self, what: str) -> Having:
        """Return which packets have what the mask named `what` stands for."""
        having = self._having.get(what)
        if having is None:
            having = self._having[what] = Having(getattr(self, what))
        return having

    def having(self, what: str) -> int:
        """Return for how many packets the mask named `what` is true."""
        return self.share(what).count

    def none(self) -> Flags:
        """Return a mask that is false for all packets."""
        return np.zeros(len(self.length), dtype=np.bool_)

    @_once
    def nobody(self) -> Flags:
        """The mask that is false for all packets."""
        return self.none()

    @_once
    def macs(self) -> npt.NDArray[np.int64]:
        """The Ethernet addresses, destinations and sources: shape (2, n)."""
        # Read as 8 bytes that begin with the address; shifted right by 16 they are its number.
        shape, strides = (len(self.length), 2), (LINK_WIDTH, 6)
        pairs = np.ndarray(shape, ">u8", buffer=self._raw_link, strides=strides).T.astype(np.uint64, order="C")
        pairs >>= _MAC
        return pairs.view(np.int64)

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
    def udp(self) -> Record:
        """Transport headers as UDP. Every protocol with ports has them at the same place."""
        return self.transport.view(UDP).reshape(-1)

    @_once
    def gre(self) -> Record:
        """Transport headers as GRE."""
        return self.transport.view(GRE).reshape(-1)

    @_once
    def has_ip6(self) -> Flags:
        """An IPv6 header."""
        return self.nobody if self.is6 is None else self.is6

    @_once
    def has_arp(self) -> Flags:
        """ARP for IPv4 over Ethernet."""
        return self.nobody if self.is_arp is None else self.is_arp

    @_once
    def rows6(self) -> npt.NDArray[np.intp]:
        """Which rows have an IPv6 header."""
        return self.has_ip6.nonzero()[0]

    def addresses6(self, at: int) -> npt.NDArray[np.void]:
        """Return the 16 bytes from byte `at` of each network header on, one item each: a view."""
        rows, skip = self._raw_network
        return rows[:, skip + at : skip + at + 16].view(_ADDRESS6)[:, 0]

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
        behind = _TCLASS_4 if self.is6 is None else np.where(self.is6, _TCLASS_6, _TCLASS_4)
        found: npt.NDArray[np.uint8] = (self.net[0] >> behind).astype(np.uint8)
        return found

    @_once
    def _spoken(self) -> tuple[npt.NDArray[np.uint8], int]:
        """What the transport header of each packet has, as bits, and all of these bits."""
        protocols, room = transport_masks()
        spoken = protocols.take(self.protocol)
        spoken &= room.take(np.minimum(self.room, _LONGEST))
        return spoken, int(np.bitwise_or.reduce(spoken))

    def _speaking(self, bit: int) -> Flags:
        """Return which packets have what the bit says."""
        spoken, all_of_them = self._spoken
        if not all_of_them & bit:
            return self.nobody
        found: Flags = (spoken & _BITS[bit]).astype(np.bool_)
        return found

    @_once
    def has_ports(self) -> Flags:
        """A protocol with ports, with both inside the packet."""
        return self._speaking(PORTS)

    @_once
    def has_tcp(self) -> Flags:
        """The 20 bytes that every TCP header has."""
        return self._speaking(TCP)

    @_once
    def has_udp(self) -> Flags:
        """A UDP or UDP-Lite header."""
        return self._speaking(UDP_BASE)

    @_once
    def has_icmp(self) -> Flags:
        """Type, code and checksum of ICMP or ICMPv6."""
        return self._speaking(ICMP)

    @_once
    def has_echo(self) -> Flags:
        """An ICMP or ICMPv6 message with identifier and sequence number."""
        found = self._speaking(ECHO)
        if found is not self.nobody:
            found &= echo_types().take(self.words[0] >> _24)
        return found

    @_once
    def has_sctp(self) -> Flags:
        """An SCTP common header."""
        return self._speaking(SCTP)

    @_once
    def has_chunk(self) -> Flags:
        """SCTP with the header of a first chunk."""
        return self._speaking(CHUNK)

    @_once
    def has_vxlan(self) -> Flags:
        """VXLAN in UDP, by its port and the flag that there is a network identifier."""
        if not self.having("has_udp"):
            return self.nobody
        port = self.words[0].astype(np.uint16)  # the destination's
        found: Flags = port == _PORTS_OF_VXLAN[0]
        found |= port == _PORTS_OF_VXLAN[1]
        if not np.count_nonzero(found):
            return self.nobody
        found &= self.protocol == _PROTOCOL_UDP
        found &= self.room >= _VXLAN
        found &= (self.words[2] & _VXLAN_FLAG).astype(np.bool_)
        return found

    @_once
    def has_gre(self) -> Flags:
        """Flags and protocol of GRE."""
        return self._speaking(GRE_BASE)

    @_once
    def has_gre_key(self) -> Flags:
        """GRE with a key, in a complete header."""
        if not self.having("has_gre"):
            return self.nobody
        found: Flags = self.has_gre & ((self.words[0] & 0x20000000) != 0) & ~self.incomplete
        return found

    @_once
    def short(self) -> Flags:
        """The packet ends inside the Ethernet header, the VLAN tags, or the fixed part of the header behind them."""
        found: Flags = link_payloads().take(self.kind) > self.behind_link
        return found

    @_once
    def transport_size(self) -> Positions:
        """Bytes of the transport header with its options, 0 for a protocol without columns."""
        size = transport_headers().take(self.protocol)
        size *= self.readable
        if self.having("has_tcp"):
            np.copyto(size, (self.words[3] >> _28) << _2, where=self.has_tcp)
        if self.having("has_vxlan"):
            np.copyto(size, _VXLAN, where=self.has_vxlan)
        if self.having("has_gre"):
            np.copyto(size, gre_headers().take(self.words[0] >> 16), where=self.has_gre)
        return size

    @_once
    def incomplete(self) -> Flags:
        """Whether the transport header does not fit into the packet, or its length cannot be right."""
        size = self.transport_size
        found: Flags = size > self.room
        if self.having("has_tcp"):
            found |= self.has_tcp & (size < _SHORTEST_TCP)
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
            return self.nobody
        length = self.words[1] >> _16
        space = self.declared - self.transport_at
        wrong: Flags = (length > space) | ((length < 8) & (length != 0))  # 0: too long for 16 bits (RFC 2675)
        wrong &= self.has_udp & (self.protocol == IPPROTO_UDP)
        if np.count_nonzero(wrong):
            wrong &= (self.fragment & 0x2000) == 0  # of a fragment, it is the length of all fragments together
        return wrong
