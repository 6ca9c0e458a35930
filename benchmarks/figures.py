# SPDX-License-Identifier: Apache-2.0
"""Many runs in one figure: median, minimum, maximum; ratios of runs that were made in pairs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["Spread", "ratios", "spread"]

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum, and of how many."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Ours over theirs, pair by pair: what disturbs the machine for a minute disturbs both."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=False) if b > 0]
    return spread(pairs) if pairs else None
