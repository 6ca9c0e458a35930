# SPDX-License-Identifier: Apache-2.0
"""Cells: packets as the columns of a table, in plain NumPy: what Arrow, pandas and Parquet have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from toolkit.errors import ArgumentError
from toolkit.tables.address_text import Text, ip4_text, ip_text, mac_text, octets
from toolkit.tables.schema import IP, MACS, NUMBERS, PACKET, WHOLE, Addresses, names

__all__ = ["Cells", "PacketTable", "column_cells", "packet_cells"]

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]

_UNKNOWN_RULE = 0xFFFFFFFF  # the value in Batch.rule_numbers where the rule is not known


class DecodedColumns(Protocol):
    """Decoded columns by name: toolkit.decode.Columns, as far as tables need it."""

    def __getitem__(self, name: str) -> Array:
        """Return a column: shape (n,), or (n, 16) uint8 for IPv6 addresses."""

    def __contains__(self, name: object) -> bool:
        """Return whether there is a column of that name."""

    def keys(self) -> list[str]:
        """Return the names."""


@dataclass(frozen=True)
class Cells:
    """One column of a table.

    values: shape (n,), numbers of any type, datetime64[ns] (UTC) or bool; shape (n, 16), uint8; or Text.
    present: shape (n,), bool, which packets have it; None: all. nullable: whether other packets may not have it.
    kind: "number", "time", "text", "octets" (bytes in a Text) or "address" (16 bytes).
    """

    name: str
    values: Array | Text
    present: Flags | None
    nullable: bool
    kind: str = "number"


@dataclass(frozen=True)
class PacketTable:
    """What a table of packets is made from; arrays of shape (n,) unless said otherwise.

    columns: their decoded headers. times: datetime64[ns], UTC, NaT where there is none. head: (n, width), uint8, or
    None.
    """

    columns: DecodedColumns
    times: npt.NDArray[np.datetime64]
    wire_lengths: Array
    queues: Array
    rule_numbers: Array
    head: npt.NDArray[np.uint8] | None = None


def packet_cells(
    packets: PacketTable, wanted: Iterable[str] | None = None, addresses: Addresses = "text"
) -> list[Cells]:
    """Return the columns of a table of packets.

    wanted: names, in any order; None: all. ArgumentError for an unknown name.
    """
    known = [*PACKET, *names(packets.columns.keys(), _checked(addresses))] + ["head"] * (packets.head is not None)
    if isinstance(wanted, str):
        wanted = (wanted,)
    chosen = known if wanted is None else list(dict.fromkeys(wanted))
    if unknown := [name for name in chosen if name not in known]:
        more = " (the first bytes of a packet: set their number with head=)" if "head" in unknown else ""
        raise ArgumentError(f"no column {unknown[0]!r}{more}. There are: {', '.join(known)}.")
    return [_packet_cell(packets, name, addresses) for name in chosen]


def column_cells(columns: DecodedColumns, addresses: Addresses = "text") -> list[Cells]:
    """Return decoded columns, including the length, as those of a table."""
    _checked(addresses)
    length = [_length(columns)] if "length" in columns else []
    return length + [_column_cell(columns, name, addresses) for name in names(columns.keys(), addresses)]


def _checked(addresses: Addresses) -> Addresses:
    if addresses not in ("text", "binary"):
        raise ArgumentError(f"addresses are 'text' or 'binary', not {addresses!r}.")
    return addresses


def _packet_cell(packets: PacketTable, name: str, addresses: Addresses) -> Cells:
    if name == "time":
        known = ~np.isnat(packets.times)
        return Cells(name, packets.times, None if known.all() else known, True, "time")
    if name == "length":
        return _length(packets.columns)
    if name == "wire_length":
        return Cells(name, packets.wire_lengths.astype(PACKET[name], copy=False), None, False)
    if name == "queue":
        return Cells(name, packets.queues.astype(PACKET[name]), None, False)
    if name == "rule":
        return _nullable(name, packets.rule_numbers.astype(PACKET[name]), packets.rule_numbers != _UNKNOWN_RULE)
    if name == "head":
        assert packets.head is not None
        kept = np.minimum(packets.columns["length"], packets.head.shape[1])
        return Cells(name, octets(packets.head, kept), None, False, "octets")
    return _column_cell(packets.columns, name, addresses)


def _length(columns: DecodedColumns) -> Cells:
    return Cells("length", columns["length"].astype(PACKET["length"]), None, False)


def _column_cell(columns: DecodedColumns, name: str, addresses: Addresses) -> Cells:
    """Return one column of toolkit.decode without -1, in the type that schema.py gives it."""
    column = columns[name]
    if name in NUMBERS:
        return _nullable(name, column.astype(NUMBERS[name]), column >= 0)
    if name in WHOLE:
        return Cells(name, column, None, False)
    if column.ndim == 2:
        present = np.asarray(columns["ip_version"] == 6 if "ip_version" in columns else column.any(axis=1))
        return _nullable(name, column, present, "address")
    if addresses == "text":
        return _text(columns, name)
    return _nullable(name, column.astype(np.int64), column >= 0)


def _text(columns: DecodedColumns, name: str) -> Cells:
    column = columns[name]
    present = column >= 0
    inside = IP.get(name)
    is6 = None
    if inside is not None and inside in columns and "ip_version" in columns:
        is6 = columns["ip_version"] == 6
        present |= is6
    if not present.any():
        return Cells(name, Text(np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int32)), present, True, "text")
    if name in MACS:
        text = mac_text(column)
    elif is6 is None or inside is None or not is6.any():
        text = ip4_text(column)
    else:
        text = ip_text(column, columns[inside], is6)
    return _nullable(name, text, present, "text")


def _nullable(name: str, values: Array | Text, present: Flags, kind: str = "number") -> Cells:
    return Cells(name, values, None if present.all() else present, True, kind)
