# SPDX-License-Identifier: Apache-2.0
"""A sampling profiler for the main thread: it records the running function each millisecond of CPU time."""

from __future__ import annotations

import signal
from collections import Counter
from types import FrameType

__all__ = ["profile"]

_INTERVAL = 0.001  # seconds of CPU time of the process, user and kernel
_counts: Counter[str] = Counter()


def profile(switch: str) -> dict[str, int]:
    """Switch the profiler "on"; or "off", and return the samples by function.

    The interpreter runs the handler after a call of C returns: so that call counts for the calling function.
    """
    if switch == "on":
        _counts.clear()
        signal.signal(signal.SIGPROF, _note)
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)
        return {}
    signal.setitimer(signal.ITIMER_PROF, 0)
    return dict(_counts)


def _note(_: int, frame: FrameType | None) -> None:
    if frame is not None:
        code = frame.f_code
        module = frame.f_globals.get("__name__", "?")
        _counts[f"{module}.{code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}"] += 1
