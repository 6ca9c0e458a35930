# SPDX-License-Identifier: Apache-2.0
"""Columns as an Arrow record batch, which uses NumPy's memory without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.abi.shared_library import importing
from toolkit.errors import LibraryError
from toolkit.tables.address_text import Text
from toolkit.tables.cells import Cells

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["pyarrow", "record_batch"]


def pyarrow(what: str) -> Any:
    """Import pyarrow. LibraryError, which says how to install it for `what`, when that fails."""
    missing = f"{what} needs pyarrow. Next step: `pip install pyarrow` (in a checkout: scripts/setup --tables)."
    with importing("pyarrow", LibraryError(missing)):
        import pyarrow as pa
    return pa


def record_batch(columns: Sequence[Cells]) -> pa.RecordBatch:
    """Return the columns as a pyarrow.RecordBatch; its schema depends on the columns' names only, not on the values."""
    pa = pyarrow("to_arrow()")
    arrays = [_array(pa, column) for column in columns]
    fields = [
        pa.field(column.name, array.type, nullable=column.nullable)
        for column, array in zip(columns, arrays, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _array(pa: Any, column: Cells) -> Any:
    """Return one column as an Arrow array over the same buffers: validity bitmap, offsets, values."""
    values, n = column.values, _length(column.values)
    validity = None
    if column.present is not None:
        if not column.present.any():
            return pa.nulls(n, _type(pa, column))
        validity = _bits(pa, column.present)
    if isinstance(values, Text):
        buffers = [validity, pa.py_buffer(values.offsets), pa.py_buffer(values.data)]
    elif values.dtype == np.bool_:
        buffers = [validity, _bits(pa, values)]
    else:
        buffers = [validity, pa.py_buffer(np.ascontiguousarray(values).view(np.uint8))]
    return pa.Array.from_buffers(_type(pa, column), n, buffers)


def _type(pa: Any, column: Cells) -> Any:
    if column.kind == "time":
        return pa.timestamp("ns", tz="UTC")
    if column.kind == "text":
        return pa.string()
    if column.kind == "octets":
        return pa.binary()
    if column.kind == "address":
        return pa.binary(16)
    assert not isinstance(column.values, Text)
    return pa.from_numpy_dtype(column.values.dtype)


def _bits(pa: Any, flags: Any) -> Any:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _length(values: Any) -> int:
    return len(values.offsets) - 1 if isinstance(values, Text) else len(values)
