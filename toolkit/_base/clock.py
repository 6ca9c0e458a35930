# SPDX-License-Identifier: Apache-2.0
"""UTCClock: convert CLOCK_MONOTONIC, the clock of arrival times, to UTC.

Linux slews both clocks alike, so their difference is constant until the time is set (or the machine sleeps). The
difference is recorded repeatedly, and a packet gets the difference at its own time, not at the time of the conversion.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["NAT", "UTCClock", "clock"]

NAT = -(1 << 63)
"""datetime64's "not a time", as int64: the value for "no time" in ns since 1970, where 0 is a valid time. In ns of
CLOCK_MONOTONIC, 0 means "no time": it is before the kernel had a clock."""

_FRESH_NS = 1_000_000  # ns: a pairing of this age is new enough when packets arrive
_CONVERT_NS = 100_000  # ns: and of this age when times are converted
_TIGHT_NS = 600  # ns between two readings of one clock: the reading of the other in between is then exact enough
_TRIES = 20
_KEPT = 256  # pairings; when there are more, every second one of the older half is dropped
# A change larger than any drift: the time was set between two pairings.
_STEP_PPM, _STEP_NS = 1_000, 2_000

_ALIKE_NS = 250  # ns: pairings that differ by less count as equal, since reading two clocks is not exact

Times = npt.NDArray[np.int64]


class UTCClock:
    """Records the difference of two clocks over time. Thread-safe without a lock, so that a fork cannot break it."""

    def __init__(self, monotonic: Callable[[], int] = time.monotonic_ns, utc: Callable[[], int] = time.time_ns) -> None:
        """Pair two clocks. monotonic, utc: return ns since boot and since 1970."""
        self._monotonic = monotonic
        self._utc = utc
        # Rows (ns of the monotonic clock, ns to add to it), in order of time. The array is replaced, never written to:
        # of two threads that pair at the same time one pairing may be lost, which does no harm.
        self._pairings: Times = np.empty((0, 2), dtype=np.int64)
        self._last = -_FRESH_NS  # monotonic ns of the last pairing

    def pair(self, fresh_ns: int = _FRESH_NS) -> None:
        """Record the clocks' difference, unless that was done in the last `fresh_ns` ns. Costs 2 us."""
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
        """Return times of the monotonic clock as ns since 1970 UTC: shape (n,), int64; NAT where a time is 0 (none).

        Between two pairings the difference is interpolated, which follows drift. Where it jumped, because the wall
        clock was set, a time gets the difference of the nearer pairing.
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
        """Return the difference of the clocks at each of the times, by the pairings before and after it."""
        after = np.searchsorted(at, monotonic_ns).clip(0, len(at) - 1)
        before = np.maximum(after - 1, 0)
        gap = at[after] - at[before]  # 0 before the first pairing
        since = (monotonic_ns - at[before]).clip(0, gap)
        change = distances[after] - distances[before]
        leapt = np.abs(change) > _STEP_NS + gap // (1_000_000 // _STEP_PPM)
        nearer = np.where(2 * since >= gap, distances[after], distances[before])
        # Only the change is computed in floating point: a whole difference would lose up to 256 ns there.
        drifted = distances[before] + np.rint(since / np.maximum(gap, 1) * change).astype(np.int64)
        found: Times = np.where(leapt, nearer, drifted)
        return found

    def _read(self) -> tuple[int, int]:
        """Read one clock before and after the other, until that was quick enough; return the tightest reading."""
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
"""The clocks of this machine; paired whenever a Batch is received."""
