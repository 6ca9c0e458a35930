# SPDX-License-Identifier: Apache-2.0
"""Batches over memory, and readers of capture files that have nothing to do with what wrote them."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toolkit.batch.batch import Batch
from toolkit.capture import Capture
from toolkit.capture.output import Output
from toolkit.errors import SystemCallError

__all__ = [
    "DNS",
    "Block",
    "batch_of",
    "blocks_of",
    "fill",
    "frames",
    "large_pieces",
    "numbers",
    "packets_of",
    "pcap_of",
    "until_it_fails",
]

EPOCH = 1_700_000_000_123_456_789  # ns since 1970


def frames(count: int, length: int = 60, first: int = 0) -> list[bytes]:
    """Packets that tell their number."""
    return [
        (struct.pack("!I", first + i) + bytes((i + k) & 0xFF for k in range(length)))[:length] for i in range(count)
    ]


def batch_of(packets: list[bytes], *, times: list[int] | None = None, gap: int = 0, queue: int = 0) -> Batch:
    """A Batch of these packets, `gap` bytes apart in its memory. times: ns since 1970; -1: none."""
    memory = np.frombuffer(bytes(gap) + b"".join(one + bytes([0xEE] * gap) for one in packets) or b"\0", np.uint8)
    lengths = np.array([len(one) for one in packets], dtype=np.uint64)
    descs = np.empty((len(packets), 2), dtype=np.uint64)
    descs[:, 0] = gap + np.cumsum(lengths + np.uint64(gap)) - lengths - np.uint64(gap)
    descs[:, 1] = lengths
    utc = np.array(times if times is not None else [EPOCH + i for i in range(len(packets))], dtype=np.int64)
    utc[utc == -1] = np.iinfo(np.int64).min
    return Batch(None, descs, queue=queue, memory=memory, utc_ns=utc)


class Block(NamedTuple):
    """One block of a pcapng file."""

    kind: int
    body: bytes


def blocks_of(data: bytes) -> list[Block]:
    """Every block of a pcapng file of this machine's byte order; AssertionError where one is not whole."""
    found, at = [], 0
    while at < len(data):
        kind, total = struct.unpack_from("=II", data, at)
        assert total % 4 == 0
        assert total >= 12
        assert at + total <= len(data), f"cut at {at}"
        assert struct.unpack_from("=I", data, at + total - 4)[0] == total
        found.append(Block(kind, data[at + 8 : at + total - 4]))
        at += total
    return found


def packets_of(file: Path | bytes) -> list[tuple[int, int, bytes]]:
    """Time (ns), length on the wire and bytes of every packet of a pcapng file."""
    data = file if isinstance(file, bytes) else file.read_bytes()
    found = []
    for block in blocks_of(data):
        if block.kind == 6:
            interface, high, low, captured, original = struct.unpack_from("=IIIII", block.body)
            assert interface == 0
            assert not any(block.body[20 + captured : 20 + captured + (-captured % 4)]), "padding is not zero"
            found.append((high << 32 | low, original, block.body[20 : 20 + captured]))
    return found


def pcap_of(file: Path) -> list[tuple[int, int, bytes]]:
    """The same of a classic pcap file."""
    data = file.read_bytes()
    magic, major, minor, zone, figures, snaplen, link = struct.unpack_from("=IHHiIII", data)
    assert (magic, major, minor, zone, figures, link) == (0xA1B23C4D, 2, 4, 0, 0, 1)
    found, at = [], 24
    while at < len(data):
        seconds, fraction, captured, original = struct.unpack_from("=IIII", data, at)
        assert fraction < 10**9
        assert captured <= snaplen
        assert at + 16 + captured <= len(data)
        found.append((seconds * 10**9 + fraction, original, data[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return found


def numbers(path: Path) -> list[int]:
    """What frames() wrote into the packets of a pcapng file."""
    return [struct.unpack("!I", data[:4])[0] for _, _, data in packets_of(path)]


def fill(capture: Capture, count: int, first: int = 0) -> None:
    """Write `count` packets that tell their numbers."""
    capture.write(batch_of(frames(count, first=first)))


def until_it_fails(capture: Capture, count: int = 100) -> SystemCallError:
    """Write packets until a write is refused; that refusal."""
    for i in range(100_000):
        try:
            fill(capture, count, i * count)
        except SystemCallError as failure:
            return failure
        time.sleep(0.001)
    raise AssertionError("it did not fail")


DNS = bytes.fromhex("020000000001 020000000002 0800 45000030 00000000 4011 0000 0a000001 0a000002 1000 0035 001c 0000")


def large_pieces(output: Output, count: int) -> bytes:
    """Write pieces of 1 MB, which lie in memory as in the file."""
    memory = np.frombuffer(mmap.mmap(-1, 1 << 20), dtype=np.uint8)
    memory[:] = np.arange(memory.size, dtype=np.uint32).view(np.uint8)[: memory.size]
    for _ in range(count):
        output.write([memory])
    return memory.tobytes() * count
