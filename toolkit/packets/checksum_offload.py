# SPDX-License-Identifier: Apache-2.0
"""Checksums that a sender left to its device (CHECKSUM_PARTIAL in Linux): recognised in the header, and finished.

A host that sends into a veth, a virtio NIC or a tap leaves the TCP or UDP checksum to "the hardware", and writes only
the folded sum of the pseudo header into the field. Where such a packet leaves through an AF_XDP socket no device
finishes it, and its receiver drops it. So the field is compared with the sum of the pseudo header, and only where they
are equal the whole packet is summed. A correct checksum equals that sum by chance once in 65,535 packets; finishing it
gives the same checksum again. A wrong one that equals it becomes correct.

ICMP, ICMPv6, UDP-Lite and fragments never have such a checksum, and a UDP checksum of 0 stays: it means "none". In
tunnels (VXLAN, Geneve, GRE, IP in IP) the inner checksum is finished, which makes the outer one correct. SCTP has a
CRC, which such a host leaves zero. Not handled: packets behind MPLS or PPPoE, and packets with an IPv6 routing header.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.decode.gather import check_packets, gather, windows
from toolkit.decode.headers import Headers
from toolkit.decode.layouts import (
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_QINQ1,
    IPPROTO_AH,
    IPPROTO_GRE,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    VXLAN_PORTS,
    extension_protocols,
    gre_headers,
)
from toolkit.packets.checksum import checked_matrix, checksum_of, folded, transport_fields, word_sums
from toolkit.packets.crc32c import crc32c

__all__ = ["finish", "finish_checksums", "finish_one"]

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_IPPROTO_IPIP, _IPPROTO_IPV6 = 4, 41  # linux/in.h: IP in IP
_ETH_P_TEB = 0x6558  # linux/if_ether.h: Ethernet in a tunnel
_GENEVE_PORT = 6081
_VLANS = tuple(kind.to_bytes(2, "big") for kind in (ETH_P_8021Q, ETH_P_8021AD, ETH_P_QINQ1))
_ETH_HLEN, _VLAN_HLEN = 14, 4
_FEW = 12  # packets up to which one after the other is quicker than NumPy's fixed costs
_SHORT = 256  # bytes: longer segments are summed apart from shorter ones, since rows are as wide as their longest
_AT_ONCE = 1 << 20  # bytes that are copied and summed at a time
_TUNNELS = 4  # most tunnels, one inside the other
_MORE_OR_LATER = 0x3FFF  # of IPv4's flags and fragment offset: not zero in any fragment


def _laid(word: int) -> int:
    """Return the value that this machine reads where a header has the 16-bit number `word`."""
    return int.from_bytes(word.to_bytes(2, "big"), sys.byteorder)


# Heads are copied from the third byte on, so that the IP header begins at a multiple of 4 bytes. They are wide enough
# for the TCP checksum behind IPv6.
_SKIP, _WIDTH, _NETWORK = 2, 72, 12
_SKIP_NETWORK = _SKIP + _NETWORK  # bytes from the start of a packet without tags to its IP header
_NO_ROWS = np.zeros(0, dtype=np.intp)


def finish_checksums(matrix: Bytes, lengths: npt.ArrayLike | None = None) -> Mask:
    """Finish the TCP, UDP and SCTP checksums that senders left open, in packets that are rows; others stay as they are.

    For packets received from a veth, a tap or a virtio NIC, before send(). matrix: shape (n, width), uint8,
    C-contiguous, changed in place. lengths: bytes of each packet; the width when None. Returns shape (n,), bool:
    whether the checksum was finished. ArgumentError when matrix or lengths are not right.
    """
    checked_matrix(matrix)
    n, width = matrix.shape
    sizes = np.full(n, width, dtype=np.int64) if lengths is None else np.asarray(lengths, dtype=np.int64)
    if sizes.shape != (n,) or (n and (int(sizes.min()) < 0 or int(sizes.max()) > width)):
        raise cannot_be("lengths", sizes, f"one for each packet, shape ({n},), from 0 to {width} bytes")
    return finish(matrix.reshape(-1), np.arange(n, dtype=np.int64) * width, sizes)


def finish(memory: Bytes, offsets: npt.ArrayLike, lengths: npt.ArrayLike) -> Mask:
    """Do finish_checksums() for packets anywhere in memory: shape (size,), uint8, changed in place.

    offsets, lengths: shape (n,), any integer dtype. ArgumentError when a packet is not inside the memory.
    """
    starts, sizes = check_packets(memory, offsets, lengths)
    if len(starts) <= _FEW:
        view = memory.data
        places = zip(starts.tolist(), sizes.tolist(), strict=True)
        return np.array([finish_one(view[at : at + size]) for at, size in places], dtype=np.bool_)
    return _finish(memory, starts, sizes, _TUNNELS)


def finish_one(packet: memoryview) -> bool:
    """Do finish_checksums() for one packet, in place. Quicker than the arrays for a few packets."""
    head = bytes(packet[:82])
    at = 12
    while head[at : at + 2] in _VLANS and at < 20:
        at += _VLAN_HLEN
    kind, at = head[at : at + 2], at + 2
    if kind == b"\x08\x00" and len(head) >= at + 28 and head[at] >> 4 == 4:
        if head[at + 6] & 0x3F or head[at + 7]:
            return False
        plain, protocol, start = head[at] == 0x45, head[at + 9], at + 20
        size, addresses = (head[at + 2] << 8 | head[at + 3]) - 20, head[at + 12 : at + 20]
    elif kind == b"\x86\xdd" and len(head) >= at + 48 and head[at] >> 4 == 6:
        plain, protocol, start = True, head[at + 6], at + 40
        size, addresses = head[at + 4] << 8 | head[at + 5], head[at + 8 : at + 40]
    else:
        return False
    if not plain or protocol not in (IPPROTO_TCP, IPPROTO_UDP):
        return (not plain or bool(_odd_protocols()[protocol])) and _finish_odd(packet)
    field, least, room, carries = start + 16, 20, size, False
    if protocol == IPPROTO_UDP:
        field, least, size = start + 6, 8, head[start + 4] << 8 | head[start + 5]
        carries = bool(_tunnel_ports()[_laid(head[start + 2] << 8 | head[start + 3])])
    pseudo = (int.from_bytes(addresses, "big") + size + protocol) % 0xFFFF or 0xFFFF
    if head[field : field + 2] != pseudo.to_bytes(2, "big") or not least <= size <= min(room, len(packet) - start):
        return carries and _finish_odd(packet)
    packet[field : field + 2] = (checksum_of(packet[start : start + size]) or 0xFFFF).to_bytes(2, "big")
    if carries:  # the outer one may have looked open by chance, and the inner one may still be open
        _finish_odd(packet)
    return True


def _finish_odd(packet: memoryview) -> bool:
    sizes = np.array([len(packet)], dtype=np.int64)
    memory = np.frombuffer(packet, dtype=np.uint8)
    return bool(_finish_located(memory, np.zeros(1, dtype=np.int64), sizes, _TUNNELS)[0])


# --- nearly all packets: Ethernet, VLAN tags, IP without options, TCP or UDP ------------------------------------------


def _finish(memory: Bytes, starts: Places, sizes: Places, tunnels: int) -> Mask:
    finished = np.zeros(len(starts), dtype=np.bool_)
    odd: list[Rows] = []  # rows for _finish_located()

    def sort(rows: Rows | None, at: Places, heads: Bytes, kinds: npt.NDArray[np.uint16]) -> None:
        """Sort packets by IP version and protocol, and finish each group. rows: which packets; None: all, in order."""
        for kind, six in ((ETH_P_IP, False), (ETH_P_IPV6, True)):
            here, family = _narrowed(kinds == np.uint16(_laid(kind)), rows)
            if family is None:
                continue
            own_heads, own_at = heads[family], at[family]
            protocols = own_heads[:, _NETWORK + (6 if six else 9)]
            left = len(protocols)
            for protocol in (IPPROTO_TCP, IPPROTO_UDP):
                these, chosen = _narrowed(protocols == protocol, here)
                if chosen is None:
                    continue
                where = own_at[chosen]
                ends = starts + sizes if these is None else starts[these] + sizes[these]
                hit, strange = _finish_plain(memory, own_heads[chosen], where, ends, six, protocol)
                left -= len(where)
                if hit is not None:
                    finished[hit if these is None else these[hit]] = True
                if len(strange):
                    odd.append(strange if these is None else these[strange])
            if left:
                strange = np.flatnonzero(_odd_protocols().take(protocols))
                odd.append(strange if here is None else here[strange])

    rows, at, tags = None, starts, 0
    while True:
        heads = _heads(memory, at)
        kinds = heads.view(np.uint16)[:, 5]
        sort(rows, at, heads, kinds)
        if tags == 2 * _VLAN_HLEN or not np.count_nonzero(tagged := _vlan_words().take(kinds)):
            break
        more = np.flatnonzero(tagged)
        rows, at, tags = more if rows is None else rows[more], at[more] + _VLAN_HLEN, tags + _VLAN_HLEN
    for rows in odd:
        if len(rows):
            finished[rows] |= _finish_located(memory, starts[rows], sizes[rows], tunnels)
    return finished


def _heads(memory: Bytes, at: Places) -> Bytes:
    """Copy _WIDTH bytes of every packet, even beyond its end: the length is checked where it matters."""
    at = at + _SKIP
    if int(at.max()) > memory.size - _WIDTH:
        return gather(memory, at, np.full(len(at), _WIDTH), _WIDTH)
    return windows(memory, _WIDTH)[at].view(np.uint8).reshape(len(at), _WIDTH)


def _narrowed(mask: Mask, rows: Rows | None) -> tuple[Rows | None, Rows | slice | None]:
    """Return those of `rows` (None: all) that the mask selects, and an index for arrays as long as the mask.

    The index is None when none is selected, and a slice, which copies nothing, when all are.
    """
    count = int(np.count_nonzero(mask))
    if count == len(mask):
        return rows, slice(None)
    if not count:
        return rows, None
    chosen = np.flatnonzero(mask)
    return chosen if rows is None else rows[chosen], chosen


def _finish_plain(
    memory: Bytes, heads: Bytes, at: Places, ends: Places, six: bool, protocol: int
) -> tuple[Rows | slice | None, Rows]:
    """Finish packets of one IP version and protocol; return the rows finished, and the rows for _finish_located()."""
    words, first = heads.view(np.uint16), heads[:, _NETWORK]
    tcp, header = protocol == IPPROTO_TCP, 40 if six else 20
    transport = (_NETWORK + header) // 2  # as a column of words
    total = words[:, (_NETWORK + (4 if six else 2)) // 2]
    if six:
        addresses = word_sums(heads[:, _NETWORK + 8 : _NETWORK + 40])
    else:
        pair = heads.view(np.uint32)
        addresses = np.add(pair[:, (_NETWORK + 12) // 4], pair[:, (_NETWORK + 16) // 4], dtype=np.uint64)
    # In one's complement 20 bytes less are the complement of 20 more. UDP has its length in its own header.
    addresses += np.uint64(_laid(protocol) + (0xFFFF - _laid(header) if tcp and not six else 0))
    addresses += total if tcp else words[:, transport + 2]
    field = words[:, transport + (8 if tcp else 3)]
    addresses += ~field
    # Both are folded sums: if they are equal modulo 65535, and not 0, they are equal.
    hit = addresses % np.uint64(0xFFFF) == 0
    plain = first >> 4 == 6 if six else first == 0x45
    strange = _NO_ROWS
    if not six and not plain.all():
        strange = np.flatnonzero(first - np.uint8(0x46) < 10)  # options
    if not tcp and np.count_nonzero(inside := _tunnel_ports().take(words[:, transport + 1])):
        strange = np.concatenate((strange, np.flatnonzero(inside & plain)))
    if not np.count_nonzero(hit):
        return None, strange
    start = at + (_SKIP_NETWORK + header)
    length = room = _number(total) - (0 if six else header)
    if not tcp:
        length = _number(words[:, transport + 2])
    hit &= plain & (field != 0) & (length >= (20 if tcp else 8)) & (length <= np.minimum(room, ends - start))
    if not six:
        hit &= words[:, (_NETWORK + 6) // 2] & np.uint16(_laid(_MORE_OR_LATER)) == 0
    _, rows = _narrowed(hit, None)
    if rows is not None:
        start = start[rows]
        _complete(memory, start, length[rows], start + (16 if tcp else 6))
    return rows, strange


def _number(words: npt.NDArray[np.uint16]) -> Places:
    """Return the values of 16-bit numbers that were read from headers: the reverse of _laid()."""
    return words.view(">u2").astype(np.int64)


def _complete(memory: Bytes, start: Places, size: Places, field: Places) -> None:
    """Sum `size` bytes from `start`, including the sum of the pseudo header in `field`; write the checksum there."""
    long = size > _SHORT
    for rows in (slice(None),) if np.count_nonzero(long) in (0, len(size)) else (long, ~long):
        value = ~folded(_sums(memory, start[rows], size[rows]))
        value[value == 0] = 0xFFFF  # as Linux does, for TCP too: the same sum, and never UDP's "none"
        windows(memory, 2)[field[rows]] = value.view("V2")


def _sums(memory: Bytes, start: Places, size: Places) -> npt.NDArray[np.uint64]:
    """Sum the words of ranges: shape (m,), not folded. In pieces: new memory for all would double the cost."""
    width = (int(size.max()) + 3) & ~3
    step = max(_AT_ONCE // width, _FEW)
    if len(start) <= step:
        return _piece_sums(memory, start, size, width)
    pieces = (slice(at, at + step) for at in range(0, len(start), step))
    return np.concatenate([_piece_sums(memory, start[piece], size[piece], width) for piece in pieces])


def _piece_sums(memory: Bytes, start: Places, size: Places, width: int) -> npt.NDArray[np.uint64]:
    one = int(size[0])
    if not (size == one).all() or int(start.max()) > memory.size - width:
        return word_sums(gather(memory, start, size, width))
    block = windows(memory, width)[start].view(np.uint8).reshape(len(start), width)
    block[:, one:] = 0  # all have this length, so no mask is needed
    return word_sums(block)


@lru_cache(maxsize=1)
def _odd_protocols() -> Mask:
    """Return, for each IP protocol, whether a checksum other than TCP's or UDP's may be open behind it.

    Shape (256,).
    """
    odd: Mask = extension_protocols()[1].copy()
    odd[[_IPPROTO_IPIP, _IPPROTO_IPV6, IPPROTO_GRE, IPPROTO_SCTP, IPPROTO_AH]] = True
    return odd


@lru_cache(maxsize=1)
def _tunnel_ports() -> Mask:
    """Return, for each UDP port as read from the header, whether it is VXLAN's or Geneve's: shape (65536,)."""
    return _words_in(*VXLAN_PORTS, _GENEVE_PORT)


@lru_cache(maxsize=1)
def _vlan_words() -> Mask:
    """Return, for each ethertype as read from the header, whether it announces a VLAN tag: shape (65536,)."""
    return _words_in(ETH_P_8021Q, ETH_P_8021AD, ETH_P_QINQ1)


def _words_in(*numbers: int) -> Mask:
    table = np.zeros(1 << 16, dtype=np.bool_)
    table[[_laid(number) for number in numbers]] = True
    return table


# --- all others: options, extension headers, SCTP, tunnels ----------------------------------------------------------


def _finish_located(memory: Bytes, starts: Places, sizes: Places, tunnels: int) -> Mask:
    """Finish packets of any form; slower than _finish_plain()."""
    h = Headers(memory, starts, sizes)
    field, stop, good = transport_fields(memory, starts, h)
    finished = np.zeros(len(starts), dtype=np.bool_)
    summed = good & ((h.protocol == IPPROTO_TCP) | (h.protocol == IPPROTO_UDP))
    for rows, at, width in (
        (np.flatnonzero(summed & h.is4), 12, 8),
        (np.flatnonzero(summed & h.has_ip6), 8, 32),
    ):
        if len(rows):
            start, size, place = (
                starts[rows] + h.transport_at[rows],
                (stop - h.transport_at)[rows],
                starts[rows] + field[rows],
            )
            network = starts[rows] + np.broadcast_to(h.network_at, h.length.shape)[rows]
            pseudo = word_sums(gather(memory, network + at, np.full(len(rows), width), width))
            pseudo += (size + h.protocol[rows]).astype(">u4").view(np.uint32)
            there = gather(memory, place, np.full(len(rows), 2), 2).view(np.uint16)[:, 0]
            hit = (there == folded(pseudo)) & (there != 0)
            if len(rows := rows[hit]):
                _complete(memory, start[hit], size[hit], place[hit])
                finished[rows] = True
    whole = h.readable & (h.declared <= h.length) & (h.fragment & np.uint16(_MORE_OR_LATER) == 0) & ~finished
    _finish_sctp(memory, starts, h, whole, finished)
    if tunnels:
        _finish_inside(memory, starts, h, whole, finished, tunnels - 1)
    return finished


def _finish_sctp(memory: Bytes, starts: Places, h: Headers, whole: Mask, finished: Mask) -> None:
    rows = np.flatnonzero(whole & h.has_sctp & (h.transport[:, 8:12] == 0).all(axis=1))
    if not len(rows):
        return
    start, size = starts[rows] + h.transport_at[rows], h.room[rows]
    octets = crc32c(gather(memory, start, size, int(size.max())), size).astype("<u4").view(np.uint8).reshape(-1, 4)
    for byte in range(4):
        memory[start + 8 + byte] = octets[:, byte]
    finished[rows] = True


def _finish_inside(memory: Bytes, starts: Places, h: Headers, whole: Mask, finished: Mask, tunnels: int) -> None:
    """Finish the packets inside tunnels."""
    skip = np.zeros(len(starts), dtype=np.int64)
    kind = np.zeros(len(starts), dtype=np.int64)  # ethertype of what is inside
    for protocol, inside in ((_IPPROTO_IPIP, ETH_P_IP), (_IPPROTO_IPV6, ETH_P_IPV6)):
        kind[whole & (h.protocol == protocol)] = inside
    gre, vxlan = whole & h.has_gre & ~h.incomplete, whole & h.has_vxlan
    skip[gre], kind[gre] = gre_headers().take(h.gre["flags"])[gre], h.gre["type"][gre]
    skip[vxlan], kind[vxlan] = 16, _ETH_P_TEB
    geneve = whole & h.has_udp & (h.udp["dst"] == _GENEVE_PORT) & (h.room >= 16)
    skip[geneve] = 16 + (h.transport[geneve, 8] & 0x3F).astype(np.int64) * 4
    kind[geneve] = h.transport[geneve, 10:12].copy().view(">u2")[:, 0]
    at = starts + h.transport_at + skip
    size = h.room - skip
    framed = np.flatnonzero((kind == _ETH_P_TEB) & (size > _ETH_HLEN))
    if len(framed):
        finished[framed] = _finish(memory, at[framed], size[framed], tunnels)
    bare = np.flatnonzero(((kind == ETH_P_IP) | (kind == ETH_P_IPV6)) & (size > 0))
    if len(bare):
        finished[bare] = _finish_bare(memory, at[bare], size[bare], kind[bare], tunnels)


def _finish_bare(memory: Bytes, at: Places, size: Places, kind: Places, tunnels: int) -> Mask:
    """Finish IP packets without Ethernet headers: in a copy with such headers; the changed bytes are written back."""
    at, size = at - _ETH_HLEN, size + _ETH_HLEN  # these bytes belong to the outer headers
    copy = gather(memory, at, size, int(size.max()))
    copy[:, 12:14] = kind.astype(">u2").view(np.uint8).reshape(-1, 2)
    before = copy.copy()
    starts = np.arange(len(at), dtype=np.int64) * copy.shape[1]
    finished = _finish(copy.reshape(-1), starts, size, tunnels)
    row, column = np.nonzero(copy != before)
    memory[at[row] + column] = copy[row, column]
    return finished
