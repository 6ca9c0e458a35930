# SPDX-License-Identifier: Apache-2.0
"""utc_of(): convert pcapng's times, in the unit of each interface, to nanoseconds since 1970."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toolkit._base.clock import NAT
from toolkit.recorded.format import RecordedInterface

__all__ = ["utc_of"]

_SECOND = 1_000_000_000
_LAST = (1 << 63) - 1
_MASK = (1 << 64) - 1

Counts = npt.NDArray[np.uint64]
Times = npt.NDArray[np.int64]


def utc_of(counts: Counts, interfaces: npt.NDArray[np.int64], descriptions: Sequence[RecordedInterface]) -> Times:
    """Return ns since 1970: shape (n,), int64; NaT's int64 for times outside of datetime64[ns] (1677 to 2262).

    counts: shape (n,), uint64, as recorded. interfaces: shape (n,), their positions in `descriptions`.
    """
    # Loop only over the interfaces of these packets: a file may describe very many.
    used = np.unique(interfaces).tolist()
    ways = {(descriptions[number].resolution, descriptions[number].offset) for number in used}
    if len(ways) == 1:
        return _utc(counts, *ways.pop())
    result = np.empty(len(counts), dtype=np.int64)
    for number in used:
        mine = interfaces == number
        result[mine] = _utc(counts[mine], descriptions[number].resolution, descriptions[number].offset)
    return result


def _utc(counts: Counts, resolution: int, offset: int) -> Times:
    nanoseconds, fits = _binary(counts, resolution & 0x7F) if resolution & 0x80 else _decimal(counts, resolution)
    shift = offset * _SECOND
    if abs(shift) > _LAST:
        return np.full(len(counts), NAT, dtype=np.int64)
    # The sum is modulo 2**64, so a result that fits int64 is right.
    fits &= nanoseconds <= np.uint64(_LAST - shift)
    result: Times = (nanoseconds + np.uint64(shift & _MASK)).view(np.int64)
    result[~fits] = NAT
    return result


def _decimal(counts: Counts, digits: int) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Convert units of 10**-digits s; return (ns, whether they fit 64 bits)."""
    if digits > 9:
        divisor = min(10 ** (digits - 9), _MASK)
        return counts // np.uint64(divisor), np.ones(len(counts), dtype=np.bool_)
    factor = 10 ** (9 - digits)
    fits = counts <= np.uint64(_MASK // factor)
    return np.where(fits, counts, np.uint64(0)) * np.uint64(factor), fits


def _binary(counts: Counts, digits: int) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Convert units of 2**-digits s; return (ns, whether they fit 64 bits)."""
    bits = np.uint64(min(digits, 63))
    counts = counts >> np.uint64(min(max(digits - 63, 0), 63))  # bits below that are less than a nanosecond
    seconds = counts >> bits
    fraction = counts & ((np.uint64(1) << bits) - np.uint64(1))
    if digits > 34:  # a fraction of 34 bits, times 10**9, is just below 64 bits
        fraction >>= bits - np.uint64(34)
        bits = np.uint64(34)
    fits = seconds < np.uint64(_MASK // _SECOND)
    nanoseconds = np.where(fits, seconds, np.uint64(0)) * np.uint64(_SECOND)
    return nanoseconds + (fraction * np.uint64(_SECOND) >> bits), fits
