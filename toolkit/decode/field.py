# SPDX-License-Identifier: Apache-2.0
"""What a column is: which packets have it, how it is read, and that the others say -1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.decode.headers import Headers

__all__ = ["FIELDS", "Field", "field"]

Array = npt.NDArray[Any]
Read = Callable[[Headers], Array]


@dataclass(frozen=True)
class Field:
    """One column.

    depth: how deep it looks into the packet. needs: name of the mask of Headers that says which packets have it.
    read: returns its values, shape (n,) of any integer type, with anything in it where the packet has none; of `dtype`
    only when the array is not used elsewhere.
    """

    name: str
    depth: int
    needs: str
    dtype: Any
    read: Read
    text: str

    def compute(self, headers: Headers) -> Array:
        """Return the column: a new array of `dtype`, -1 where the packet does not have it."""
        having = headers.having(self.needs)
        if not having:
            return np.full(len(headers.length), -1, dtype=self.dtype)
        values = self.read(headers)
        if having == len(headers.length):
            return values.astype(self.dtype, copy=False)
        # -1 is all ones: one OR widens, swaps bytes, and makes the missing ones -1.
        column: Array = values | headers.absent(self.needs, self.dtype)
        return column


@dataclass(frozen=True)
class Plain(Field):
    """A column that is an array of its own and has no missing values."""

    def compute(self, headers: Headers) -> Array:
        """Return the column."""
        return self.read(headers)


FIELDS: dict[str, Field] = {}  # by name, in the order of the headers


def field(depth: int, needs: str, dtype: Any) -> Callable[[Read], Read]:
    """Make a column of the decorated function: its name, its docstring; `needs` of "" has no missing values."""

    def note(read: Read) -> Read:
        kind = Field if needs else Plain
        FIELDS[read.__name__] = kind(read.__name__, depth, needs, dtype, read, read.__doc__ or "")
        return read

    return note
