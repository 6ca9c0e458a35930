# SPDX-License-Identifier: Apache-2.0
"""Cells: packets as the columns of a table, in plain NumPy: what Arrow, pandas and Parquet have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.errors import ArgumentError
from toolkit.tables.address_text import Numbers, Text, octets
from toolkit.tables.schema import IP, MACS, NUMBERS, PACKET, WHOLE, Addresses, names

__all__ = ["Cells", "PacketTable", "column_cells", "length_of", "packet_cells"]

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]

_DTYPES = {name: np.dtype(dtype) for name, dtype in NUMBERS.items()}
_UNKNOWN_RULE = 0xFFFFFFFF  # the value in Batch.rule_numbers where the rule is not known


class DecodedColumns(Protocol):
    """Decoded columns by name: toolkit.decode.Columns, as far as tables need it."""

    def __getitem__(self, name: str) -> Array:
        """Return a column: shape (n,), or (n, 16) uint8 for IPv6 addresses."""

    def __contains__(self, name: object) -> bool:
        """Return whether there is a column of that name."""

    def keys(self) -> list[str]:
        """Return the names."""

    def to_dict(self) -> dict[str, Array]:
        """Return all columns by name."""

    def having(self, name: str) -> Flags | None:
        """Return which packets have a value in a column: shape (n,), not to be changed; None: all of them.

        It is the same array for all columns of one header.
        """


class Cells(NamedTuple):
    """One column of a table.

    values: shape (n,), numbers of any type, datetime64[ns] (UTC) or bool; shape (n, 16), uint8; Text; or Numbers.
    present: shape (n,), bool, which packets have it; None: all. nullable: whether other packets may not have it.
    kind: "number", "time", "text", "octets" (bytes in a Text), "address" (16 bytes); of addresses as text, which are
    Numbers still, "written", or "category" where the table has each distinct one once.
    dtype: the type that the numbers have in the table; None: that of `values`.
    """

    name: str
    values: Array | Text | Numbers
    present: Flags | None
    nullable: bool
    kind: str = "number"
    dtype: np.dtype[Any] | None = None


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
        raise ArgumentError(f"there is no column {unknown[0]!r}{more}. Next step: name one of {', '.join(known)}.")
    if wanted is None:
        packets.columns.to_dict()  # all at once is quicker
    return [_packet_cell(packets, name, addresses) for name in chosen]


def column_cells(columns: DecodedColumns, addresses: Addresses = "text") -> list[Cells]:
    """Return decoded columns, including the length, as those of a table."""
    _checked(addresses)
    columns.to_dict()  # all at once is quicker
    length = [_length(columns)] if "length" in columns else []
    return length + [_column_cell(columns, name, addresses) for name in names(columns.keys(), addresses)]


def length_of(values: Array | Text | Numbers) -> int:
    """Return how many rows a column has."""
    if isinstance(values, Text):
        return len(values.offsets) - 1
    return len(values.ip4) if isinstance(values, Numbers) else len(values)


def _checked(addresses: Addresses) -> Addresses:
    if addresses not in ("text", "dictionary", "binary"):
        raise cannot_be("addresses", addresses, '"text", "dictionary" or "binary"')
    return addresses


def _packet_cell(packets: PacketTable, name: str, addresses: Addresses) -> Cells:
    if name not in PACKET and name != "head":
        return _column_cell(packets.columns, name, addresses)
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
    assert packets.head is not None
    kept = np.minimum(packets.columns["length"], packets.head.shape[1])
    return Cells(name, octets(packets.head, kept), None, False, "octets")


def _length(columns: DecodedColumns) -> Cells:
    return Cells("length", columns["length"].astype(PACKET["length"]), None, False)


def _column_cell(columns: DecodedColumns, name: str, addresses: Addresses) -> Cells:
    """Return one column of toolkit.decode without -1, in the type that schema.py gives it."""
    column = columns[name]
    if name in WHOLE:
        return Cells(name, column, None, False)
    present = columns.having(name)
    if column.ndim == 2:
        return Cells(name, column, present, True, "address")
    if (dtype := _DTYPES.get(name)) is not None:
        return Cells(name, column, present, True, dtype=dtype)
    if addresses == "binary":
        return Cells(name, column, present, True)
    kind = "written" if addresses == "text" else "category"
    inside = IP.get(name)
    if present is None or inside is None or inside not in columns:
        return Cells(name, Numbers(column, mac=name in MACS), present, True, kind)
    is6 = columns.having(inside)
    if is6 is None:
        is6 = np.ones(len(column), dtype=np.bool_)
    elif not is6.any():
        return Cells(name, Numbers(column), present, True, kind)
    return Cells(name, Numbers(column, columns[inside], is6), columns.having("ip_version"), True, kind)


def _nullable(name: str, values: Array | Text, present: Flags, kind: str = "number") -> Cells:
    return Cells(name, values, None if present.all() else present, True, kind)
