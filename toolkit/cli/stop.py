# SPDX-License-Identifier: Apache-2.0
"""Ending on a signal: a flag that the loops look at, so that everything is undone in order. Nothing is half done."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

__all__ = ["Stop"]


class Stop:
    """Truthy once SIGINT, SIGTERM or SIGHUP came, or the time is over. A second signal ends the process at once."""

    def __init__(self, seconds: float | None = None) -> None:
        """Begin to count `seconds` (None: no limit) at __enter__."""
        self._seconds = seconds
        self._deadline: float | None = None
        self.signal: int | None = None  # the number that came; written by the handler only
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        """Install the handlers and start the clock."""
        self.restart()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def restart(self) -> float:
        """Start the clock anew, where what came before is not to count; its time. A signal that came still counts."""
        now = time.monotonic()
        if self._seconds is not None:
            self._deadline = now + self._seconds
        return now

    def __exit__(self, *exception: object) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)

    def __bool__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)

    def request(self) -> None:
        """Stop for a reason of our own."""
        self._deadline = 0.0

    @property
    def patience(self) -> float:
        """Seconds for which a wait may last: short, so that a signal is acted upon soon."""
        if self._deadline is None:
            return 0.2
        return max(min(0.2, self._deadline - time.monotonic()), 0.0)
