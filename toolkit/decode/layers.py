# SPDX-License-Identifier: Apache-2.0
"""Layers: find the headers of each packet, and copy them, so that nothing refers to packet memory afterwards.

Everything here is an array with one item a packet. Bytes of a header beyond the end of its packet, or beyond the length
in its IP header, read as zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.decode.gather import Bytes, Positions, Words, gather, words
from toolkit.decode.layouts import (
    ARP,
    EXTENSION,
    EXTENSIONS,
    IPPROTO_AH,
    IPPROTO_FRAGMENT,
    LINK_WIDTH,
    NETWORK_WIDTH,
    TRANSPORT_WIDTH,
    constant,
    ethertype_kinds,
    extension_protocols,
    ipv4_headers,
)

__all__ = ["LINK", "LINK_AT", "NETWORK", "NET_AT", "TAGS_AT", "TRANSPORT", "WORDS_AT", "Layers"]

Flags = npt.NDArray[np.bool_]
Record = npt.NDArray[np.void]

# glibc keeps free memory at the end of the heap up to twice the largest array that was ever freed. Without this line it
# may give back what one batch took (0.1 to 0.9 MB), and the kernel clears each of these pages again for the next one,
# which takes longer than decoding does.
np.empty(1 << 21, dtype=np.uint8)  # freed at once

LINK, NETWORK, TRANSPORT = 2, 3, 4  # up to which layer headers are located

_ETH_HLEN = 14
_VLAN_HLEN = 4
_IPV4_HLEN = 20
_IPV6_HLEN = 40
_ARP_HLEN = 28
_ARP_IPV4_OVER_ETHERNET = 0x08000604  # protocol type 0x0800, addresses of 6 and of 4 bytes
_MAX_EXTENSIONS = 8  # most extension headers in a row: only an attack has more


# Rows of Layers.numbers.
LINK_AT, TAGS_AT, NET_AT, WORDS_AT, _NUMBERS = 0, 4, 6, 16, 21

_8, _16, _24, _28 = (constant(shift) for shift in (8, 16, 24, 28))
_ETHERNET, _IPV4, _IPV6, _NONE = (constant(size, np.int64) for size in (_ETH_HLEN, _IPV4_HLEN, _IPV6_HLEN, 0))
_TAGGED = constant(_ETH_HLEN + _VLAN_HLEN, np.int64)
_LOW_16, _OFFSET, _VERSION_6 = constant(0xFFFF), constant(0x1FFF, np.uint16), constant(6)
_PROTOCOL_AH, _KIND_4, _KIND_6 = (constant(number, np.uint8) for number in (IPPROTO_AH, 4, 6))
_JUMBO = constant(0x100)


class Layers:
    """The headers of n packets: copies, without a reference to packet memory. Not written after construction.

    Every attribute has shape (n,) unless noted; Words have shape (words, n). None: in no packet of this batch.
    """

    length: Positions  # bytes of the packet
    # All words of the headers, shape (21, n): those of the link from row LINK_AT on, of VLAN tags, of the network, of
    # the transport. A row that `link`, `tags`, `net` and `words` do not have holds anything.
    numbers: Words
    link: Words  # the first 16 bytes: addresses, type, and a VLAN tag if there is one
    has_ethernet: Flags
    ethertype: Words  # after the VLAN tags; shape (n,)
    kind: npt.NDArray[np.uint8]  # the kind of the ethertype, see ethertype_kinds()
    tagged: Flags | None = None  # has a VLAN tag, and the ethertype behind it
    tagged2: Flags | None = None  # has a second one
    tags: Words  # where any is tagged, what is behind `link`: the type behind the tag and a second tag, the type behind

    network_at: Positions | int  # bytes from the packet's start; one number when it is the same for all packets
    behind_link: Positions  # bytes from there to the packet's end; below 0 where it ends before
    net: Words  # the network header; 5 words where no packet has the ethertype of IPv6, else 10
    is4: Flags  # a complete IPv4 header of version 4
    is6: Flags | None = None
    is_arp: Flags | None = None  # ARP for IPv4 over Ethernet
    is_ip: Flags
    protocol: npt.NDArray[np.uint8]  # after the extension headers; meaningless where not is_ip
    declared: Positions  # where the IP packet ends by its header, from the packet's start
    end: Positions  # the same, but at most the packet's end; the packet's end where not is_ip
    later: Flags  # a fragment other than the first
    broken: Flags  # an IP header that cannot be right, or extension headers that do not end
    fragment: npt.NDArray[np.uint16]  # flags and offset of the fragment, in IPv4's form; for IPv6 as well
    # Rows and identification of packets with an IPv6 fragment header; one item a round of _extensions().
    fragments6: list[tuple[npt.NDArray[np.intp], npt.NDArray[Any]]]

    transport: npt.NDArray[np.uint8]  # shape (n, 20)
    words: Words  # the same: shape (5, n)
    transport_at: Positions  # from the packet's start: behind the IP headers; behind the ethertype where not is_ip
    readable: Flags  # a transport header can be read: no later fragment, and no broken header in front
    room: Positions  # bytes from there to the end; 0 where not readable

    def __init__(self, memory: Bytes, offsets: Positions, lengths: Positions, depth: int = TRANSPORT) -> None:
        """Locate and copy the headers up to `depth`. offsets, lengths: int64, from check_packets()."""
        self.length = lengths.copy()
        self.numbers = np.empty((_NUMBERS, len(lengths)), dtype=np.uint32)
        self._link(memory, offsets)
        if depth >= NETWORK:
            self._network(memory, offsets)
        if depth >= TRANSPORT:
            self._transport(memory, offsets)

    def network(self, layout: np.dtype[np.void]) -> Record:
        """Return the network headers read as `layout`: IPV4, IPV6 or ARP."""
        raw, skip = self._raw_network
        return raw[:, skip : skip + layout.itemsize].view(layout)[:, 0]

    def _link(self, memory: Bytes, offsets: Positions) -> None:
        kinds = ethertype_kinds()
        self._raw_link = gather(memory, offsets, self.length, LINK_WIDTH)
        self.link = words(self._raw_link, 0, self.numbers[LINK_AT:TAGS_AT])
        self.has_ethernet = self.length >= _ETHERNET
        self.ethertype = self.link[3] >> _16
        self.kind = kinds.take(self.ethertype)
        self.network_at = _ETH_HLEN
        if 1 in self.kind.tobytes():
            self._tags(self.kind == 1, kinds)

    def _tags(self, tagged: Flags, kinds: npt.NDArray[np.uint8]) -> None:
        self.tags = words(self._raw_link, 16, self.numbers[TAGS_AT:NET_AT])
        tagged &= self.length >= _TAGGED
        np.copyto(self.ethertype, self.tags[0] >> _16, where=tagged)
        self.kind = kinds.take(self.ethertype)
        self.tagged = tagged
        at = tagged.astype(np.int64) * _VLAN_HLEN
        if 1 in self.kind.tobytes():
            tagged2 = tagged & (self.kind == 1) & (self.length >= _ETH_HLEN + 2 * _VLAN_HLEN)
            np.copyto(self.ethertype, self.tags[1] >> _16, where=tagged2)
            self.kind = kinds.take(self.ethertype)
            self.tagged2 = tagged2
            at += tagged2.astype(np.int64) * _VLAN_HLEN
        at += _ETHERNET
        self.network_at = at

    def _network(self, memory: Bytes, offsets: Positions) -> None:
        at = self.network_at
        room = self.behind_link = self.length - at
        if isinstance(at, int):
            self._raw_network = (self._raw_link, at)  # no tags: it was copied with the Ethernet header
        else:
            self._raw_network = (gather(memory, offsets + at, room, NETWORK_WIDTH), 0)
        kinds = self.kind.tobytes()  # `in` is quicker than any function of NumPy
        self.net = words(*self._raw_network, self.numbers[NET_AT : WORDS_AT if 6 in kinds else NET_AT + 5])
        self._ipv4(at, room)
        if 6 in kinds:
            self._ipv6(at, room)
        if 2 in kinds:
            arp = (self.kind == 2) & (room >= _ARP_HLEN)
            self.is_arp = arp & (self.network(ARP)["formats"] == _ARP_IPV4_OVER_ETHERNET)
        self.end = np.minimum(self.declared, self.length)
        self._extensions(memory, offsets)

    def _ipv4(self, at: Positions | int, room: Positions) -> None:
        """Locate the headers as if every packet were IPv4 or not IP; _ipv6() then overwrites those of IPv6."""
        net = self.net
        header: Positions = ipv4_headers().take(net[0] >> _24)
        is4 = self.kind == _KIND_4
        is4 &= room >= _IPV4
        is4 &= header >= _NONE
        self.is4 = self.is_ip = is4
        length = net[0] & _LOW_16
        # A total length of 0 comes from segmentation offload: then the packet's own length counts.
        total: Positions = np.where(is4 & length.astype(np.bool_), length, room)
        self.declared = total + at
        np.multiply(header, is4, out=header)
        self.transport_at = header + at
        self.protocol = (net[2] >> _16).astype(np.uint8)
        self.fragment = net[1].astype(np.uint16)
        self.later = (self.fragment & _OFFSET).astype(np.bool_)
        self.later &= is4
        np.minimum(total, room, out=total)
        self.broken = total < header
        self.broken |= header < _IPV4
        self.broken &= is4

    def _ipv6(self, at: Positions | int, room: Positions) -> None:
        net = self.net
        is6 = self.kind == _KIND_6
        is6 &= room >= _IPV6
        is6 &= (net[0] >> _28) == _VERSION_6
        behind = at + _IPV6
        # No length, but hop-by-hop options: a jumbogram, with its length in an option. The packet's length counts.
        jumbo = net[1] < _JUMBO  # no payload length, and the next header is 0
        np.copyto(self.declared, np.where(jumbo, self.length, (net[1] >> _16) + behind), where=is6)
        np.copyto(self.transport_at, behind, where=is6)
        np.copyto(self.protocol, (net[1] >> _8).astype(np.uint8), where=is6)
        np.copyto(self.fragment, 0, where=is6)
        self.is6 = is6
        self.is_ip = self.is4 | is6

    def _extensions(self, memory: Bytes, offsets: Positions) -> None:
        """Walk over the headers between IP and the final protocol, in all packets at once."""
        self.fragments6 = []
        protocols = self.protocol.tobytes()
        if not any(number in protocols for number in EXTENSIONS):  # also among what is not IP: then nothing is on_way
            return
        walked = extension_protocols()
        on_way = self.is4 & (self.protocol == _PROTOCOL_AH)
        if self.is6 is not None:
            on_way |= self.is6 & walked[1].take(self.protocol)
        if not np.count_nonzero(on_way):
            return
        rows = np.flatnonzero(on_way & ~(self.later | self.broken))
        for _ in range(_MAX_EXTENSIONS):
            if not rows.size:
                return
            rows = self._extension(memory, offsets, rows)
            version = 1 - self.is4[rows].astype(np.intp)
            rows = rows[walked[version, self.protocol[rows]] & ~self.later[rows]]
        self.broken[rows] = True

    def _extension(self, memory: Bytes, offsets: Positions, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Skip one extension header in these rows. Returns the rows where it was complete; the others are broken."""
        at = self.transport_at[rows]
        room = self.end[rows] - at
        header = gather(memory, offsets[rows] + at, room, EXTENSION.itemsize).view(EXTENSION).reshape(-1)
        protocol = self.protocol[rows]
        size = (header["size"].astype(np.int64) + 1) * 8
        size[protocol == IPPROTO_FRAGMENT] = 8
        is_ah = protocol == IPPROTO_AH
        size[is_ah] = (size[is_ah] // 8 + 1) * 4  # AH's length is in words of 4 bytes, minus 2
        whole = room >= size
        self.broken[rows[~whole]] = True
        rows, header, protocol = rows[whole], header[whole], protocol[whole]
        self.transport_at[rows] += size[whole]
        self.protocol[rows] = header["next"]
        fragment = protocol == IPPROTO_FRAGMENT
        if np.count_nonzero(fragment):
            found, at_rows = header[fragment], rows[fragment]
            self.fragment[at_rows] = found["fragment"] >> 3 | (found["fragment"] & 1) << 13
            self.later[at_rows] = found["fragment"] > 7
            self.fragments6.append((at_rows, found["id"]))
        return rows

    def _transport(self, memory: Bytes, offsets: Positions) -> None:
        self.readable = self.is_ip > (self.later | self.broken)  # True is more than False
        self.room = self.end - self.transport_at
        self.room *= self.readable
        self.transport = gather(memory, offsets + self.transport_at, self.room, TRANSPORT_WIDTH)
        self.words = words(self.transport, 0, self.numbers[WORDS_AT:])
