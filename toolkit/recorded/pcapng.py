# SPDX-License-Identifier: Apache-2.0
"""PcapngReader: pcapng: blocks one after the other, in sections with their own byte order and interfaces."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.clock import NAT
from toolkit.abi.pcapng import (
    BYTE_ORDER_MAGIC,
    ENHANCED_PACKET_BLOCK,
    EPB_HEADER,
    EPB_HEADER_SIZE,
    IF_DESCRIPTION,
    IF_FILTER,
    IF_NAME,
    IF_OS,
    IF_TSOFFSET,
    IF_TSRESOL,
    INTERFACE_DESCRIPTION_BLOCK,
    INTERFACE_STATISTICS_BLOCK,
    ISB_FILTERACCEPT,
    ISB_IFDROP,
    ISB_IFRECV,
    ISB_OSDROP,
    ISB_USRDELIV,
    LINKTYPE_ETHERNET,
    OBSOLETE_PACKET_BLOCK,
    OPT_COMMENT,
    SECTION_HEADER_BLOCK,
    SIMPLE_PACKET_BLOCK,
)
from toolkit.recorded.format import ByteOrder, Corrupt, FoundPackets, RecordedInterface, link_type_error
from toolkit.recorded.window import Window

__all__ = ["PcapngReader"]

_BLOCK = 12  # bytes of a block without a body
_LONGEST = 1 << 24  # most bytes of a block, as in libpcap
_MOST_INTERFACES = 1 << 16  # most interfaces that are kept: a file of many more would fill the memory
_MOST_OPTIONS = 1 << 12  # most options of a block that are read
_MOST_TEXT = 1 << 24  # most bytes of names, filters, ...: further ones are left out
# Bytes before the packet, by type of block; the trailing length comes after it.
_HEADERS = {ENHANCED_PACKET_BLOCK: EPB_HEADER_SIZE, OBSOLETE_PACKET_BLOCK: EPB_HEADER_SIZE, SIMPLE_PACKET_BLOCK: 12}
_NOTED = (SECTION_HEADER_BLOCK, INTERFACE_DESCRIPTION_BLOCK, INTERFACE_STATISTICS_BLOCK)  # other blocks are skipped
_STATISTICS = {
    ISB_IFRECV: "received",
    ISB_IFDROP: "dropped",
    ISB_FILTERACCEPT: "accepted",
    ISB_OSDROP: "os_dropped",
    ISB_USRDELIV: "delivered",
}

Positions = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint64]  # times as recorded, in the unit that the interface names
Times = npt.NDArray[np.int64]  # ns since 1970

_SECOND = 1_000_000_000
_LAST = (1 << 63) - 1
_MASK = (1 << 64) - 1


class PcapngReader:
    """Reads packet blocks of all three kinds, interfaces and statistics; skips unknown blocks."""

    def __init__(self, window: Window) -> None:
        """Read the blocks before the first packet, if they are there."""
        self.interfaces: list[RecordedInterface] = []  # of all sections
        self.comment = ""
        self.skipped = 0
        self.undated = 0
        self.need = 0
        self._order: ByteOrder = "<"
        self._text_left = _MOST_TEXT
        self._others: set[int] = set()  # positions in `interfaces` of those that are not Ethernet
        self._first = 0  # position in `interfaces` of this section's first
        self._kind = ENHANCED_PACKET_BLOCK  # the kind of packet block that is being read
        self._counted: dict[tuple[int, str], int] = {}  # (interface, name): of its last statistics block
        self._head = struct.Struct("<II").unpack_from
        window.require(_BLOCK)
        while not self._other(window) and self.need and window.require(self.need):
            if len(self.interfaces):
                break  # in a pipe the first packet may come much later

    def statistics(self) -> dict[str, int]:
        """Return the counts of the recording program, summed over interfaces, by name; empty if the file has none."""
        total: dict[str, int] = {}
        for (_, name), value in self._counted.items():
            total[name] = total.get(name, 0) + value
        return total

    def take(self, window: Window, count: int) -> FoundPackets | None:
        """Find packets: see FormatReader. One call returns packets from blocks of one kind, in one section."""
        places: list[int] = []
        note = places.append
        while len(places) < count:
            try:
                if not self._other(window, new_section=not places):
                    break
            except Corrupt:
                if not places:
                    raise
                break
            at, end, view, kind, unpack = window.at, window.end, window.view, self._kind, self._head
            least = _HEADERS[kind] + 4
            for _ in range(count - len(places)):
                if at + _BLOCK > end:
                    break
                found, total = unpack(view, at)
                following = at + total
                if found != kind or following > end or total < least or total > _LONGEST or total & 3:
                    break  # _other() handles that
                note(at)
                at = following
            if at == window.at:
                break  # a packet block of another kind
            window.at = at
        return self._found(window, np.array(places, dtype=np.int64)) if places else None

    # --- blocks other than packets ----------------------------------------------------------------------------------

    def _other(self, window: Window, new_section: bool = True) -> bool:
        """Skip blocks other than packets. True: a complete packet block is next; False.

        See `need`, or a new section.
        """
        while True:
            self.need = 0
            if window.left < _BLOCK:
                self.need = _BLOCK
                return False
            kind, total = self._head(window.view, window.at)
            if kind == SECTION_HEADER_BLOCK:
                if not new_section:
                    return False
                order = self._byte_order(window)
                total = struct.unpack_from(order + "I", window.view, window.at + 4)[0]
            else:
                order = self._order
            self._check_total(kind, total)
            if window.left < total:
                self.need = total
                return False
            if kind in _HEADERS:
                if kind != self._kind and not new_section:
                    return False
                self._kind = kind
                return True
            if struct.unpack_from(order + "I", window.view, window.at + total - 4)[0] != total:
                raise Corrupt("a block whose two lengths differ")
            if kind in _NOTED:
                self._note(kind, order, bytes(window.view[window.at : window.at + total]))
            window.at += total

    def _byte_order(self, window: Window) -> ByteOrder:
        order: ByteOrder
        for order in ("<", ">"):
            if struct.unpack_from(order + "I", window.view, window.at + 8)[0] == BYTE_ORDER_MAGIC:
                return order
        raise Corrupt("a section header without its byte-order magic")

    def _check_total(self, kind: int, total: int) -> None:
        if total > _LONGEST or total & 3:
            raise Corrupt(f"a block of {total:,} bytes")
        if total < _HEADERS.get(kind, _BLOCK - 4) + 4:
            raise Corrupt("a header of zeros" if kind == total == 0 else f"a block of {total} bytes")

    def _note(self, kind: int, order: ByteOrder, block: bytes) -> None:
        body = block[8:-4]
        try:
            if kind == SECTION_HEADER_BLOCK:
                self._section(order, body)
            elif kind == INTERFACE_DESCRIPTION_BLOCK:
                self._interface(body)
            elif kind == INTERFACE_STATISTICS_BLOCK:
                self._statistics(body)
        except struct.error:
            raise Corrupt("a block too short for what it must hold") from None

    def _section(self, order: ByteOrder, body: bytes) -> None:
        major, minor = struct.unpack_from(order + "HH", body, 4)
        if major != 1:
            raise Corrupt(f"a section of pcapng version {major}.{minor}, which is not known")
        self._order = order
        self._head = struct.Struct(order + "II").unpack_from
        self._first = len(self.interfaces)
        for code, value in self._options(body[16:]):
            if code == OPT_COMMENT and not self.comment:
                self.comment = _text(value)

    def _interface(self, body: bytes) -> None:
        link_type, _, snaplen = struct.unpack_from(self._order + "HHI", body)
        described: dict[str, Any] = {}
        texts = {IF_NAME: "name", IF_DESCRIPTION: "description", IF_OS: "os"}
        for code, value in self._options(body[8:]):
            if code in texts:
                described[texts[code]] = self._kept_text(value)
            elif code == IF_FILTER and value[:1] == b"\0":  # 0: a libpcap expression; other kinds are programs
                described["filter"] = self._kept_text(value[1:])
            elif code == IF_TSRESOL and value:
                described["resolution"] = value[0]
            elif code == IF_TSOFFSET and len(value) == 8:
                described["offset"] = struct.unpack(self._order + "q", value)[0]
        if len(self.interfaces) == _MOST_INTERFACES:
            raise Corrupt(f"the description of one interface more than {_MOST_INTERFACES:,}, the most that are read")
        if link_type != LINKTYPE_ETHERNET:
            self._others.add(len(self.interfaces))
        self.interfaces.append(RecordedInterface(link_type, snaplen=snaplen, **described))

    def _kept_text(self, value: bytes) -> str:
        if len(value) > self._text_left:
            return ""
        self._text_left -= len(value)
        return _text(value)

    def _statistics(self, body: bytes) -> None:
        (number,) = struct.unpack_from(self._order + "I", body)
        if self._first + number >= len(self.interfaces):
            return  # of an unknown interface: their number has no limit
        for code, value in self._options(body[12:]):
            if code in _STATISTICS and len(value) == 8:
                self._counted[self._first + number, _STATISTICS[code]] = struct.unpack(self._order + "Q", value)[0]

    def _options(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield code and value of each option; those before the damage, if the list is damaged."""
        at = 0
        for _ in range(_MOST_OPTIONS):
            if at + 4 > len(data):
                return
            code, length = struct.unpack_from(self._order + "HH", data, at)
            if not code or at + 4 + length > len(data):
                return
            yield code, data[at + 4 : at + 4 + length]
            at += 4 + (length + 3 & ~3)

    # --- packets ----------------------------------------------------------------------------------------------------

    def _found(self, window: Window, starts: Positions) -> FoundPackets | None:
        """Read the headers of packet blocks, all at once; return those before the first damaged one."""
        from toolkit.decode.gather import gather

        size = _HEADERS[self._kind]
        rows = gather(window.memory, starts, np.broadcast_to(np.int64(size), starts.shape), size)
        words = rows.view(self._order + "u4").reshape(-1, size // 4).astype(np.int64)
        totals = words[:, 1]
        ends = gather(window.memory, starts + totals - 4, np.broadcast_to(np.int64(4), starts.shape), 4)
        if self._kind == SIMPLE_PACKET_BLOCK:
            interfaces = np.full(len(starts), self._first, dtype=np.int64)
            times, wire = None, words[:, 2]
            captured = self._cut(wire)
        else:
            headers = rows.view(EPB_HEADER.newbyteorder(self._order)).reshape(-1)
            times = headers["time_high"].astype(np.uint64) << np.uint64(32) | headers["time_low"]
            interfaces = words[:, 2]
            if self._kind == OBSOLETE_PACKET_BLOCK:  # two u16: the interface, and a count of drops
                interfaces = interfaces >> 16 if self._order == ">" else interfaces & 0xFFFF
            interfaces = interfaces + self._first
            captured, wire = words[:, 5], words[:, 6]
        bad = ends.view(self._order + "u4").reshape(-1) != totals
        bad |= captured > totals - size - 4
        bad |= interfaces >= len(self.interfaces)
        n = int(bad.argmax()) if bad.any() else len(starts)
        if n < len(starts):
            window.at = int(starts[n])
            if not n:
                raise Corrupt(self._fault(int(interfaces[0]), bool(captured[0] > totals[0] - size - 4)))
        if times is None:
            utc = np.full(n, NAT, dtype=np.int64)
        else:
            utc = _utc_of(times[:n], interfaces[:n], self.interfaces)
            self.undated += int(np.count_nonzero(utc == NAT))
        found = FoundPackets(starts[:n] + size, captured[:n].astype(np.uint32), wire[:n].astype(np.uint32), utc)
        return self._ethernet(window, found, interfaces[:n])

    def _cut(self, wire: Positions) -> Positions:
        """Return the captured bytes of each packet in a simple packet block, by the interface's snaplen."""
        snaplen = self.interfaces[self._first].snaplen if len(self.interfaces) > self._first else 0
        return np.minimum(wire, snaplen) if snaplen else wire

    def _fault(self, interface: int, too_long: bool) -> str:
        if interface >= len(self.interfaces):
            return f"a packet of interface {interface - self._first}, which the file does not describe"
        return "a packet longer than its block" if too_long else "a block whose two lengths differ"

    def _ethernet(self, window: Window, found: FoundPackets, interfaces: Positions) -> FoundPackets | None:
        """Leave out packets of other link types. RecordedError when the file has no others."""
        if not self._others:
            return found
        if len(self._others) == len(self.interfaces):
            raise link_type_error(window.name, self.interfaces[int(interfaces[0])].link_type)
        keep = np.ones(len(interfaces), dtype=np.bool_)
        for number in np.unique(interfaces).tolist():
            if number in self._others:
                keep[interfaces == number] = False
        self.skipped += len(keep) - int(keep.sum())
        return FoundPackets(found.offsets[keep], found.lengths[keep], found.wire_lengths[keep], found.utc_ns[keep])


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="replace").rstrip("\0")


# --- times ----------------------------------------------------------------------------------------------------


def _utc_of(counts: Counts, interfaces: npt.NDArray[np.int64], descriptions: Sequence[RecordedInterface]) -> Times:
    """Return ns since 1970: shape (n,), int64; NaT's int64 for times outside of datetime64[ns] (1677 to 2262).

    counts: shape (n,), uint64, as recorded. interfaces: shape (n,), their positions in `descriptions`.
    """
    # Loop only over the interfaces of these packets: a file may describe very many.
    used = np.unique(interfaces).tolist()
    ways = {(descriptions[number].resolution, descriptions[number].offset) for number in used}
    if len(ways) == 1:
        return _utc(counts, *ways.pop())
    result = np.empty(len(counts), dtype=np.int64)
    for number in used:
        mine = interfaces == number
        result[mine] = _utc(counts[mine], descriptions[number].resolution, descriptions[number].offset)
    return result


def _utc(counts: Counts, resolution: int, offset: int) -> Times:
    nanoseconds, fits = _binary(counts, resolution & 0x7F) if resolution & 0x80 else _decimal(counts, resolution)
    shift = offset * _SECOND
    if abs(shift) > _LAST:
        return np.full(len(counts), NAT, dtype=np.int64)
    # The sum is modulo 2**64, so a result that fits int64 is right.
    fits &= nanoseconds <= np.uint64(_LAST - shift)
    result: Times = (nanoseconds + np.uint64(shift & _MASK)).view(np.int64)
    result[~fits] = NAT
    return result


def _decimal(counts: Counts, digits: int) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Convert units of 10**-digits s; return (ns, whether they fit 64 bits)."""
    if digits > 9:
        divisor = min(10 ** (digits - 9), _MASK)
        return counts // np.uint64(divisor), np.ones(len(counts), dtype=np.bool_)
    factor = 10 ** (9 - digits)
    fits = counts <= np.uint64(_MASK // factor)
    return np.where(fits, counts, np.uint64(0)) * np.uint64(factor), fits


def _binary(counts: Counts, digits: int) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Convert units of 2**-digits s; return (ns, whether they fit 64 bits)."""
    bits = np.uint64(min(digits, 63))
    counts = counts >> np.uint64(min(max(digits - 63, 0), 63))  # bits below that are less than a nanosecond
    seconds = counts >> bits
    fraction = counts & ((np.uint64(1) << bits) - np.uint64(1))
    if digits > 34:  # a fraction of 34 bits, times 10**9, is just below 64 bits
        fraction >>= bits - np.uint64(34)
        bits = np.uint64(34)
    fits = seconds < np.uint64(_MASK // _SECOND)
    nanoseconds = np.where(fits, seconds, np.uint64(0)) * np.uint64(_SECOND)
    return nanoseconds + (fraction * np.uint64(_SECOND) >> bits), fits
