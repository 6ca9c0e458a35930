# SPDX-License-Identifier: Apache-2.0
"""Recordings made byte by byte, in either byte order, for the tests of reading."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit.errors import RecordedError, RecordedWarning
from toolkit.recorded.recorded import Recorded, read

__all__ = ["START", "Pcapng", "hear", "packet", "pcap", "read_all", "recording"]

Packet = tuple[int, bytes, int]  # ns since 1970, bytes recorded, bytes on the wire


def packet(number: int, length: int, wire: int | None = None) -> Packet:
    """A packet that tells its number; one second and one nanosecond after the one before."""
    data = (struct.pack("!I", number) + bytes((number + i) & 0xFF for i in range(length)))[:length]
    return 1_700_000_000_000_000_000 + number * 1_000_000_001, data, length if wire is None else wire


def pcap(
    packets: Sequence[Packet], order: str = "<", *, nanoseconds: bool = True, link: int = 1, snaplen: int = 262144
) -> bytes:
    """A classic pcap file."""
    magic, unit = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, link)
    for time, data, wire in packets:
        out += struct.pack(order + "IIII", time // 10**9, time % 10**9 // unit, len(data), wire) + data
    return out


class Pcapng:
    """A pcapng file, block after block."""

    def __init__(self, order: str = "<", *, version: tuple[int, int] = (1, 0), options: bytes = b"") -> None:
        self.order = order
        self.data = b""
        self.section(order, version=version, options=options)

    def section(self, order: str, *, version: tuple[int, int] = (1, 0), options: bytes = b"") -> Pcapng:
        self.order = order
        return self.block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, -1) + options)

    def block(self, kind: int, body: bytes, total: int | None = None, trailer: int | None = None) -> Pcapng:
        body += bytes(-len(body) % 4)
        total = len(body) + 12 if total is None else total
        trailer = total if trailer is None else trailer
        self.data += struct.pack(self.order + "II", kind, total) + body + struct.pack(self.order + "I", trailer)
        return self

    def option(self, code: int, value: bytes) -> bytes:
        return struct.pack(self.order + "HH", code, len(value)) + value + bytes(-len(value) % 4)

    def interface(self, link: int = 1, snaplen: int = 0, **options: Any) -> Pcapng:
        codes = {"name": 2, "description": 3, "resolution": 9, "filter": 11, "os": 12, "offset": 14}
        made = b""
        for name, value in options.items():
            if name == "offset":
                value = struct.pack(self.order + "q", value)
            made += self.option(codes[name], value)
        return self.block(1, struct.pack(self.order + "HHI", link, 0, snaplen) + made + bytes(4 if made else 0))

    def packet(self, one: Packet, interface: int = 0, *, ticks: int | None = None, options: bytes = b"") -> Pcapng:
        """An enhanced packet block; the time in microseconds unless in `ticks`."""
        time, data, wire = one
        ticks = time // 1000 if ticks is None else ticks
        fields = (interface, ticks >> 32, ticks & 0xFFFFFFFF, len(data), wire)
        return self.block(6, struct.pack(self.order + "IIIII", *fields) + data + bytes(-len(data) % 4) + options)

    def simple(self, one: Packet) -> Pcapng:
        return self.block(3, struct.pack(self.order + "I", one[2]) + one[1])

    def obsolete(self, one: Packet, interface: int = 0, drops: int = 0xFFFF) -> Pcapng:
        time, data, wire = one[0] // 1000, one[1], one[2]
        head = struct.pack(self.order + "HHIIII", interface, drops, time >> 32, time & 0xFFFFFFFF, len(data), wire)
        return self.block(2, head + data)

    def statistics(self, interface: int = 0, **counts: int) -> Pcapng:
        codes = {"received": 4, "dropped": 5, "accepted": 6, "os_dropped": 7, "delivered": 8}
        made = b"".join(self.option(codes[name], struct.pack(self.order + "Q", n)) for name, n in counts.items())
        return self.block(5, struct.pack(self.order + "III", interface, 0, 0) + made + bytes(4))


def read_all(file: Any, **options: Any) -> tuple[list[Packet], Recorded]:
    """All packets of a recording, which may be given as bytes: (ns or -1 without a time, bytes, wire length)."""
    found: list[Packet] = []
    with read(io.BytesIO(file) if isinstance(file, bytes) else file, **options) as recorded:
        for batch in recorded:
            assert 0 < len(batch) <= options.get("batch_size", 1 << 20)
            times = batch.timestamps
            utc = np.where(np.isnat(times), -1, times.view(np.int64)).tolist()
            found += zip(utc, map(bytes, batch), batch.wire_lengths.tolist(), strict=True)
    return found, recorded


def hear(data: bytes, **options: Any) -> tuple[list[Packet], str, str]:
    """Read what may be damaged: (packets that came, warnings, the error or "")."""
    found: list[Packet] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        error = ""
        try:
            with read(io.BytesIO(data), **options) as recorded:
                for batch in recorded:
                    times = batch.timestamps
                    utc = np.where(np.isnat(times), -1, times.view(np.int64)).tolist()
                    found += zip(utc, map(bytes, batch), batch.wire_lengths.tolist(), strict=True)
        except RecordedError as refused:
            error = str(refused)
    assert all(issubclass(one.category, RecordedWarning) for one in said), [str(one.message) for one in said]
    return found, " ".join(str(one.message) for one in said), error


def recording(frames: Sequence[bytes], times: Sequence[int] | None = None, wire: int = 0) -> bytes:
    """A pcap of frames; times in ns after START, by default a microsecond apart."""
    out = bytearray(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
    for i, one in enumerate(frames):
        at = START + (times[i] if times is not None else i * 1000)
        out += struct.pack("<IIII", at // 10**9, at % 10**9, len(one), wire or len(one)) + one
    return bytes(out)


START = 1_700_000_000_000_000_000  # ns since 1970
