# SPDX-License-Identifier: Apache-2.0
"""Summarise many runs: median, minimum, maximum; ratios of runs that were made in pairs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["Spread", "ratios", "spread"]

Spread = dict[str, float]


def spread(values: Sequence[float]) -> Spread:
    """Return median, minimum, maximum, and the number of values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Return ours divided by theirs, pair by pair: a disturbance of a minute affects both."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=False) if b > 0]
    return spread(pairs) if pairs else None
