# SPDX-License-Identifier: Apache-2.0
"""From CLOCK_MONOTONIC, in which the kernel stamps packets, to UTC.

Linux slews both clocks alike, so their distance is constant until somebody sets the time (or the machine sleeps). How
they went is noted again and again, and a packet gets the distance of its own time, not that of when it is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["NAT", "UTCClock", "clock"]

NAT = -(1 << 63)
"""datetime64's "not a time", as int64: what stands for no time wherever ns since 1970 do, of which 0 is one as good
as any. Of CLOCK_MONOTONIC 0 is the moment before the kernel had a clock: there, and nowhere else, 0 is no time."""

_FRESH_NS = 1_000_000  # a pairing so young is good for packets as they come
_CONVERT_NS = 100_000  # and this young for those about to be converted
_TIGHT_NS = 600  # ns between two readings of one clock within which the other's is believed at once
_TRIES = 20
_KEPT = 256  # pairings; of the older half every other one is dropped then, so that the oldest lie far apart
# More than any clock drifts: then somebody set the time between two pairings.
_STEP_PPM, _STEP_NS = 1_000, 2_000

_ALIKE_NS = 250  # pairings that differ by no more tell the same: what is read of two clocks is not exact

Times = npt.NDArray[np.int64]


class UTCClock:
    """Pairs two clocks and remembers how they went. Any thread may call; no lock, so that forks do not matter."""

    def __init__(self, monotonic: Callable[[], int] = time.monotonic_ns, utc: Callable[[], int] = time.time_ns) -> None:
        """monotonic, utc: ns, since boot and since 1970."""
        self._monotonic = monotonic
        self._utc = utc
        # Rows (ns of the monotonic clock, ns to add to it), in order of time; never written to, replaced whole: what
        # another thread pairs at the same moment may be lost, and is not missed.
        self._pairings: Times = np.empty((0, 2), dtype=np.int64)
        self._last = -_FRESH_NS  # monotonic ns of the last pairing

    def pair(self, fresh_ns: int = _FRESH_NS) -> None:
        """Note how far the clocks are apart now, unless that was noted in the last `fresh_ns`. Costs 2 us."""
        if self._monotonic() - self._last < fresh_ns:
            return
        at, distance = self._read()
        pairings = self._pairings
        if len(pairings) >= _KEPT:
            pairings = np.concatenate((pairings[: _KEPT // 2 : 2], pairings[_KEPT // 2 :]))
        if not len(pairings) or at > pairings[-1, 0]:
            self._pairings = np.concatenate((pairings, np.array([[at, distance]], dtype=np.int64)))
            self._last = at

    def to_utc(self, monotonic_ns: Times) -> Times:
        """Return times of the monotonic clock as ns since 1970 UTC: shape (n,) int64; NAT where a time is 0 (none).

        Between two pairings the distance is interpolated: drift is followed. Where it leapt, because somebody set the
        wall clock, a time takes the distance of the pairing that is nearer.
        """
        self.pair(_CONVERT_NS)
        if not len(monotonic_ns):
            return monotonic_ns.copy()
        at, distances = self._pairings[:, 0], self._pairings[:, 1]
        first, last = at.searchsorted((monotonic_ns.min(), monotonic_ns.max()))
        around = distances[max(first - 1, 0) : last + 1]
        least, most = int(around.min()), int(around.max())
        if most - least <= _ALIKE_NS:
            result: Times = monotonic_ns + (least + most) // 2
        else:
            result = monotonic_ns + self._distances(monotonic_ns, at, distances)
        result[monotonic_ns == 0] = NAT
        return result

    @staticmethod
    def _distances(monotonic_ns: Times, at: Times, distances: Times) -> Times:
        """How far apart the clocks were at each of the times, by the pairings before and after it."""
        after = np.searchsorted(at, monotonic_ns).clip(0, len(at) - 1)
        before = np.maximum(after - 1, 0)
        gap = at[after] - at[before]  # 0 before the first pairing
        since = (monotonic_ns - at[before]).clip(0, gap)
        change = distances[after] - distances[before]
        leapt = np.abs(change) > _STEP_NS + gap // (1_000_000 // _STEP_PPM)
        nearer = np.where(2 * since >= gap, distances[after], distances[before])
        # The change alone is small enough for floating point; of a whole distance it would lose 256 ns.
        drifted = distances[before] + np.rint(since / np.maximum(gap, 1) * change).astype(np.int64)
        found: Times = np.where(leapt, nearer, drifted)
        return found

    def _read(self) -> tuple[int, int]:
        """Read one clock before and after the other, until both come without an interruption; the closest counts."""
        closest, at, distance = 1 << 62, 0, 0
        for _ in range(_TRIES):
            before = self._monotonic()
            utc = self._utc()
            after = self._monotonic()
            if after - before < closest:
                closest, at = after - before, (before + after) // 2
                distance = utc - at
            if closest <= _TIGHT_NS:
                break
        return at, distance


clock = UTCClock()
"""This machine's clocks. Whoever receives packets pairs them meanwhile."""
