# SPDX-License-Identifier: Apache-2.0
"""PcapReader: classic pcap: records one after the other, each with a header of 16 bytes, in the writer's byte order."""

from __future__ import annotations

import struct

import numpy as np

from toolkit.abi.pcapng import (
    LINKTYPE_ETHERNET,
    PCAP_HEADER,
    PCAP_HEADER_SIZE,
    PCAP_MAGIC_NS,
    PCAP_MAGIC_US,
    PCAP_RECORD,
    PCAP_RECORD_SIZE,
)
from toolkit.errors import RecordedError
from toolkit.recorded.format import ByteOrder, Corrupt, FoundPackets, RecordedInterface, link_type_error
from toolkit.recorded.window import Window

__all__ = ["LONGEST", "PcapReader"]

LONGEST = 262_144
"""Most bytes of a packet, as in libpcap. A larger length means that the file is damaged."""

_MOST = 1 << 24  # and this, even if the file's snaplen is larger
assert PCAP_RECORD.fields is not None
_CAPTURED = PCAP_RECORD.fields["captured"][1]  # offset in the record header


class PcapReader:
    """Reads the records of a file. There are four magic numbers: two byte orders, microseconds or nanoseconds."""

    def __init__(self, window: Window) -> None:
        """Read the file's header. RecordedError when it is cut off, or of another link type than Ethernet."""
        if not window.require(PCAP_HEADER_SIZE):
            raise RecordedError(
                f"{window.name} ends in the middle of its header: it has {window.left} bytes. "
                "Likely cause: it was copied or written in part. Next step: copy it again."
            )
        self.order: ByteOrder = ">" if bytes(window.view[window.at : window.at + 2]) == b"\xa1\xb2" else "<"
        raw = window.view[window.at : window.at + PCAP_HEADER_SIZE]
        header = np.frombuffer(raw, dtype=PCAP_HEADER.newbyteorder(self.order))[0]
        link_type = int(header["linktype"]) & 0xFFFF  # the upper half is about frame check sequences
        if header["major"] != 2:
            raise RecordedError(
                f"{window.name} is of pcap version {header['major']}.{header['minor']}, not 2. "
                "Next step: have what wrote it write pcapng, or pcap 2.4."
            )
        if link_type != LINKTYPE_ETHERNET:
            raise link_type_error(window.name, link_type)
        self._fraction_ns = {PCAP_MAGIC_US: 1000, PCAP_MAGIC_NS: 1}[int(header["magic"])]
        snaplen = int(header["snaplen"])
        self.interfaces = [RecordedInterface(link_type, snaplen=snaplen, resolution=9 if self._fraction_ns == 1 else 6)]
        self.comment = ""
        self.skipped = 0
        self.undated = 0  # its times, 136 years from 1970 on, always fit
        self.need = 0
        self._limit = max(LONGEST, min(snaplen, _MOST))
        self._record = PCAP_RECORD.newbyteorder(self.order)
        self._u32 = struct.Struct(self.order + "I").unpack_from
        window.at += PCAP_HEADER_SIZE

    def statistics(self) -> dict[str, int]:
        """Return no counts: the format has none."""
        return {}

    def take(self, window: Window, count: int) -> FoundPackets | None:
        """Find packets: see FormatReader. A loop over the records, since only its header tells where one ends."""
        offsets: list[int] = []
        at, end, view, limit = window.at, window.end, window.view, self._limit
        unpack, note, self.need = self._u32, offsets.append, 0
        for _ in range(count):
            body = at + PCAP_RECORD_SIZE
            if body > end:
                self.need = PCAP_RECORD_SIZE
                break
            (captured,) = unpack(view, at + _CAPTURED)
            following = body + captured
            if following > end or captured > limit or not captured:
                if captured > limit or not (captured or any(view[at:body])):
                    if not offsets:
                        raise Corrupt(f"a packet of {captured:,} bytes" if captured else "a header of zeros")
                    break
                if following > end:
                    self.need = PCAP_RECORD_SIZE + captured
                    break
            note(at)
            at = following
        window.at = at
        return self._found(window, offsets) if offsets else None

    def _found(self, window: Window, places: list[int]) -> FoundPackets:
        from toolkit.decode.gather import gather

        starts = np.array(places, dtype=np.int64)
        whole = np.broadcast_to(np.int64(PCAP_RECORD_SIZE), starts.shape)
        records = gather(window.memory, starts, whole, PCAP_RECORD_SIZE).view(self._record).reshape(-1)
        seconds, fraction = records["seconds"].astype(np.int64), records["fraction"].astype(np.int64)
        times = seconds * 1_000_000_000 + fraction * self._fraction_ns  # 0 is a valid time
        return FoundPackets(
            starts + PCAP_RECORD_SIZE,
            records["captured"].astype(np.uint32),
            records["original"].astype(np.uint32),
            times,
        )
