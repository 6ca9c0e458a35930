# SPDX-License-Identifier: Apache-2.0
"""Field: the definition of one column: which packets have it, and how it is read; -1 for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.decode.headers import Headers
from toolkit.decode.layouts import constant

__all__ = ["FIELDS", "Field", "bits", "compute_all", "field"]

Array = npt.NDArray[Any]
Read = Callable[[Headers], Array]


def as_type(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return values that Field.read() returned as `dtype`; the same array where it can be."""
    if values.dtype is dtype:
        return values
    return values.view(dtype) if values.itemsize == dtype.itemsize else values.astype(dtype)


@dataclass(frozen=True)
class Field:
    """One column.

    depth: the headers that it needs (LINK, NETWORK, TRANSPORT). needs: name of the mask in Headers of the packets that
    have it. read: returns the values, shape (n,), in an array that is not used elsewhere, with anything where the
    packet has none: of `dtype`; or of as many bytes, and then the bits are those of `dtype`; or of another integer
    type, and then all present values are in the range of `dtype`. text: the description.
    """

    name: str
    depth: int
    needs: str
    dtype: np.dtype[Any]
    read: Read
    text: str
    has: str = ""  # the mask of the packets that have it where `needs` does not say so

    def compute(self, headers: Headers) -> Array:
        """Return the column: a new array of `dtype`, -1 where the packet does not have it."""
        having = headers.share(self.needs)
        if not having.count:
            column = np.empty(len(headers.length), self.dtype)
            column.fill(-1)
            return column
        values = as_type(self.read(headers), self.dtype)
        if not having.every:
            values |= having.absent(self.dtype)  # -1 has all bits set
        return values


@dataclass(frozen=True)
class Plain(Field):
    """A column without missing values; read() returns the column itself."""

    def compute(self, headers: Headers) -> Array:
        """Return the column."""
        return self.read(headers)


@dataclass(frozen=True)
class Bits(Field):
    """A column that is `mask` bits of a row of Headers.numbers, behind `shift` lower bits."""

    row: int = 0
    shift: int = 0
    mask: int = 0


FIELDS: dict[str, Field] = {}  # by name, in the order of the headers


def field(depth: int, needs: str, dtype: Any, has: str = "") -> Callable[[Read], Read]:
    """Define a column by the decorated function, its name and docstring; needs="": there is no -1 in it.

    has: the mask of the packets that have a value all the same.
    """

    def note(read: Read) -> Read:
        kind = Field if needs else Plain
        FIELDS[read.__name__] = kind(
            read.__name__, depth, needs, np.dtype(dtype), read, read.__doc__ or "", has or needs
        )
        return read

    return note


def bits(
    depth: int, needs: str, dtype: Any, row: int, shift: int, mask: int
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Define a column that is some bits of a row of Headers.numbers; the decorated function has its name and text."""
    behind, kept = constant(shift), constant(mask)

    def read(headers: Headers) -> Array:
        found: Array = headers.numbers[row] >> behind
        found &= kept
        return found

    def note(named: Callable[[], None]) -> Callable[[], None]:
        name = named.__name__
        FIELDS[name] = Bits(name, depth, needs, np.dtype(dtype), read, named.__doc__ or "", needs, row, shift, mask)
        return named

    return note


class _Block:
    """Bits fields that are computed at once; those of one type, and of one mask, one behind the other."""

    def __init__(self, fields: list[Bits]) -> None:
        ordered = sorted(fields, key=lambda field: (field.dtype.itemsize, field.needs))
        self.rows = np.array([field.row for field in ordered], dtype=np.intp)
        self.shifts = np.array([field.shift for field in ordered], dtype=np.uint32)[:, None]
        self.masks = np.array([field.mask for field in ordered], dtype=np.uint32)[:, None]
        self.types: list[tuple[np.dtype[Any], slice, list[str], list[tuple[str, slice]]]] = []
        for dtype, of_type in groupby(enumerate(ordered), lambda one: one[1].dtype):
            members = list(of_type)
            first = members[0][0]
            masks = []
            for needs, of_mask in groupby(members, lambda one: one[1].needs):
                places = [at - first for at, _ in of_mask]
                masks.append((needs, slice(places[0], places[-1] + 1)))
            part = slice(first, members[-1][0] + 1)
            self.types.append((dtype, part, [field.name for _, field in members], masks))


@lru_cache(maxsize=16)
def _block(names: tuple[str, ...]) -> _Block:
    return _Block([field for name in names if isinstance(field := FIELDS[name], Bits)])


def compute_all(headers: Headers, names: tuple[str, ...]) -> dict[str, Array]:
    """Return the columns of these names, each as its Field computes it, in any order; those that are bits at once."""
    block = _block(names)
    columns: dict[str, Array] = {}
    numbers = headers.numbers.take(block.rows, axis=0)
    numbers >>= block.shifts
    numbers &= block.masks
    for dtype, part, members, masks in block.types:
        values = as_type(numbers[part], dtype)
        for needs, rows in masks:
            having = headers.share(needs)
            if not having.count:
                values[rows] = -1
            elif not having.every:
                same = values[rows]
                same |= having.absent(dtype)
        columns.update(zip(members, values, strict=True))
    for name in names:
        if name not in columns:
            columns[name] = FIELDS[name].compute(headers)
    return columns
