# SPDX-License-Identifier: Apache-2.0
"""Field: the definition of one column: which packets have it, and how it is read; -1 for the others."""

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

    depth: the headers that it needs (LINK, NETWORK, TRANSPORT). needs: name of the mask in Headers of the packets that
    have it. read: returns the values, shape (n,), any integer type, with anything where the packet has none; if they
    are of `dtype` already, in an array that is not used elsewhere. text: the description.
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
        # -1 has all bits set: one OR widens, swaps bytes, and sets missing values to -1.
        column: Array = values | headers.absent(self.needs, self.dtype)
        return column


@dataclass(frozen=True)
class Plain(Field):
    """A column without missing values; read() returns the column itself."""

    def compute(self, headers: Headers) -> Array:
        """Return the column."""
        return self.read(headers)


FIELDS: dict[str, Field] = {}  # by name, in the order of the headers


def field(depth: int, needs: str, dtype: Any) -> Callable[[Read], Read]:
    """Define a column by the decorated function, its name and docstring; needs="": there are no missing values."""

    def note(read: Read) -> Read:
        kind = Field if needs else Plain
        FIELDS[read.__name__] = kind(read.__name__, depth, needs, dtype, read, read.__doc__ or "")
        return read

    return note
