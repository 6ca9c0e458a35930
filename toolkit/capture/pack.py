# SPDX-License-Identifier: Apache-2.0
"""pack(): the records of a capture file, many at once: words in front, the packet's bytes, words behind.

There is no loop over the packets. Packets of equal length are copied with room for the words around them; packets of
different lengths are copied to their places by classes of size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.decode.gather import check_packets, windows

__all__ = ["Bytes", "Reserve", "Word", "pack"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Word: TypeAlias = "int | npt.NDArray[Any]"  # the same in every record, or shape (n,), taken as u32
Reserve: TypeAlias = Callable[[int], "Bytes | None"]  # bytes -> memory of that size, or None

# Bytes copied at a time: they fit the second level cache, and malloc does not return so small a block to the system.
_FETCH = 1 << 18


def pack(
    memory: Bytes,
    offsets: npt.ArrayLike,
    lengths: npt.ArrayLike,
    front: Sequence[Word],
    back: Sequence[Word] = (),
    *,
    reserve: Reserve,
    align: int = 1,
) -> Bytes | None:
    """Lay out one record a packet: the words of `front`, its bytes, zeros up to a multiple of `align`, those of `back`.

    memory: shape (size,), uint8. offsets, lengths: shape (n,), where the packets are in it. align: a power of two.
    reserve: called once for the memory of the records. Returns that, shape (total,), uint8, or None if there is none.
    ArgumentError when a packet is not inside the memory.
    """
    starts, sizes = check_packets(memory, offsets, lengths)
    if not sizes.size:
        return np.empty(0, dtype=np.uint8)
    length = int(sizes[0])
    before, after = 4 * len(front), 4 * len(back)
    if int(sizes.min()) == int(sizes.max()):
        whole = before + length + -length % align + after
        first, last = int(starts.min()) - before, int(starts.max()) - before + whole
        if first >= 0 and last <= memory.size:
            out = reserve(whole * sizes.size)
            if out is not None:
                _pack_equal(memory, starts - before, out, length, front, back, align)
            return out
    return _pack_mixed(memory, starts, sizes, front, back, align, reserve)


def _pack_equal(
    memory: Bytes, starts: Positions, out: Bytes, length: int, front: Sequence[Word], back: Sequence[Word], align: int
) -> None:
    """Copy each packet with the bytes around it, then write the words over these."""
    padding = -length % align
    whole = 4 * (len(front) + len(back)) + length + padding
    source, target = windows(memory, whole), out.view(np.dtype(f"V{whole}"))
    step = max(_FETCH // whole, 1)
    for at in range(0, starts.size, step):
        target[at : at + step] = source[starts[at : at + step]]
    records = out.view(_record(len(front), length, padding, len(back)))
    for at, word in enumerate((*front, *back)):
        records[f"word{at}"] = word
    if padding:
        records["padding"] = np.zeros((), dtype=np.dtype(f"V{padding}"))


@lru_cache(maxsize=64)
def _record(front: int, length: int, padding: int, back: int) -> np.dtype[np.void]:
    """Return the dtype of a record: word0, word1, …, the packet, the padding, the other words."""
    fields: list[tuple[str, Any]] = [(f"word{at}", "=u4") for at in range(front)]
    fields += [("packet", np.dtype(f"V{length}"))] if length else []
    fields += [("padding", np.dtype(f"V{padding}"))] if padding else []
    fields += [(f"word{at}", "=u4") for at in range(front, front + back)]
    return np.dtype(fields)


def _pack_mixed(
    memory: Bytes,
    starts: Positions,
    sizes: Positions,
    front: Sequence[Word],
    back: Sequence[Word],
    align: int,
    reserve: Reserve,
) -> Bytes | None:
    before, after = 4 * len(front), 4 * len(back)
    padded = (sizes + (align - 1)) & -align
    ends = np.cumsum(padded + (before + after))
    data = ends - (padded + after)  # where each packet's bytes begin
    out = reserve(int(ends[-1]))
    if out is None:
        return None
    if align > 1:
        # Zero the last bytes of each packet's room; the packet is then written over them.
        filled = padded > 0
        _scatter(out, (data + padded - align)[filled], np.zeros((int(filled.sum()), align), dtype=np.uint8))
    _scatter(out, data - before, _matrix(front, sizes.size))
    if back:
        _scatter(out, data + padded, _matrix(back, sizes.size))
    _copy(memory, starts, out, data, sizes)
    return out


def _matrix(words: Sequence[Word], n: int) -> Bytes:
    """Return the words of each record as bytes: shape (n, bytes of the words), uint8."""
    matrix = np.empty((n, len(words)), dtype=np.uint32)
    for at, word in enumerate(words):
        matrix[:, at] = word
    return matrix.view(np.uint8)


def _scatter(out: Bytes, places: Positions, rows: Bytes) -> None:
    """Write each row to its place."""
    width = rows.shape[1]
    windows(out, width)[places] = rows.view(np.dtype(f"V{width}")).reshape(-1)


def _copy(memory: Bytes, starts: Positions, out: Bytes, places: Positions, sizes: Positions) -> None:
    """Copy packets of any size, by classes. A packet of 33 to 64 bytes is copied as its first 32 and its last 32 bytes.

    These overlap, so that one width serves all packets of a class, and no byte outside of a packet is touched.
    """
    classes = np.frexp(sizes - 0.5)[1]  # k for sizes of 2**(k-1) + 1 to 2**k; exact, since frexp does not round
    for kind in np.flatnonzero(np.bincount(np.maximum(classes, 0))):
        at = np.flatnonzero((classes == kind) & (sizes > 0))
        width = 1 << max(int(kind) - 1, 0)
        source, target = windows(memory, width), windows(out, width)
        step = max(_FETCH // width, 1)
        for begin in range(0, at.size, step):
            some = at[begin : begin + step]
            target[places[some]] = source[starts[some]]
            if kind:
                rest = sizes[some] - width
                target[places[some] + rest] = source[starts[some] + rest]
