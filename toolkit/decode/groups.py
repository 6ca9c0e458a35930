# SPDX-License-Identifier: Apache-2.0
"""top(): packets and bytes of a batch, summed by flow or by any columns, the largest first."""

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

# An odd number of 64 bits without a pattern (2**64 / golden ratio): multiplying by it mixes the words of a key.
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Top(NamedTuple):
    """Groups of packets, the largest first.

    keys: shape (k,), a record array with one field a column. packets, octets (bytes): shape (k,), int64.
    """

    keys: npt.NDArray[np.void]
    packets: npt.NDArray[np.int64]
    octets: npt.NDArray[np.int64]

    def rows(self) -> Iterator[tuple[tuple[Any, ...], int, int]]:
        """Iterate over (key, packets, octets) as Python values.

        A key is a hashable tuple, with IPv6 addresses as bytes.
        """
        columns = [_hashable(self.keys[name]) for name in self.keys.dtype.names or ()]
        return zip(zip(*columns, strict=True), self.packets.tolist(), self.octets.tolist(), strict=True)


def flow_keys(columns: Columns, rows: Any = slice(None)) -> npt.NDArray[np.void]:
    """Return the flow of each packet as a record: ip_version, ip_proto, ports, IPv4 and IPv6 addresses (FLOW).

    rows: which packets, anything that indexes an array; by default all.
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

    weights: shape (n,), what to sum as octets; by default the packets' lengths. count: the most groups to return.
    Ordered by octets, then packets, descending. A packet without a column is counted in the group of -1.
    ArgumentError for an unknown column, or weights of another shape.
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
    """Return the columns as words of 64 bits, without those that are the same in all packets."""
    words: Words = []
    for name in names:
        column = columns[name]
        if column.ndim == 2:
            words += list(np.ascontiguousarray(column).view(np.int64).T)
        else:
            words.append(column.astype(np.int64))
    return [word for word in words if word.size and np.any(word != word[0])]


def _groups(words: Words, n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return an order in which equal keys are neighbours, and the positions in it where each group begins."""
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
    # Sorting one hash is several times faster than sorting keys. If two keys have the same hash, their packets may be
    # mixed: then the key changes more often than the hash, and the keys themselves are sorted.
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
