# SPDX-License-Identifier: Apache-2.0
"""Answers: turn a request into its answer, in place: ARP, ICMP and ICMPv6 echo, neighbour discovery, UDP echo.

Single packets for ping-pong, whole batches as arrays. As with any host, there is no answer to frames for another
station, to group or broadcast addresses as sender, to fragments and source routes, nor to UDP from the echo port itself
(two hosts that echo would never stop).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be, whole
from toolkit.batch.editable import EditableBatch
from toolkit.errors import ArgumentError
from toolkit.packets.checksum import checksum_of, updated
from toolkit.packets.checksum_offload import finish_one

__all__ = ["Answers"]

_HEAD = 62  # Ethernet, IPv6 and the first 8 bytes of ICMPv6 or UDP
_TTL = 64
_ARP_REQUEST = bytes.fromhex("0001080006040001")  # Ethernet, IPv4, sizes, operation 1
_ALL_NODES = (bytes.fromhex("333300000001"), bytes.fromhex("ff02") + bytes(13) + b"\x01")
_SOLICITED_NODE = bytes.fromhex("ff02") + bytes(9) + bytes.fromhex("01ff")  # and the last 3 bytes of the address
_LINK_OPTION = b"\x02\x01"  # target link-layer address, one unit of 8 bytes
_SOURCE_ROUTES = (131, 137)  # IPv4 options LSRR and SSRR

# An echo request, the most frequent case, as one struct: Ethernet (to, from, type), IPv4 without options (version and
# header length, service, total length, identification, fragment, time to live, protocol, checksum, source, target),
# ICMP (type and code, checksum).
_PING = struct.Struct("!6s6sHBBHHHBBH4s4sHH")
_PING_BYTES = 42  # with the identifier and the sequence number, which an answer keeps

Rows = npt.NDArray[np.intp]
Heads = npt.NDArray[np.uint8]


class Answers:
    """The answers of one host: a MAC address, IP addresses, and a port that echoes UDP. Immutable."""

    def __init__(self, mac: bytes, addresses: Iterable[str], *, udp_port: int | None = 7) -> None:
        """Answer for a host. mac: 6 bytes. addresses: IPv4 and IPv6, as text. udp_port: None: no UDP is echoed."""
        if not isinstance(mac, bytes | bytearray | memoryview) or len(mac) != 6:
            raise cannot_be("mac", mac, "6 bytes, such as bytes.fromhex('020000000001')")
        if udp_port is not None:
            whole("udp_port", udp_port, 1, 65535)
        try:
            parsed = [ipaddress.ip_address(_without_zone(address)) for address in addresses]
        except ValueError as refused:
            raise ArgumentError(f"{refused}. Next step: give addresses such as 192.0.2.1 or 2001:db8::1.") from None
        self.mac = bytes(mac)
        self.addresses = frozenset(address.packed for address in parsed)  # 4 or 16 bytes each
        self.udp_port = udp_port
        self._port = udp_port.to_bytes(2, "big") if udp_port is not None else b""
        self._ip4 = np.array([int(address) for address in parsed if address.version == 4], dtype=np.uint32)
        self._ip6 = [np.frombuffer(address.packed, np.uint8) for address in parsed if address.version == 6]

    def __repr__(self) -> str:
        """Show for whom it answers."""
        hosts = ", ".join(sorted(str(ipaddress.ip_address(address)) for address in self.addresses))
        return f"<Answers for {hosts} at {self.mac.hex(':')}, UDP port {self.udp_port}>"

    # --- one packet -------------------------------------------------------------------------------------------------

    def one(self, packet: memoryview) -> bool:
        """Turn a request into its answer, in place. False when there is no answer: then the packet is not changed."""
        if len(packet) >= _PING_BYTES and self._ping_one(packet):
            return True
        head = bytes(packet[:_HEAD])
        if len(head) < 42 or head[6] & 1 or not (head[0] & 1 or head[:6] == self.mac):
            return False
        kind = head[12:14]
        if kind == b"\x08\x00":
            return self._ip4_one(packet, head)
        if kind == b"\x86\xdd":
            return self._ip6_one(packet, head)
        return kind == b"\x08\x06" and self._arp_one(packet, head)

    def _ping_one(self, packet: memoryview) -> bool:
        """Answer an IPv4 echo request to this station without IP options. False when it is anything else."""
        to, asker, kind, first, service, total, name, part, ttl, protocol, checksum, source, target, what, own = (
            _PING.unpack_from(packet)
        )
        if kind != 0x0800 or first != 0x45 or protocol != 1 or what != 0x0800 or part & 0x3FFF:
            return False
        if to != self.mac or target not in self.addresses or asker[0] & 1 or not 28 <= total <= len(packet) - 14:
            return False
        if not 0 < source[0] < 224 or source[0] == 127:
            return False
        checksum, own = updated(checksum, ttl << 8, _TTL << 8), updated(own, 0x0800, 0)
        _PING.pack_into(
            packet, 0, asker, to, kind, first, service, total, name, part, _TTL, 1, checksum, target, source, 0, own
        )
        return True

    def _arp_one(self, packet: memoryview, head: bytes) -> bool:
        if head[14:22] != _ARP_REQUEST or head[38:42] not in self.addresses:
            return False
        sender = head[22:32]  # its MAC and IPv4 address
        packet[:42] = head[6:12] + self.mac + head[12:20] + b"\x00\x02" + self.mac + head[38:42] + sender
        return True

    def _ip4_one(self, packet: memoryview, head: bytes) -> bool:
        if head[14] >> 4 != 4 or head[20] & 0x3F or head[21] or head[30:34] not in self.addresses:
            return False  # not IPv4, a fragment, or not for us
        if not 0 < head[26] < 224 or head[26] == 127:
            return False  # no sender, or one that cannot be answered
        at = 14 + (head[14] & 15) * 4
        total = head[16] << 8 | head[17]
        if at < 34 or total < at - 14 + 8 or total + 14 > len(packet):
            return False
        if at > 34 and _source_routed(bytes(packet[34:at])):
            return False
        question = bytes(packet[at : at + 8])
        if head[23] == 1 and question[:2] == b"\x08\x00":
            packet[at : at + 4] = b"\x00\x00" + _updated(question[2:4], 0x0800, 0)
        elif head[23] == 17 and question[2:4] == self._port and question[:2] not in (self._port, b"\0\0"):
            packet[at : at + 4] = question[2:4] + question[:2]
        else:
            return False
        # Of the header's sum only the time to live changes: the order of addresses does not matter.
        checksum = _updated(head[24:26], head[22] << 8, _TTL << 8)
        packet[:34] = (
            head[6:12] + self.mac + head[12:22] + bytes((_TTL, head[23])) + checksum + head[30:34] + head[26:30]
        )
        if head[23] == 17:
            finish_one(packet)  # the sender may have left the checksum to its device
        return True

    def _ip6_one(self, packet: memoryview, head: bytes) -> bool:
        payload = head[18] << 8 | head[19]
        if len(head) < 62 or head[14] >> 4 != 6 or payload < 8 or payload + 54 > len(packet) or head[22] == 0xFF:
            return False
        kind, code = head[54], head[55]
        if head[20] == 58 and kind == 135 and code == 0:
            return self._neighbour_one(packet, head, payload)
        if head[38:54] not in self.addresses or not any(head[22:38]):
            return False
        if head[20] == 58 and kind == 128 and code == 0:
            packet[54:58] = b"\x81\x00" + _updated(head[56:58], 0x8000, 0x8100)
        elif head[20] == 17 and head[56:58] == self._port and head[54:56] not in (self._port, b"\0\0"):
            packet[54:58] = head[56:58] + head[54:56]
        else:
            return False
        packet[:54] = head[6:12] + self.mac + head[12:21] + bytes((_TTL,)) + head[38:54] + head[22:38]
        if head[20] == 17:
            finish_one(packet)
        return True

    def _neighbour_one(self, packet: memoryview, head: bytes, payload: int) -> bool:
        """Answer a neighbour solicitation (RFC 4861), a duplicate address detection (RFC 4862) included."""
        target, asker = bytes(packet[62:78]), head[22:38]
        if payload < 24 or head[21] != 255 or target not in self.addresses:
            return False
        if not any(asker) and head[38:54] != _SOLICITED_NODE + target[13:]:
            return False
        question = bytes(packet[54 : 54 + payload])
        if checksum_of(asker + head[38:54] + payload.to_bytes(4, "big") + b"\x00\x00\x00\x3a" + question):
            return False
        to_mac, to_ip = (head[6:12], asker) if any(asker) else _ALL_NODES
        solicited = b"\x60" if any(asker) else b"\x20"
        body = b"\x88\x00\x00\x00" + solicited + bytes(3) + target
        if len(packet) >= 86:  # a request without an option has no room for one, and does not ask for our MAC address
            body += _LINK_OPTION + self.mac
        checksum = checksum_of(target + to_ip + len(body).to_bytes(4, "big") + b"\x00\x00\x00\x3a" + body)
        body = body[:2] + checksum.to_bytes(2, "big") + body[4:]
        fixed = head[12:18] + len(body).to_bytes(2, "big") + b"\x3a\xff"
        packet[: 54 + len(body)] = to_mac + self.mac + fixed + target + to_ip + body
        return True

    # --- many packets -----------------------------------------------------------------------------------------------

    def many(self, batch: EditableBatch) -> npt.NDArray[np.bool_]:
        """Turn the requests of a batch into answers, in place. Returns whether each packet is one now: shape (n,),
        bool.

        Echo requests and UDP without IP options or extension headers are answered as arrays, all others one by one.
        """
        heads, lengths = batch.head(_HEAD), batch.lengths
        kind = heads[:, 12].astype(np.uint16) << 8 | heads[:, 13]
        ours = (heads[:, 0] & 1 == 1) | (heads[:, :6] == np.frombuffer(self.mac, np.uint8)).all(axis=1)
        ours &= heads[:, 6] & 1 == 0
        answered = np.zeros(len(batch), dtype=np.bool_)
        answered |= self._ip4_many(batch, heads, lengths, ours & (kind == 0x0800))
        answered |= self._ip6_many(batch, heads, lengths, ours & (kind == 0x86DD))
        odd = (kind == 0x0806) | ((kind == 0x0800) & (heads[:, 14] > 0x45))
        odd |= (kind == 0x86DD) & (heads[:, 20] == 58) & (heads[:, 54] == 135)
        for row in np.flatnonzero(odd):
            answered[row] = self.one(batch.writable(int(row)))
        return answered

    def _ip4_many(
        self, batch: EditableBatch, heads: Heads, lengths: npt.NDArray[np.int64], candidates: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        total = _u16(heads, 16)
        fit = candidates & (heads[:, 14] == 0x45) & (total >= 28) & (total + 14 <= lengths)
        fit &= ((heads[:, 20] & 0x3F) == 0) & (heads[:, 21] == 0)
        fit &= (heads[:, 26] > 0) & (heads[:, 26] < 224) & (heads[:, 26] != 127)
        target = np.ascontiguousarray(heads[:, 30:34]).view(">u4").reshape(-1)
        fit &= np.isin(target, self._ip4)
        echo = fit & (heads[:, 23] == 1) & (heads[:, 34] == 8) & (heads[:, 35] == 0)
        udp = fit & (heads[:, 23] == 17) & self._echoes(heads, 34)
        heads[echo, 34] = 0
        _update(heads, 36, np.flatnonzero(echo), 0x0800, 0)
        heads[udp, 34:38] = heads[udp][:, [36, 37, 34, 35]]
        rows = np.flatnonzero(echo | udp)
        _update(heads, 24, rows, heads[rows, 22].astype(np.int64) << 8, _TTL << 8)
        heads[rows, 22] = _TTL
        heads[rows, 26:34] = heads[rows][:, [30, 31, 32, 33, 26, 27, 28, 29]]
        self._send_back(batch, heads, rows, 42)
        answered: npt.NDArray[np.bool_] = echo | udp
        return answered

    def _ip6_many(
        self, batch: EditableBatch, heads: Heads, lengths: npt.NDArray[np.int64], candidates: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        payload = _u16(heads, 18)
        fit = candidates & (payload >= 8) & (payload + 54 <= lengths) & (heads[:, 14] >> 4 == 6)
        fit &= (heads[:, 22] != 0xFF) & heads[:, 22:38].any(axis=1)
        ours = np.zeros(len(heads), dtype=np.bool_)
        for address in self._ip6:
            ours |= (heads[:, 38:54] == address).all(axis=1)
        fit &= ours
        echo = fit & (heads[:, 20] == 58) & (heads[:, 54] == 128) & (heads[:, 55] == 0)
        udp = fit & (heads[:, 20] == 17) & self._echoes(heads, 54)
        heads[echo, 54] = 129
        _update(heads, 56, np.flatnonzero(echo), 0x8000, 0x8100)
        heads[udp, 54:58] = heads[udp][:, [56, 57, 54, 55]]
        rows = np.flatnonzero(echo | udp)
        heads[rows, 21] = _TTL
        heads[rows, 22:54] = heads[rows][:, [*range(38, 54), *range(22, 38)]]
        self._send_back(batch, heads, rows, 62)
        answered: npt.NDArray[np.bool_] = echo | udp
        return answered

    def _echoes(self, heads: Heads, at: int) -> npt.NDArray[np.bool_]:
        """Return whether UDP ports at column `at` are those of a request to the echo port that can be answered."""
        source, target = _u16(heads, at), _u16(heads, at + 2)
        port = self.udp_port or -1
        echoes: npt.NDArray[np.bool_] = (target == port) & (source != port) & (source != 0)
        return echoes

    def _send_back(self, batch: EditableBatch, heads: Heads, rows: Rows, width: int) -> None:
        if len(rows):
            heads[rows, :6] = heads[rows, 6:12]
            heads[rows, 6:12] = np.frombuffer(self.mac, np.uint8)
            batch.put_head(heads[rows, :width], rows)


def _without_zone(address: str) -> str:
    """Return fe80::1 of fe80::1%eth0: this host is on one link only."""
    return address.partition("%")[0] if isinstance(address, str) else address


def _source_routed(options: bytes) -> bool:
    """Return whether IPv4 options are malformed, or have a source route, which an answer would have to reverse."""
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:  # no operation
            at += 1
            continue
        if options[at] in _SOURCE_ROUTES or at + 1 >= len(options) or options[at + 1] < 2:
            return True
        at += options[at + 1]
    return at > len(options)


def _u16(heads: Heads, at: int) -> npt.NDArray[np.int64]:
    return heads[:, at].astype(np.int64) << 8 | heads[:, at + 1]


def _update(heads: Heads, at: int, rows: Rows, old: int | npt.NDArray[np.int64], new: int) -> None:
    """Correct the checksums at column `at` of these rows, after 16 bits changed that they cover."""
    value = updated(_u16(heads, at)[rows], old, new)
    heads[rows, at], heads[rows, at + 1] = value >> 8, value & 0xFF


def _updated(checksum: bytes, old: int, new: int) -> bytes:
    return updated(checksum[0] << 8 | checksum[1], old, new).to_bytes(2, "big")
