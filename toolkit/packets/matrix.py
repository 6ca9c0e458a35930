# SPDX-License-Identifier: Apache-2.0
"""as_matrix(): packets given as a list, an array or a Batch become rows of one matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.errors import ArgumentError

__all__ = ["as_bytes", "as_matrix"]

Matrix = npt.NDArray[np.uint8]
Lengths = npt.NDArray[np.uint32]


def as_matrix(
    packets: Any, lengths: npt.ArrayLike | None = None, *, longest: int | None = None
) -> tuple[Matrix, Lengths]:
    """Return packets as (matrix, lengths): shape (n, width), uint8, C-contiguous, one row a packet; shape (n,), uint32.

    packets: an iterable of bytes-like objects, one a packet; or an array of shape (n, width) and dtype uint8; or a
    Batch. lengths: with an array only, bytes of each row that belong to the packet, shape (n,), 1 to width; all when
    None. longest: bytes of a frame, most of a packet, checked before memory is allocated.

    A contiguous array is returned itself, anything else as a writeable copy, with zeros past a packet's end.
    ArgumentError, which names the first bad packet; an empty packet is bad.
    """
    if isinstance(packets, np.ndarray):
        matrix = _checked_array(packets)
        sizes = _checked_lengths(lengths, *matrix.shape)
        _check_longest(sizes, longest)
        return np.ascontiguousarray(matrix), sizes
    if lengths is not None:
        raise ArgumentError(
            f"lengths are for a matrix of packets; packets in a {type(packets).__name__} know their own. "
            "Next step: leave lengths out."
        )
    if hasattr(packets, "head") and hasattr(packets, "lengths"):
        sizes = np.array(packets.lengths, dtype=np.uint32)
        if not len(sizes):
            return np.zeros((0, 0), dtype=np.uint8), sizes
        _check_longest(sizes, longest)
        if not int(sizes.min()):
            raise ArgumentError(f"packet {int(sizes.argmin())} of {len(sizes)} is empty. Next step: leave it out.")
        return packets.head(int(sizes.max())), sizes
    return _join(_sequence(packets), longest)


def as_bytes(packets: Any) -> list[bytes]:
    """Return packets, in the forms that as_matrix() takes, as bytes. One may be empty, or not lie together."""
    if isinstance(packets, np.ndarray):
        return [row.tobytes() for row in _checked_array(packets)]
    given = _sequence(packets)
    return [one if type(one) is bytes else _view(given, at).tobytes() for at, one in enumerate(given)]


def _sequence(packets: Any) -> Sequence[Any]:
    if isinstance(packets, list | tuple):
        return packets
    if isinstance(packets, bytes | bytearray | memoryview):
        raise ArgumentError(
            f"packets are given as a {type(packets).__name__}: that is one packet, or it does not say where each ends. "
            "Next step: put it into a list, [packet]."
        )
    if not isinstance(packets, Iterable) or isinstance(packets, str | dict):
        raise ArgumentError(
            f"packets cannot be a {type(packets).__name__}. Next step: give a list of bytes, an array of shape "
            "(n, width) and dtype uint8, or a Batch."
        )
    return list(packets)


def _join(packets: Sequence[Any], longest: int | None) -> tuple[Matrix, Lengths]:
    """Return bytes-like objects as rows. No Python loop: len() and join() loop in C, the remainder is NumPy."""
    try:
        sizes = np.fromiter(map(len, packets), dtype=np.int64, count=len(packets))
        _check_longest(sizes, longest)
        width = int(sizes.max(initial=0))
        joined = bytearray().join(packets if (sizes == width).all() else _padded(packets, width - sizes))
    except (TypeError, BufferError) as cause:
        raise _culprit(packets) from cause
    # len() counts items, which are fewer than the bytes of an array with wider items.
    if len(joined) != width * len(packets) or (len(sizes) and not int(sizes.min())):
        raise _culprit(packets)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(packets), width), sizes.astype(np.uint32)


def _padded(packets: Sequence[Any], missing: npt.NDArray[np.int64]) -> Iterable[Any]:
    """Yield each packet and the zeros that it lacks. Ten times faster than masking rows afterwards."""
    zeros = {count: bytes(count) for count in np.unique(missing).tolist()}
    return chain.from_iterable(zip(packets, map(zeros.__getitem__, missing.tolist()), strict=True))


def _culprit(packets: Sequence[Any]) -> ArgumentError:
    """Return the error that names the first bad packet."""
    for at in range(len(packets)):
        try:
            view = _view(packets, at)
        except ArgumentError as refused:
            return refused
        if not view.c_contiguous:
            return ArgumentError(
                f"packet {at} of {len(packets)} is bytes that do not lie together. Next step: packet.tobytes()."
            )
        if not view.nbytes:
            return ArgumentError(f"packet {at} of {len(packets)} is empty. Next step: leave it out.")
    return ArgumentError("packets changed while they were read. Next step: pass a list that no other thread changes.")


def _view(packets: Sequence[Any], at: int) -> memoryview:
    """One of the packets; ArgumentError when it is not a row of bytes."""
    packet, what = packets[at], f"packet {at} of {len(packets)}"
    try:
        view = memoryview(packet)
    except TypeError:
        remedy = "encode it" if isinstance(packet, str) else "bytes(packet)"
        name = type(packet).__name__
        raise ArgumentError(f"{what} is not bytes-like but of type {name}. Next step: {remedy}.") from None
    if view.itemsize != 1 or view.ndim != 1:
        raise ArgumentError(
            f"{what} is an array of shape {view.shape} and format {view.format!r}, not one row of bytes. "
            "Next step: packet.tobytes()."
        )
    return view


def _checked_array(packets: npt.NDArray[Any]) -> Matrix:
    if packets.dtype != np.uint8:
        raise ArgumentError(
            f"packets are an array of {packets.dtype}, not of uint8. Next step: packets.astype(numpy.uint8) if each "
            "item is a byte; if it was made from a list of packets, the list itself."
        )
    if packets.ndim != 2:
        one = "; for one packet, packets[numpy.newaxis]" if packets.ndim == 1 else ""
        raise cannot_be("packets", packets, f"an array of shape (n, width), one row for each packet{one}")
    if len(packets) and not packets.shape[1]:
        raise cannot_be("packets", packets, "rows of one byte at least")
    return packets


def _checked_lengths(lengths: npt.ArrayLike | None, n: int, width: int) -> Lengths:
    if lengths is None:
        return np.full(n, width, dtype=np.uint32)
    sizes = np.asarray(lengths)
    if sizes.shape != (n,) or (sizes.dtype.kind not in "iu" and n):
        raise cannot_be("lengths", sizes, f"one integer for each packet, shape ({n},)")
    if n and (int(sizes.min()) < 1 or int(sizes.max()) > width):
        bad = int(np.flatnonzero((sizes < 1) | (sizes > width))[0])
        raise ArgumentError(f"packet {bad} cannot have {sizes[bad]} bytes. Next step: give lengths from 1 to {width}.")
    return sizes.astype(np.uint32)


def _check_longest(sizes: npt.NDArray[Any], longest: int | None) -> None:
    if longest is not None and len(sizes) and int(sizes.max()) > longest:
        at = int(np.argmax(sizes > longest))
        larger = ", or make the UMEM with frame_size=4096" if longest < 4096 else ""
        raise ArgumentError(
            f"packet {at} of {len(sizes)} has {sizes[at]} bytes and does not fit a frame of {longest}. Nothing was "
            f"sent. Next step: send shorter packets{larger}."
        )
