# SPDX-License-Identifier: Apache-2.0
"""PcapngWriter: pcapng with one section, one interface, packets with nanoseconds, and counts of lost packets."""

from __future__ import annotations

import struct

import numpy as np

from toolkit.abi import pcapng as blocks
from toolkit.capture.pack import Bytes, Reserve, Word, pack
from toolkit.capture.records import About, Counts, Packets

__all__ = ["PcapngWriter"]

_END = blocks.option(blocks.OPT_ENDOFOPT, b"")
_FLAGS = (blocks.EPB_FLAGS | 4 << 16, blocks.EPB_FLAGS_INBOUND)  # an XDP program gets inbound packets only
_QUEUE = blocks.EPB_QUEUE | 4 << 16
_LOW = np.int64(0xFFFFFFFF)


class PcapngWriter:
    """The format of one capture; its blocks as bytes."""

    name = "pcapng"
    last = (1 << 63) - 1  # ns since 1970: the format has u64, but datetime64 ends here
    remedy = "write Parquet (a name that ends in .parquet), whose times have a sign"

    def __init__(self, about: About) -> None:
        self._about = about
        self._name_queue = about.queues > 1
        # Header, flags, the queue (if there are several), the end of the options, the length again.
        self._around = blocks.EPB_HEADER_SIZE + 8 + (8 if self._name_queue else 0) + 4 + 4

    def preamble(self) -> bytes:
        """Return the section header and the description of the interface."""
        about = self._about
        section = struct.pack("=IHHq", blocks.BYTE_ORDER_MAGIC, 1, 0, -1)  # version 1.0, of unknown length
        section += _text(blocks.SHB_HARDWARE, about.hardware) + _text(blocks.SHB_OS, about.os)
        section += _text(blocks.SHB_USERAPPL, about.application) + _END
        interface = struct.pack("=HHI", blocks.LINKTYPE_ETHERNET, 0, about.snaplen)
        interface += _text(blocks.IF_NAME, about.name) + _text(blocks.IF_DESCRIPTION, about.description)
        if len(about.mac) == 6:
            interface += blocks.option(blocks.IF_MACADDR, about.mac)
        if about.speed:
            interface += blocks.option(blocks.IF_SPEED, struct.pack("=Q", about.speed))
        interface += blocks.option(blocks.IF_TSRESOL, b"\x09")  # 10**-9 s
        if about.filter:
            interface += blocks.option(blocks.IF_FILTER, b"\0" + about.filter.encode())  # 0: in libpcap's language
        interface += _text(blocks.IF_OS, about.os) + _END
        return blocks.block(blocks.SECTION_HEADER_BLOCK, section) + blocks.block(
            blocks.INTERFACE_DESCRIPTION_BLOCK, interface
        )

    def sizes(self, packets: Packets) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the size of each packet's block in bytes: shape (n,), int64."""
        return (packets.captured.astype(np.int64) + 3 & -4) + self._around

    def encode(self, packets: Packets, reserve: Reserve) -> Bytes | None:
        """Return the packets as enhanced packet blocks, in memory from `reserve`: shape (total,), uint8."""
        total: Word = (packets.captured + np.uint32(3) & np.uint32(0xFFFFFFFC)) + np.uint32(self._around)
        front = (
            blocks.ENHANCED_PACKET_BLOCK,
            total,
            0,  # the only interface
            packets.times >> 32,
            packets.times & _LOW,
            packets.captured,
            packets.original,
        )
        queue = (_QUEUE, packets.queue) if self._name_queue else ()
        back = (*_FLAGS, *queue, 0, total)
        return pack(packets.memory, packets.offsets, packets.captured, front, back, reserve=reserve, align=4)

    def statistics(self, counts: Counts, began: int, now: int) -> bytes:
        """Return the counts from `began` to `now` (ns since 1970 UTC) as an interface statistics block.

        isb_ifdrop is the number of packets that the filter accepted and that are not in the file, as dumpcap writes it
        and Wireshark shows it; isb_osdrop is the kernel's part of that. What the NIC lost before that is in a comment,
        for nobody knows what the filter would have said.
        """
        options = b"".join(
            blocks.option(code, struct.pack("=Q", value))
            for code, value in (
                (blocks.ISB_IFRECV, counts.received),
                (blocks.ISB_IFDROP, counts.os_dropped + counts.write_dropped),
                (blocks.ISB_FILTERACCEPT, counts.accepted),
                (blocks.ISB_OSDROP, counts.os_dropped),
                (blocks.ISB_USRDELIV, counts.delivered),
            )
        )
        times = blocks.option(blocks.ISB_STARTTIME, _time(began)) + blocks.option(blocks.ISB_ENDTIME, _time(now))
        text = f"{counts.missed} packets were lost by the NIC before the filter saw them" if counts.missed else ""
        body = struct.pack("=I", 0) + _time(now) + _text(blocks.OPT_COMMENT, text) + times + options + _END
        return blocks.block(blocks.INTERFACE_STATISTICS_BLOCK, body)

    def whole(self, data: memoryview, limit: int) -> tuple[int, int]:
        """Return the bytes and packets of whole blocks within the first `limit` bytes of `data`."""
        at = packets = 0
        while at + 12 <= limit:
            kind, total = struct.unpack_from("=II", data, at)
            if at + total > limit:
                break
            at += total
            packets += kind == blocks.ENHANCED_PACKET_BLOCK
        return at, packets


def _text(code: int, text: str) -> bytes:
    return blocks.option(code, text.encode(errors="replace")) if text else b""


def _time(ns: int) -> bytes:
    """Return a time as two 32-bit words, the high one first in either byte order."""
    return struct.pack("=II", ns >> 32, ns & 0xFFFFFFFF)
