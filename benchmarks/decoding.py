# SPDX-License-Identifier: Apache-2.0
"""Decode headers to columns, tables and flow counters: packets/s on one core, from packets in memory."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from toolkit.batch.batch import Batch
from toolkit.capture.parquet import ParquetSink
from toolkit.flows import Flows
from toolkit.packets.frames import udp_frame

__all__ = ["rates"]

SIZES = (512, 1024, 2048)
_FRAME = 2048  # bytes of a frame, as in a UMEM, where packets are apart
_PARQUET = 1 << 18  # packets of the file

Rates = dict[str, dict[str, float]]


def _works(batch: Batch) -> dict[str, Callable[[], object]]:
    flows = Flows()
    works: dict[str, Callable[[], object]] = {
        "decode, all columns": lambda: batch.decode().to_dict(),
        "decode, ports and addresses": lambda: batch.decode(["ip_src", "ip_dst", "src_port", "dst_port"]).to_dict(),
        "flow counters": lambda: flows.add(batch),
    }
    with contextlib.suppress(ImportError):
        import pyarrow  # noqa: F401 (its absence leaves two out)

        works["to_arrow()"] = lambda: batch.to_arrow()
        works['to_arrow(addresses="binary")'] = lambda: batch.to_arrow(addresses="binary")
    return works


def rates(seconds: float) -> Rates:
    """Return packets/s by the work and the packets in a batch: the best run within `seconds` each.

    The traffic is ordinary: of eight packets four are TCP, one in 802.1Q, two UDP, one of them over IPv6, one ICMP echo
    and one UDP to 4789 that carries VXLAN; some hundred flows.
    """
    found: Rates = {}
    for size in SIZES:
        batch = _batch(size)
        works = _works(batch)
        for name, work in works.items():
            found.setdefault(name, {})[str(size)] = size / _best(work, seconds)
        if "to_arrow()" in works:
            found.setdefault("Parquet file, zstd", {})[str(size)] = _parquet(batch)
    return found


def _best(work: Callable[[], object], seconds: float) -> float:
    """Return the seconds of the fastest run."""
    best, end = float("inf"), time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - began)
    return best


def _parquet(batch: Batch) -> float:
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        with ParquetSink(Path(directory) / "x.parquet") as sink:
            for _ in range(_PARQUET // len(batch)):
                sink.write(batch)
        return sink.written / (time.perf_counter() - began)


def _batch(size: int) -> Batch:
    packets = list(itertools.islice(_packets(), size))
    memory = np.zeros(size * _FRAME, dtype=np.uint8)
    descs = np.zeros((size, 2), dtype=np.uint64)
    for number, packet in enumerate(packets):
        at = number * _FRAME + 256
        memory[at : at + len(packet)] = np.frombuffer(packet, dtype=np.uint8)
        descs[number] = at, len(packet)
    times = time.time_ns() + np.arange(size, dtype=np.int64) * 700
    return Batch(None, descs, memory=memory, utc_ns=times)


def _packets() -> itertools.chain[bytes]:
    def eight(turn: int) -> list[bytes]:
        port = 40000 + turn % 40
        tcp = [_tcp(bytes(size), port + at, turn) for at, size in enumerate((0, 600, 1400))]
        tagged = tcp[1][:12] + b"\x81\x00\x00\x07" + tcp[1][12:]
        udp = udp_frame(bytes(64), source_port=port, destination_port=53)
        udp6 = udp_frame(bytes(300), source_port=port, destination_port=443, destination_ip="2001:db8::1")
        vxlan = udp_frame(struct.pack("!II", 8 << 24, 77 << 8) + tcp[0], source_port=port, destination_port=4789)
        echo = _ip(1, struct.pack("!BBHHH", 8, 0, 0, turn & 0xFFFF, 1) + bytes(56), turn)
        return [*tcp, tagged, udp, udp6, vxlan, echo]

    return itertools.chain.from_iterable(map(eight, itertools.count()))


def _tcp(payload: bytes, port: int, turn: int) -> bytes:
    header = struct.pack("!HHIIBBHHH", port, 443, turn, turn, 8 << 4, 0x18, 65535, 0, 0) + bytes(12)
    return _ip(6, header + payload, turn)


def _ip(protocol: int, body: bytes, turn: int) -> bytes:
    source, target = socket.inet_aton(f"192.0.2.{turn % 9 + 1}"), socket.inet_aton("192.0.2.200")
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), turn & 0xFFFF, 0x4000, 64, protocol, 0, source, target
    )
    return bytes.fromhex("0200000000010200000000020800") + header + body
