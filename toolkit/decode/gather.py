# SPDX-License-Identifier: Apache-2.0
"""Copy bytes of many packets into one array: the only place where a decoder reads packet memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import whole
from toolkit.errors import ArgumentError

__all__ = ["check_packets", "gather", "head", "windows", "words"]

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]

_MASKED_BY_TABLE = 256  # widest row whose masks are kept as a table: 257 masks of 256 bytes, 64 KB


def head(memory: Bytes, offsets: npt.ArrayLike, lengths: npt.ArrayLike, n: int) -> Bytes:
    """Copy the first `n` bytes of every packet into one array.

    memory: shape (size,), uint8, contiguous: a whole UMEM, or a whole file.
    offsets, lengths: shape (packets,), any integer dtype: where each packet starts in memory, and its bytes.
    Returns shape (packets, n), uint8; packets shorter than n are filled up with zeros, so that bytes outside of a
    packet never show. ArgumentError when a packet is not inside the memory.
    """
    n = whole("n", n, 0)
    starts, available = check_packets(memory, offsets, lengths)
    return gather(memory, starts, available, n)


def check_packets(memory: Bytes, offsets: npt.ArrayLike, lengths: npt.ArrayLike) -> tuple[Positions, Positions]:
    """Return offsets and lengths: shape (packets,), int64. ArgumentError when a packet is not inside the memory."""
    if memory.ndim != 1 or memory.dtype != np.uint8 or not memory.flags.c_contiguous:
        raise ArgumentError(
            f"packet memory must be a contiguous array of shape (size,) and dtype uint8, not {memory.shape} "
            f"{memory.dtype}. Next step: numpy.frombuffer(memory, dtype=numpy.uint8)."
        )
    starts = np.asarray(offsets, dtype=np.int64)
    sizes = np.asarray(lengths, dtype=np.int64)
    if starts.ndim != 1 or starts.shape != sizes.shape:
        raise ArgumentError(
            f"offsets of shape {starts.shape} do not go with lengths of shape {sizes.shape}. Next step: give one of "
            "each for every packet, both of shape (n,)."
        )
    if starts.size:
        # If no number is as large as this, none is negative either, and no sum wraps around into range.
        most = np.maximum.reduce((starts | sizes).view(np.uint64))
        if int(most) >> 62 or np.maximum.reduce(starts + sizes) > memory.size:
            raise _outside(memory.size, starts, sizes)
    return starts, sizes


def _outside(size: int, starts: Positions, sizes: Positions) -> ArgumentError:
    bad = int(np.flatnonzero((starts < 0) | (sizes < 0) | (sizes > size) | (starts > size - sizes))[0])
    return ArgumentError(
        f"packet {bad} at offset {starts[bad]} with length {sizes[bad]} does not lie inside the {size} bytes of packet "
        "memory. Likely cause: offsets of another UMEM or file, or a file that was cut off. Next step: give the memory "
        "that the offsets belong to."
    )


def gather(memory: Bytes, starts: Positions, available: Positions, width: int) -> Bytes:
    """Copy `width` bytes from each start; bytes beyond `available` are zero.

    starts: not negative; any value where available is 0 or less. Returns shape (len(starts), width), uint8.
    """
    if not starts.size or not width:
        return np.zeros((starts.size, width), dtype=np.uint8)
    room = memory.size - width
    # One item a packet: NumPy copies it with one memmove, several times faster than a row of a matrix. There is a
    # window at every byte, so packets need not be aligned, nor in frames of equal size.
    if np.maximum.reduce(starts) <= room:
        rows = windows(memory, width)[starts]
    else:
        rows = _gather_at_end(memory, starts, width)
    picked: Bytes = rows.view(np.uint8).reshape(starts.size, width)
    if np.minimum.reduce(available) < width:
        _zero_after(picked, available, width)
    return picked


def words(rows: Bytes, at: int, into: Words) -> Words:
    """Copy 32-bit numbers of network byte order from byte `at` of each row on; into: shape (count, len(rows)), uint32.

    There, all numbers of one place lie together, in host order, for which NumPy's functions are quickest.
    """
    np.copyto(into, rows[:, at : at + 4 * len(into)].view(">u4").T)
    return into


def windows(memory: Bytes, width: int) -> npt.NDArray[np.void]:
    """Return the `width` bytes from every offset of the memory as one item each: an overlapping view, for indexing.

    NumPy copies an item with one memmove.
    """
    return np.ndarray((memory.size - width + 1,), dtype=_item(width), buffer=memory, strides=(1,))


@lru_cache(maxsize=64)
def _item(width: int) -> np.dtype[np.void]:
    return np.dtype((np.void, width))


def _gather_at_end(memory: Bytes, starts: Positions, width: int) -> npt.NDArray[np.void]:
    """Return windows also for packets so close to the end of the memory that `width` bytes reach beyond it."""
    room = memory.size - width
    tail = np.zeros(2 * width, dtype=np.uint8)
    keep = min(width, memory.size)
    tail[width - keep : width] = memory[memory.size - keep :]
    near = starts > room
    ends = windows(tail, width)[np.minimum(starts[near] - room, width)]
    if room < 0:
        return ends
    rows = windows(memory, width)[np.where(near, 0, starts)]
    rows[near] = ends
    return rows


def _zero_after(rows: Bytes, available: Positions, width: int) -> None:
    """Set the bytes beyond each packet's end to zero."""
    if width > _MASKED_BY_TABLE:
        kept = np.clip(available, 0, width).astype(np.uint32)  # half the bytes to compare
        rows *= np.arange(width, dtype=np.uint32) < kept[:, None]
        return
    kept_rows = np.maximum(np.minimum(available, width), 0)
    rows &= _masks(width)[kept_rows].view(np.uint8).reshape(rows.shape)


@lru_cache(maxsize=16)
def _masks(width: int) -> npt.NDArray[Any]:
    """Return masks: item k keeps the first k of `width` bytes. Shape (width + 1,), void of `width` bytes."""
    table = np.tri(width + 1, width, -1, dtype=np.uint8) * np.uint8(0xFF)
    return table.view(np.dtype(f"V{width}")).reshape(width + 1)
