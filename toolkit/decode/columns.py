# SPDX-License-Identifier: Apache-2.0
"""Columns: what the headers of many packets say, one array a field."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from toolkit.decode.fields import FIELDS
from toolkit.decode.gather import Bytes, check_packets
from toolkit.decode.headers import Headers
from toolkit.decode.layers import LINK, TRANSPORT
from toolkit.decode.text import cell, summary
from toolkit.errors import ArgumentError

if TYPE_CHECKING:
    from toolkit.tables.schema import Addresses

__all__ = ["Columns", "decode"]

Array = npt.NDArray[Any]

_SHOWN = 8  # packets in a repr


def decode(
    memory: Bytes, offsets: npt.ArrayLike, lengths: npt.ArrayLike, *, columns: Iterable[str] | None = None
) -> Columns:
    """Read the headers of many packets at once.

    memory: shape (size,) uint8, contiguous: a whole UMEM, or a whole file.
    offsets: shape (n,), any integer dtype, where each packet starts in it. lengths: the same, bytes of each packet.
    columns: names of the columns that are wanted, or one name; less is read when they are few. All when None.

    The headers are copied at once, each column is computed when it is first asked for: the result stays good when the
    packets are gone. Packets may hold anything; only a packet that does not lie inside of the memory, or an unknown
    column, raises ArgumentError.
    """
    if isinstance(columns, str):
        columns = (columns,)
    names = dict.fromkeys(FIELDS if columns is None else columns)
    depth = TRANSPORT if columns is None else _depth(names)
    starts, sizes = check_packets(memory, offsets, lengths)
    return Columns(Headers(memory, starts, sizes, depth), names)


class Columns:
    """The columns of n packets, each an array of length n: `columns["src_port"]`, or `columns.src_port`.

    `len()` is the number of packets, iteration and `in` go over the names. Numbers are in host order and signed, and -1
    where a packet does not have the field; IPv6 addresses are rows of 16 bytes. `Columns.explain()` lists all of them.
    Every array is a copy and the caller's own, but the same one each time: what is written into it stays.
    """

    def __init__(self, headers: Headers, names: dict[str, None]) -> None:
        """Made by decode(). names: an ordered set, so that to look for one does not mean to go through all."""
        self._headers = headers
        self._names = names
        self._ready: dict[str, Array] = {}

    @staticmethod
    def explain() -> dict[str, str]:
        """Every column there is: its name, and what it says, its dtype among it."""
        return {field.name: field.text for field in FIELDS.values()}

    def __getitem__(self, name: str) -> Array:
        """Return the column, computed when it is first asked for."""
        column = self._ready.get(name)
        if column is None:
            if name not in self._names:
                raise _unknown(name, self._names)
            column = self._ready[name] = FIELDS[name].compute(self._headers)
        return column

    def __getattr__(self, name: str) -> Array:
        """Return the column of that name."""
        # Private names first: while an object is unpickled it has none of its own yet.
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"no column {name!r} here; there are {', '.join(self.__dict__.get('_names', []))}.")
        return self[name]

    def __dir__(self) -> list[str]:
        """Offer the columns for completion."""
        return [*super().__dir__(), *self._names]

    def __len__(self) -> int:
        """Return the number of packets."""
        return len(self._headers.length)

    def __iter__(self) -> Iterator[str]:
        """Go over the names."""
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        """Say whether there is a column of that name."""
        return name in self._names

    def keys(self) -> list[str]:
        """Return the names of the columns, in the order asked for, or else of the headers."""
        return list(self._names)

    def to_dict(self) -> dict[str, Array]:
        """Return all columns by name."""
        return {name: self[name] for name in self._names}

    def to_pandas(self, *, addresses: Addresses = "text") -> Any:
        """Return a pandas.DataFrame, a row for each packet: see Batch.to_pandas()."""
        from toolkit.tables.cells import column_cells
        from toolkit.tables.data_frame import data_frame

        return data_frame(column_cells(self, addresses))

    def to_arrow(self, *, addresses: Addresses = "text") -> Any:
        """Return a pyarrow.RecordBatch, a row for each packet: see Batch.to_arrow()."""
        from toolkit.tables.arrow import record_batch
        from toolkit.tables.cells import column_cells

        return record_batch(column_cells(self, addresses))

    def __repr__(self) -> str:
        """Show the first packets in words, or the names when too few columns are there to do so."""
        title = f"<Columns: {len(self)} packet{'' if len(self) == 1 else 's'}, {len(self._names)} columns>"
        if len(self._names) < len(FIELDS):
            return f"{title[:-1]}: {', '.join(self._names)}>"
        lines = [f"  {summary(self, row)}" for row in range(min(len(self), _SHOWN))]
        more = [f"  … and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return "\n".join([title, *lines, *more])

    def _repr_html_(self) -> str:
        """Show the first packets as a table of the columns that say something."""
        rows = range(min(len(self), _SHOWN))
        table = {name: [cell(self, name, row) for row in rows] for name in self._names}
        table = {name: cells for name, cells in table.items() if any(cells)}
        head = "".join(f"<th>{name}</th>" for name in table)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cells[row])}</td>" for cells in table.values()) + "</tr>"
            for row in rows
        )
        note = f"{len(self)} packets, {len(self._names)} columns"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{note}</p>"


def _depth(names: Iterable[str]) -> int:
    """How deep these columns look into the packets."""
    depth = LINK
    for name in names:
        if name not in FIELDS:
            raise _unknown(name, FIELDS)
        depth = max(depth, FIELDS[name].depth)
    return depth


def _unknown(name: object, known: Iterable[str]) -> ArgumentError:
    return ArgumentError(f"no column {name!r}. There are: {', '.join(known)}.")
