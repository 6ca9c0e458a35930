# SPDX-License-Identifier: Apache-2.0
"""Columns, the result of decode(): the header fields of many packets, one array a field."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.decode.field import compute_all
from toolkit.decode.gather import Bytes, check_packets
from toolkit.decode.headers import Headers
from toolkit.decode.layers import LINK, TRANSPORT
from toolkit.decode.protocol_columns import FIELDS
from toolkit.decode.text import cell, summary
from toolkit.errors import ArgumentError

if TYPE_CHECKING:
    from toolkit.tables.schema import Addresses

__all__ = ["Columns", "decode"]

Array = npt.NDArray[Any]

_SHOWN = 8  # packets in a repr
_ALL: dict[str, None] = dict.fromkeys(FIELDS)  # not to be changed


def decode(
    memory: Bytes, offsets: npt.ArrayLike, lengths: npt.ArrayLike, *, columns: Iterable[str] | None = None
) -> Columns:
    """Decode the headers of many packets at once.

    memory: shape (size,), uint8, contiguous: a whole UMEM, or a whole file.
    offsets, lengths: shape (n,), any integer dtype: where each packet starts in memory, and its bytes.
    columns: names of the wanted columns, or one name; fewer columns may need fewer headers. None: all columns.

    The headers are copied here, and each column is computed at first use: the result stays valid when the packets are
    gone. Packets may contain anything. ArgumentError for an unknown column, or a packet that is not inside the memory.
    """
    if isinstance(columns, str):
        columns = (columns,)
    names = _ALL if columns is None else dict.fromkeys(columns)
    depth = TRANSPORT if columns is None else _depth(names)
    starts, sizes = check_packets(memory, offsets, lengths)
    return Columns(Headers(memory, starts, sizes, depth), names)


class Columns:
    """The columns of n packets, each an array of length n: `columns["src_port"]`, or `columns.src_port`.

    Not thread-safe. `len()` is the number of packets; iteration and `in` use the names. Numbers are in host order and
    signed, -1 where a packet does not have the field; IPv6 addresses have shape (n, 16), uint8. `Columns.explain()`
    describes all columns. A column is the same array each time, and a copy of the packets' bytes.
    """

    def __init__(self, headers: Headers, names: dict[str, None]) -> None:
        """Made by decode(). names: an ordered set of column names."""
        self._headers = headers
        self._names = names
        self._ready: dict[str, Array] = {}

    @staticmethod
    def explain() -> dict[str, str]:
        """Return a description, with the dtype, of every column by its name."""
        return {field.name: field.text for field in FIELDS.values()}

    def __getitem__(self, name: str) -> Array:
        """Return a column, computed at first use. ArgumentError when there is none of that name."""
        column = self._ready.get(name)
        if column is None:
            if name not in self._names:
                raise _unknown(name, self._names)
            column = self._ready[name] = FIELDS[name].compute(self._headers)
        return column

    def __getattr__(self, name: str) -> Array:
        """Return the column of that name."""
        # Private names first: an object that is being unpickled does not have `_names` yet.
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
        """Iterate over the names."""
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        """Return whether there is a column of that name."""
        return name in self._names

    def keys(self) -> list[str]:
        """Return the names of the columns: in the order given to decode(), else in the order of the headers."""
        return list(self._names)

    def to_dict(self) -> dict[str, Array]:
        """Return all columns by name; quicker than to ask for one after the other."""
        ready, names = self._ready, self._names
        if len(ready) < len(names):
            missing = tuple(name for name in names if name not in ready) if ready else tuple(names)
            ready.update(compute_all(self._headers, missing))
        return {name: ready[name] for name in names}

    def having(self, name: str) -> npt.NDArray[np.bool_] | None:
        """Return which packets have a value in a column: shape (n,), bool, not to be changed; None: all of them.

        Columns of the same header share one array.
        """
        mask = FIELDS[name].has
        if not mask:
            return None
        found = self._headers.share(mask)
        if found.every:
            return None
        return self._headers.nobody if found.mask is None else found.mask

    def to_pandas(self, *, addresses: Addresses = "text") -> Any:
        """Return a pandas.DataFrame, one row a packet: see Batch.to_pandas()."""
        from toolkit.tables.cells import column_cells
        from toolkit.tables.data_frame import data_frame

        return data_frame(column_cells(self, addresses))

    def to_arrow(self, *, addresses: Addresses = "text") -> Any:
        """Return a pyarrow.RecordBatch, one row a packet: see Batch.to_arrow()."""
        from toolkit.tables.arrow import record_batch
        from toolkit.tables.cells import column_cells

        return record_batch(column_cells(self, addresses))

    def __repr__(self) -> str:
        """Show the first packets as text, or only the names when not all columns are there."""
        title = f"<Columns: {len(self)} packet{'' if len(self) == 1 else 's'}, {len(self._names)} columns>"
        if len(self._names) < len(FIELDS):
            return f"{title[:-1]}: {', '.join(self._names)}>"
        lines = [f"  {summary(self, row)}" for row in range(min(len(self), _SHOWN))]
        more = [f"  … and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return "\n".join([title, *lines, *more])

    def _repr_html_(self) -> str:
        """Show the first packets as a table of the columns that are not empty."""
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
    """Return which headers these columns need: LINK, NETWORK or TRANSPORT."""
    depth = LINK
    for name in names:
        if name not in FIELDS:
            raise _unknown(name, FIELDS)
        depth = max(depth, FIELDS[name].depth)
    return depth


def _unknown(name: object, known: Iterable[str]) -> ArgumentError:
    return ArgumentError(f"there is no column {name!r}. Next step: name one of {', '.join(known)}.")
