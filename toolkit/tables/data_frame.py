# SPDX-License-Identifier: Apache-2.0
"""Columns as a pandas DataFrame. Needs pandas and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.abi.shared_library import importing
from toolkit.errors import LibraryError
from toolkit.tables.address_text import Numbers, Text, ip6_text
from toolkit.tables.cells import Cells

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["data_frame"]


def data_frame(columns: Sequence[Cells]) -> pd.DataFrame:
    """Return the columns as a pandas.DataFrame.

    Numbers that may be missing have pandas' nullable types (Int32, ...), text has dtype "string"; missing values are
    pandas.NA in both, so that a column has the same dtype for every Batch. Times are datetime64[ns, UTC].
    LibraryError without pandas.
    """
    missing = "to_pandas() needs pandas. Next step: `pip install pandas` (in a checkout: scripts/setup --tables)."
    with importing("pandas", LibraryError(missing)):
        import pandas as pd
    return pd.DataFrame({column.name: _series(pd, column) for column in columns})


def _series(pd: Any, column: Cells) -> Any:
    values = column.values
    if isinstance(values, Numbers):
        return _addresses(pd, values, column)
    if isinstance(values, Text):
        if column.kind == "octets":
            return _objects(values.runs(), None)
        return pd.array(_objects(values.strings(), column.present), dtype="string")
    if column.kind == "address":
        raw = np.ascontiguousarray(values).tobytes()
        return _objects([raw[at : at + 16] for at in range(0, len(raw), 16)], column.present)
    if column.kind == "time":
        return pd.DatetimeIndex(values, tz="UTC")
    if column.dtype is not None:
        values = values.astype(column.dtype, copy=False)
    if not column.nullable:
        return values
    missing = np.zeros(len(values), dtype=np.bool_) if column.present is None else ~column.present
    return pd.arrays.IntegerArray(np.ascontiguousarray(values), missing)


def _addresses(pd: Any, values: Numbers, column: Cells) -> Any:
    """Return addresses as text, each distinct one written once."""
    if values.is6 is None or values.ip6 is None:
        distinct, index = np.unique(values.ip4, return_inverse=True)
        written = Numbers(distinct, mac=values.mac).text().strings()
    else:
        rows = np.flatnonzero(values.is6)
        four, index = np.unique(values.ip4, return_inverse=True)
        six, of_six = np.unique(np.ascontiguousarray(values.ip6[rows]).view("V16"), return_inverse=True)
        index[rows] = len(four) + of_six.reshape(-1)
        written = Numbers(four).text().strings() + ip6_text(six.view(np.uint8).reshape(-1, 16)).strings()
    if column.kind == "written":
        objects = _objects(written, None)[index]
        if column.present is not None:
            objects[~column.present] = None
        return pd.array(objects, dtype="string")
    used, codes = np.unique(index[... if column.present is None else column.present], return_inverse=True)
    every = np.full(len(index), -1, dtype=np.int64)
    every[... if column.present is None else column.present] = codes
    return pd.Categorical.from_codes(every, pd.Index([written[at] for at in used], dtype="string"))


def _objects(items: list[Any], present: Any) -> Any:
    """Return an array of Python objects, None where no value is present."""
    objects = np.empty(len(items), dtype=object)
    objects[:] = items
    if present is not None:
        objects[~present] = None
    return objects
