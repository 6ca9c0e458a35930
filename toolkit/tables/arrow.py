# SPDX-License-Identifier: Apache-2.0
"""Columns as an Arrow record batch, which uses NumPy's memory without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit.abi.shared_library import importing
from toolkit.errors import LibraryError
from toolkit.tables.address_text import Numbers, Text, ip6_text, joined
from toolkit.tables.cells import Cells, length_of
from toolkit.tables.schema import IP, MACS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["pyarrow", "record_batch", "with_text"]

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
_Form = tuple[
    str, str, "np.dtype[Any] | None", bool
]  # the name, the kind, the type in NumPy, whether any may be missing

_BOOL = np.dtype(np.bool_)
_SAMPLE = 64  # rows that say whether most addresses are distinct


def pyarrow(what: str) -> Any:
    """Import pyarrow. LibraryError, which says how to install it for `what`, when that fails."""
    missing = f"{what} needs pyarrow. Next step: `pip install pyarrow` (in a checkout: scripts/setup --tables)."
    with importing("pyarrow", LibraryError(missing)):
        import pyarrow as pa
    return pa


def record_batch(columns: Sequence[Cells]) -> pa.RecordBatch:
    """Return the columns as a pyarrow.RecordBatch; its schema depends on the columns' names only, not on the values."""
    pa = pyarrow("to_arrow()")
    made = _Arrays(pa, length_of(columns[0].values) if columns else 0)
    schema, kinds = _schema(tuple([_form(column) for column in columns]))
    arrays: list[Any] = [None] * len(columns)
    numbers: dict[Any, list[int]] = {}  # positions of columns of numbers, by their type
    written: dict[bool, list[int]] = {False: [], True: []}  # of addresses of IP; of Ethernet
    for at, column in enumerate(columns):
        values, kind = column.values, kinds[at]
        if not made.any(column.present):
            arrays[at] = pa.nulls(made.n, kind)
        elif isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype is not _BOOL:
            numbers.setdefault(column.dtype or values.dtype, []).append(at)
        elif isinstance(values, Numbers) and column.kind == "written":
            written[values.mac].append(at)
        else:
            arrays[at] = made.array(column, kind)
    for dtype, places in numbers.items():
        made.numbers(dtype, places, columns, kinds, arrays)
    for places in filter(None, written.values()):
        made.written(places, columns, arrays)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _encoded(addresses: Numbers) -> tuple[Array, Text]:
    """Return the index of each address, int32, anything where there is none; and the distinct addresses as text."""
    pa = pyarrow("to_arrow()")

    def distinct(values: Array, kind: Any, present: Flags | None) -> tuple[Array, Any]:
        validity = None if present is None else _bits(pa, present)
        buffers = [validity, pa.py_buffer(np.ascontiguousarray(values))]
        found = pa.Array.from_buffers(kind, len(values), buffers).dictionary_encode()
        return np.frombuffer(found.indices.buffers()[1], np.int32, len(values)), found.dictionary

    present = addresses.ip4 >= 0
    index, found = distinct(addresses.ip4, pa.int64(), None if present.all() else present)
    text = Numbers(found.to_numpy(), mac=addresses.mac).text()
    if addresses.ip6 is not None and addresses.is6 is not None:
        rows = np.flatnonzero(addresses.is6)
        of_six, six = distinct(addresses.ip6[rows], pa.binary(16), None)
        index = index.copy()
        index[rows] = of_six + np.int32(len(found))
        text = joined(text, ip6_text(np.frombuffer(six.buffers()[1], np.uint8).reshape(-1, 16)[: len(six)]))
    return index, text


def with_text(table: pa.Table) -> pa.Table:
    """Return a table of packets whose addresses are "binary" with the columns that addresses="dictionary" makes.

    The more rows, the cheaper: each distinct address of the table is written once, and each column has one dictionary.
    """
    pa = pyarrow("Parquet")
    names, arrays = [], []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        if name in IP.values():
            continue
        names.append(name)
        inside = IP.get(name)
        if name in MACS or name in IP:
            column = _with_text(pa, column, table[inside] if inside in table.schema.names else None, name in MACS)
        arrays.append(column)
    return pa.table(arrays, names=names)


def _with_text(pa: Any, ip4: Any, ip6: Any, mac: bool) -> Any:
    n, present, six, is6 = len(ip4), _present(ip4), None, None
    if ip6 is not None and ip6.null_count < n:
        is6 = _present(ip6)
        six = np.frombuffer(pa.concat_arrays(ip6.chunks).buffers()[1], np.uint8)[: 16 * n].reshape(n, 16)
        present = present | is6
    if not present.any():
        return pa.nulls(n, pa.dictionary(pa.int32(), pa.string()))
    numbers = pa.concat_arrays(ip4.chunks).fill_null(-1).to_numpy(zero_copy_only=False)
    index, text = _encoded(Numbers(numbers, six, is6, mac))
    validity = None if present.all() else _bits(pa, present)
    indices = pa.Array.from_buffers(pa.int32(), n, [validity, pa.py_buffer(index)])
    return pa.DictionaryArray.from_arrays(indices, _strings(pa, text))


def _present(column: Any) -> Flags:
    found: Flags = column.is_valid().to_numpy()
    return found


class _Arrays:
    """Makes the arrays of one record batch of n rows; what several columns need is made once."""

    def __init__(self, pa: Any, n: int) -> None:
        self._pa = pa
        self.n = n
        self._bits: dict[int, tuple[Any, int]] = {}  # validity by the id of the mask, and how many are missing

    def any(self, present: Flags | None) -> bool:
        """Return whether any row has a value."""
        return self.n > 0 if present is None else self._validity(present)[1] < self.n

    def _validity(self, present: Flags | None) -> tuple[Any, int]:
        """Return the bitmap of a mask, and how many rows are missing."""
        if present is None:
            return None, 0
        found = self._bits.get(id(present))
        if found is None:
            found = self._bits[id(present)] = _bits(self._pa, present), self.n - int(np.count_nonzero(present))
        return found

    def array(self, column: Cells, kind: Any) -> Any:
        """Return one column as an Arrow array over the same buffers: validity bitmap, offsets, values."""
        pa, values = self._pa, column.values
        validity, missing = self._validity(column.present)
        if isinstance(values, Numbers):
            index, text = _encoded(values)
            indices = pa.Array.from_buffers(pa.int32(), self.n, [validity, pa.py_buffer(index)], missing)
            return pa.DictionaryArray.from_arrays(indices, _strings(pa, text))
        if isinstance(values, Text):
            buffers = [validity, pa.py_buffer(values.offsets), pa.py_buffer(values.data)]
        elif values.dtype is _BOOL:
            buffers = [validity, _bits(pa, values)]
        else:
            buffers = [validity, pa.py_buffer(np.ascontiguousarray(values))]
        return pa.Array.from_buffers(kind, self.n, buffers, missing)

    def numbers(
        self, dtype: np.dtype[Any], places: list[int], columns: Sequence[Cells], kinds: list[Any], arrays: list[Any]
    ) -> None:
        """Make columns of one type, one behind the other in one buffer: each buffer costs as much as 500 numbers."""
        pa, n = self._pa, self.n
        stored = dtype if dtype.kind != "M" else np.dtype(np.int64)
        rows = np.empty((len(places), n), dtype=stored)
        buffer, size = pa.py_buffer(rows), n * stored.itemsize
        for row, at in enumerate(places):
            values = columns[at].values
            assert isinstance(values, np.ndarray)
            rows[row] = values if stored is dtype else values.view(stored)
            validity, missing = self._validity(columns[at].present)
            arrays[at] = pa.Array.from_buffers(kinds[at], n, [validity, buffer.slice(row * size, size)], missing)

    def written(self, places: list[int], columns: Sequence[Cells], arrays: list[Any]) -> None:
        """Make columns of addresses of one kind, as text: all together, each distinct address written once.

        Where most are distinct, finding that out would cost more than to write them all.
        """
        pa, n = self._pa, self.n
        given: list[Any] = [columns[at].values for at in places]
        if _many(given):
            for at, numbers in zip(places, given, strict=True):
                text, (validity, missing) = numbers.text(), self._validity(columns[at].present)
                buffers = [validity, pa.py_buffer(text.offsets), pa.py_buffer(text.data)]
                arrays[at] = pa.Array.from_buffers(pa.string(), n, buffers, missing)
            return
        stacked = _stacked(given, n)
        index, text = _encoded(stacked)
        validity = None
        present = [columns[at].present for at in places]
        if any(mask is not None for mask in present):
            every = np.ones(n, dtype=np.bool_)
            validity = _bits(pa, np.concatenate([every if mask is None else mask for mask in present]))
        strings = _strings(pa, text)
        in_order = len(strings) == len(index) and stacked.is6 is None  # all are different: nothing to be repeated
        if validity is not None or not in_order:
            strings = strings.take(pa.Array.from_buffers(pa.int32(), len(index), [validity, pa.py_buffer(index)]))
        for turn, at in enumerate(places):
            arrays[at] = strings.slice(turn * n, n)


def _many(columns: list[Any]) -> bool:
    """Return whether most of the addresses in some of these columns (Numbers) are distinct, by a sample of the rows."""
    for column in columns:
        every = slice(None, None, max(len(column.ip4) // _SAMPLE, 1))
        sample = column.ip4[every].tolist()
        if column.is6 is not None and column.ip6 is not None:
            sample = list(zip(sample, column.ip6.view(np.uint64)[every, 1].tolist(), strict=True))
        if len(set(sample)) > len(sample) // 2 > _SAMPLE // 4:
            return True
    return False


def _stacked(values: list[Any], n: int) -> Numbers:
    """Return columns of addresses as one, one behind the other."""
    ip4 = np.concatenate([one.ip4 for one in values])
    if all(one.is6 is None for one in values):
        return Numbers(ip4, mac=values[0].mac)
    none6, nobody = np.zeros((n, 16), dtype=np.uint8), np.zeros(n, dtype=np.bool_)
    ip6 = np.concatenate([none6 if one.ip6 is None else one.ip6 for one in values])
    return Numbers(ip4, ip6, np.concatenate([nobody if one.is6 is None else one.is6 for one in values]))


def _strings(pa: Any, text: Text) -> Any:
    return pa.StringArray.from_buffers(len(text.offsets) - 1, pa.py_buffer(text.offsets), pa.py_buffer(text.data))


def _form(column: Cells) -> _Form:
    return column.name, column.kind, column.dtype or getattr(column.values, "dtype", None), column.nullable


@lru_cache(maxsize=64)
def _schema(forms: tuple[_Form, ...]) -> tuple[Any, list[Any]]:
    """Return the schema of columns of these forms, and its types."""
    import pyarrow as pa

    kinds = {
        "time": pa.timestamp("ns", tz="UTC"),
        "text": pa.string(),
        "written": pa.string(),
        "category": pa.dictionary(pa.int32(), pa.string()),
        "octets": pa.binary(),
        "address": pa.binary(16),
    }
    types = [kinds.get(kind) or pa.from_numpy_dtype(dtype) for _, kind, dtype, _ in forms]
    fields = [pa.field(form[0], kind, nullable=form[3]) for form, kind in zip(forms, types, strict=True)]
    return pa.schema(fields), types


def _bits(pa: Any, flags: Any) -> Any:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
