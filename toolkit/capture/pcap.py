# SPDX-License-Identifier: Apache-2.0
"""PcapWriter: classic pcap with nanoseconds, for readers without pcapng. It has no place for counts of lost packets."""

from __future__ import annotations

import struct

import numpy as np

from toolkit.abi import pcapng as blocks
from toolkit.capture.pack import Bytes, Reserve, pack
from toolkit.capture.records import About, Counts, Packets

__all__ = ["PcapWriter"]


class PcapWriter:
    """The format of one capture; its records as bytes."""

    name = "pcap"
    last = (1 << 32) * 1_000_000_000 - 1  # ns since 1970: seconds are u32
    remedy = "write pcapng (a name that ends in .pcapng) or Parquet"

    def __init__(self, about: About) -> None:
        self._about = about

    def preamble(self) -> bytes:
        """Return the file's header."""
        header = np.zeros((), dtype=blocks.PCAP_HEADER)
        header["magic"], header["major"], header["minor"] = blocks.PCAP_MAGIC_NS, 2, 4
        header["snaplen"], header["linktype"] = self._about.snaplen, blocks.LINKTYPE_ETHERNET
        return header.tobytes()

    def sizes(self, packets: Packets) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the size of each packet's record in bytes: shape (n,), int64."""
        return packets.captured.astype(np.int64) + blocks.PCAP_RECORD_SIZE

    def encode(self, packets: Packets, reserve: Reserve) -> Bytes | None:
        """Return the packets as records, in memory from `reserve`: shape (total,), uint8."""
        seconds, fraction = np.divmod(packets.times, np.int64(1_000_000_000))
        front = (seconds, fraction, packets.captured, packets.original)
        return pack(packets.memory, packets.offsets, packets.captured, front, reserve=reserve)

    def statistics(self, counts: Counts, began: int, now: int) -> bytes:
        """Return b"": the format has no record for counts."""
        return b""

    def whole(self, data: memoryview, limit: int) -> tuple[int, int]:
        """Return the bytes and packets of whole records within the first `limit` bytes of `data`."""
        at = packets = 0
        while at + blocks.PCAP_RECORD_SIZE <= limit:
            total = blocks.PCAP_RECORD_SIZE + struct.unpack_from("=I", data, at + 8)[0]
            if at + total > limit:
                break
            at += total
            packets += 1
        return at, packets
