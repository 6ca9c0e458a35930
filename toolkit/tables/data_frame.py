# SPDX-License-Identifier: Apache-2.0
"""Columns as a pandas DataFrame. Needs pandas and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.abi.shared_library import importing
from toolkit.errors import LibraryError
from toolkit.tables.address_text import Text
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
    if isinstance(values, Text):
        if column.kind == "octets":
            return _objects(values.runs(), None)
        return pd.array(_objects(values.strings(), column.present), dtype="string")
    if column.kind == "address":
        raw = np.ascontiguousarray(values).tobytes()
        return _objects([raw[at : at + 16] for at in range(0, len(raw), 16)], column.present)
    if column.kind == "time":
        return pd.DatetimeIndex(values, tz="UTC")
    if not column.nullable:
        return values
    missing = np.zeros(len(values), dtype=np.bool_) if column.present is None else ~column.present
    return pd.arrays.IntegerArray(np.ascontiguousarray(values), missing)


def _objects(items: list[Any], present: Any) -> Any:
    """Return an array of Python objects, None where no value is present."""
    objects = np.empty(len(items), dtype=object)
    objects[:] = items
    if present is not None:
        objects[~present] = None
    return objects
