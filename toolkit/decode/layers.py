# SPDX-License-Identifier: Apache-2.0
"""Layers: find the headers of each packet, and copy them, so that nothing refers to packet memory afterwards.

Everything here is an array with one item a packet. Bytes of a header beyond the end of its packet, or beyond the length
in its IP header, read as zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.decode.gather import Bytes, Positions, gather
from toolkit.decode.layouts import (
    ARP,
    ETHERNET,
    EXTENSION,
    IPPROTO_AH,
    IPPROTO_FRAGMENT,
    IPV4,
    IPV6,
    TRANSPORT_WIDTH,
    ethertype_kinds,
    extension_protocols,
    ipv4_headers,
)

__all__ = ["LINK", "NETWORK", "TRANSPORT", "Layers"]

Flags = npt.NDArray[np.bool_]
Record = npt.NDArray[np.void]

LINK, NETWORK, TRANSPORT = 2, 3, 4  # up to which layer headers are located

_ETH_HLEN = 14
_VLAN_HLEN = 4
_IPV4_HLEN = 20
_IPV6_HLEN = 40
_ARP_HLEN = 28
_ARP_IPV4_OVER_ETHERNET = 0x08000604  # protocol type 0x0800, addresses of 6 and of 4 bytes
_MAX_EXTENSIONS = 8  # most extension headers in a row: only an attack has more


class Layers:
    """The headers of n packets: copies, without a reference to packet memory. Not written after construction.

    Every attribute has shape (n,) unless noted. None: in no packet of this batch.
    """

    length: Positions  # bytes of the packet
    ethernet: Record
    has_ethernet: Flags
    ethertype: npt.NDArray[np.uint16]  # after the VLAN tags
    kind: npt.NDArray[np.uint8]  # the kind of the ethertype, see ethertype_kinds()
    tagged: Flags | None = None  # has a VLAN tag, and the ethertype behind it
    tagged2: Flags | None = None  # has a second one

    network_at: Positions | int  # bytes from the packet's start; one number when it is the same for all packets
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
    transport_at: Positions  # from the packet's start: behind the IP headers; behind the ethertype where not is_ip
    readable: Flags  # a transport header can be read: no later fragment, and no broken header in front
    room: Positions  # bytes from there to the end; 0 where not readable

    def __init__(self, memory: Bytes, offsets: Positions, lengths: Positions, depth: int = TRANSPORT) -> None:
        """Locate and copy the headers up to `depth`. offsets, lengths: int64, from check_packets()."""
        self.length = lengths.copy()
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
        self._raw_link = gather(memory, offsets, self.length, ETHERNET.itemsize)
        self.ethernet = self._raw_link.view(ETHERNET).reshape(-1)
        self.has_ethernet = self.length >= _ETH_HLEN
        self.ethertype = self.ethernet["type"].astype(np.uint16)
        self.kind = kinds.take(self.ethertype)
        self.network_at = _ETH_HLEN
        tagged = self.kind == 1
        if np.count_nonzero(tagged):
            self._tags(tagged, kinds)

    def _tags(self, tagged: Flags, kinds: npt.NDArray[np.uint8]) -> None:
        tagged &= self.length >= _ETH_HLEN + _VLAN_HLEN
        np.copyto(self.ethertype, self.ethernet["type1"], where=tagged)
        tagged2 = tagged & (kinds.take(self.ethertype) == 1) & (self.length >= _ETH_HLEN + 2 * _VLAN_HLEN)
        np.copyto(self.ethertype, self.ethernet["type2"], where=tagged2)
        self.kind = kinds.take(self.ethertype)
        self.tagged, self.tagged2 = tagged, tagged2
        self.network_at = np.add(tagged, tagged2, dtype=np.int64) * _VLAN_HLEN + _ETH_HLEN

    def _network(self, memory: Bytes, offsets: Positions) -> None:
        at = self.network_at
        room = self.length - at
        if isinstance(at, int):
            self._raw_network = (self._raw_link, at)  # no tags: it was copied with the Ethernet header
        else:
            self._raw_network = (gather(memory, offsets + at, room, IPV4.itemsize), 0)
        self._ipv4(at, room)
        if np.count_nonzero(self.kind == 6):
            self._ipv6(at, room)
        arp = self.kind == 2
        if np.count_nonzero(arp):
            self.is_arp = arp & (room >= _ARP_HLEN) & (self.network(ARP)["formats"] == _ARP_IPV4_OVER_ETHERNET)
        self.end = np.minimum(self.declared, self.length)
        self._extensions(memory, offsets)

    def _ipv4(self, at: Positions | int, room: Positions) -> None:
        """Locate the headers as if every packet were IPv4 or not IP; _ipv6() then overwrites those of IPv6."""
        ip = self.network(IPV4)
        header = ipv4_headers().take(ip["version_ihl"])
        self.is4 = self.is_ip = (self.kind == 4) & (room >= _IPV4_HLEN) & (header >= 0)
        header *= self.is4
        total = ip["length"].astype(np.int64)
        # A total length of 0 comes from segmentation offload: then the packet's own length counts.
        total = np.where(self.is4 & (total != 0), total, room)
        self.declared = total + at
        self.transport_at = header + at
        self.protocol = ip["protocol"].astype(np.uint8)
        self.fragment = ip["fragment"].astype(np.uint16)
        self.later = self.is4 & ((self.fragment & 0x1FFF) != 0)
        self.broken = self.is4 & ((header < _IPV4_HLEN) | (np.minimum(total, room) < header))

    def _ipv6(self, at: Positions | int, room: Positions) -> None:
        ip = self.network(IPV6)
        is6 = (self.kind == 6) & (room >= _IPV6_HLEN) & ((ip["flow"] >> 28) == 6)
        payload = ip["payload_length"].astype(np.int64)
        following = ip["next"]
        # No length, but hop-by-hop options: a jumbogram, with its length in an option. The packet's length counts.
        jumbo = (payload == 0) & (following == 0)
        end = np.where(jumbo, self.length, payload + (_IPV6_HLEN + at))
        np.copyto(self.declared, end, where=is6)
        np.copyto(self.transport_at, at + _IPV6_HLEN, where=is6)
        np.copyto(self.protocol, following, where=is6)
        np.copyto(self.fragment, 0, where=is6)
        self.is6 = is6
        self.is_ip = self.is4 | is6

    def _extensions(self, memory: Bytes, offsets: Positions) -> None:
        """Walk over the headers between IP and the final protocol, in all packets at once."""
        self.fragments6 = []
        walked = extension_protocols()
        on_way = self.is4 & (self.protocol == IPPROTO_AH)
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
        self.readable = self.is_ip & ~(self.later | self.broken)
        self.room = (self.end - self.transport_at) * self.readable
        self.transport = gather(memory, offsets + self.transport_at, self.room, TRANSPORT_WIDTH)
