# SPDX-License-Identifier: Apache-2.0
"""Who sends most: packets and bytes of a batch, summed by flow or by any columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit.decode.columns import Columns
from toolkit.errors import ArgumentError

__all__ = ["FLOW", "Top", "flow_keys", "top"]

Array = npt.NDArray[Any]
Words = list[npt.NDArray[np.int64]]

FLOW = ("ip_version", "ip_proto", "src_port", "dst_port", "ip_src", "ip_dst", "ip6_src", "ip6_dst")

# An odd number of 64 bits without a pattern, to spread the words of a key over a hash.
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Top(NamedTuple):
    """Groups of packets, the largest first.

    keys: shape (k,), a record array with one field a column. packets, octets: shape (k,) int64.
    """

    keys: npt.NDArray[np.void]
    packets: npt.NDArray[np.int64]
    octets: npt.NDArray[np.int64]

    def rows(self) -> Iterator[tuple[tuple[Any, ...], int, int]]:
        """Go over (key, packets, octets) as Python values: keys are hashable tuples, IPv6 addresses bytes in them."""
        columns = [_hashable(self.keys[name]) for name in self.keys.dtype.names or ()]
        return zip(zip(*columns, strict=True), self.packets.tolist(), self.octets.tolist(), strict=True)


def flow_keys(columns: Columns, rows: Any = slice(None)) -> npt.NDArray[np.void]:
    """Build the flow of each packet as a record: ip_version, ip_proto, ports, IPv4 and IPv6 addresses (FLOW).

    rows: which packets, anything that indexes an array; all by default.
    """
    return _keys(columns, FLOW, rows)


def top(
    columns: Columns,
    by: str | Sequence[str] = FLOW,
    weights: npt.ArrayLike | None = None,
    *,
    count: int | None = None,
) -> Top:
    """Sum packets and bytes by flow, or by the columns named in `by`.

    weights: shape (n,), what to sum as octets; the packets' lengths by default. count: at most so many groups.
    Ordered by octets, then packets, falling. A packet that misses a column counts in the group of -1.
    """
    names = (by,) if isinstance(by, str) else tuple(by)
    if not names:
        raise ArgumentError("top() needs at least one column to sum by.")
    sizes = np.asarray(columns["length"] if weights is None else weights, dtype=np.int64)
    if sizes.shape != (len(columns),):
        raise ArgumentError(f"one weight a packet: there are {len(columns)} packets, weights are {sizes.shape}.")
    order, starts = _groups(_words(columns, names), len(columns))
    packets = np.diff(starts, append=len(columns)).astype(np.int64)
    octets = np.add.reduceat(sizes[order], starts) if starts.size else np.zeros(0, dtype=np.int64)
    ranked = np.lexsort((-packets, -octets))[:count]
    return Top(_keys(columns, names, order[starts[ranked]]), packets[ranked], octets[ranked])


def _keys(columns: Columns, names: Sequence[str], rows: Any) -> npt.NDArray[np.void]:
    parts = [columns[name][rows] for name in names]
    layout = np.dtype([(name, part.dtype, part.shape[1:]) for name, part in zip(names, parts, strict=True)])
    keys = np.empty(len(parts[0]), dtype=layout)
    for name, part in zip(names, parts, strict=True):
        keys[name] = part
    return keys


def _words(columns: Columns, names: Sequence[str]) -> Words:
    """The columns as words of 64 bits; those that are the same in all packets are left out."""
    words: Words = []
    for name in names:
        column = columns[name]
        if column.ndim == 2:
            words += list(np.ascontiguousarray(column).view(np.int64).T)
        else:
            words.append(column.astype(np.int64))
    return [word for word in words if word.size and np.any(word != word[0])]


def _groups(words: Words, n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Order in which equal keys stand together, and where in it each group begins."""
    if not words or n < 2:
        return np.arange(n), np.arange(min(n, 1))
    mixed = np.zeros(n, dtype=np.uint64)
    for word in words:
        mixed ^= word.view(np.uint64)
        mixed *= _MIX
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed)
    ranked = mixed[order]
    starts = _starts([word[order] for word in words])
    # Sorting one hash is several times faster than sorting keys. Two keys with the same hash would stand mixed up:
    # then there are more changes of key than of hash, and the keys themselves are sorted.
    if np.count_nonzero(ranked[1:] != ranked[:-1]) + 1 != starts.size:
        order = np.lexsort(words)
        starts = _starts([word[order] for word in words])
    return order, starts


def _starts(words: Words) -> npt.NDArray[np.intp]:
    changed = np.ones(len(words[0]), dtype=np.bool_)
    changed[1:] = False
    for word in words:
        changed[1:] |= word[1:] != word[:-1]
    return np.flatnonzero(changed)


def _hashable(column: Array) -> list[Any]:
    if column.ndim == 2:
        return [bytes(row) for row in column]
    values: list[Any] = column.tolist()
    return values
