# SPDX-License-Identifier: Apache-2.0
"""A Batch of every kind of packet, and what a table of it must hold, worked out one packet at a time."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import numpy as np

from tests.helpers.decoding import lay_out
from tests.helpers.scapy_packets import PACKETS
from toolkit.batch.batch import Batch
from toolkit.tables.schema import IP, MACS

T0 = 1_800_000_000_123_456_789  # ns since 1970
NAT = np.iinfo(np.int64).min  # how NumPy writes "no time"


def batch_of(packets: list[bytes], *, times: Any = None, **options: Any) -> Batch:
    memory, offsets, lengths = lay_out(packets)
    descs = np.stack([offsets, lengths.astype(np.uint64)], axis=1)
    utc = np.arange(len(packets), dtype=np.int64) * 1001 + T0 if times is None else np.array(times, dtype=np.int64)
    wire = options.pop("wire_lengths", lengths + 1)
    return Batch(None, descs, memory=memory, utc_ns=utc, wire_lengths=wire, queue=3, **options)


ALL = [bytes(packet) for packet in PACKETS.values()]


def expected(batch: Batch, addresses: str) -> list[dict[str, Any]]:
    """What a table must hold, written from the columns one packet at a time."""
    columns = batch.decode().to_dict()
    rows = []
    for row in range(len(batch)):
        length = int(columns["length"][row])
        wanted: dict[str, Any] = {"time_ns": T0 + 1001 * row, "length": length, "wire_length": length + 1, "queue": 3}
        wanted["rule"] = None
        for name, column in columns.items():
            value = column[row]
            if name == "length" or (addresses != "binary" and name in ("ip6_src", "ip6_dst")):
                continue
            if name in ("ip6_src", "ip6_dst"):
                wanted[name] = value.tobytes() if columns["ip_version"][row] == 6 else None
            elif value.dtype == np.bool_:
                wanted[name] = bool(value)
            elif addresses != "binary" and name in IP:
                wanted[name] = str(ipaddress.IPv4Address(int(value))) if value >= 0 else None
                if (name6 := IP[name]) and columns["ip_version"][row] == 6:
                    wanted[name] = hextets(columns[name6][row].tobytes())
            elif addresses != "binary" and name in MACS:
                wanted[name] = int(value).to_bytes(6, "big").hex(":") if value >= 0 else None
            else:
                wanted[name] = int(value) if value >= 0 else None
        rows.append(wanted)
    return rows


def hextets(raw: bytes) -> str:
    """As RFC 5952 has it: by libc if the last 32 bits are in dots, else by the standard library.

    str() of an IPv6Address writes dots from Python 3.13 on; the private method does not in any version.
    """
    if raw.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET6, raw)
    version6: Any = ipaddress.IPv6Address
    text: str = version6._string_from_ip_int(int.from_bytes(raw, "big"))
    return text
