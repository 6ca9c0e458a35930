# SPDX-License-Identifier: Apache-2.0
"""From CLOCK_MONOTONIC, in which the kernel stamps packets, to UTC."""

from __future__ import annotations

import time

__all__ = ["utc_offset_ns"]

_REFRESH_NS = 1_000_000_000  # NTP slews the wall clock: pair the two clocks anew after this long
_last: tuple[int, int] | None = None  # (CLOCK_MONOTONIC ns when paired, offset ns); replaced whole, so no lock


def utc_offset_ns() -> int:
    """Return the nanoseconds to add to CLOCK_MONOTONIC to get UTC since 1970; paired at most a second ago."""
    global _last
    now = time.monotonic_ns()
    if _last is None or now - _last[0] > _REFRESH_NS:
        _last = (now, _pair())
    return _last[1]


def _pair() -> int:
    """Read the clocks in turn a few times; the reading with the least time in between is the best."""
    best: tuple[int, int] | None = None
    for _ in range(5):
        before = time.monotonic_ns()
        utc = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, utc - (before + after) // 2)
    assert best is not None
    return best[1]
