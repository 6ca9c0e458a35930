# SPDX-License-Identifier: Apache-2.0
"""Sending at a rate: how many packets are due now, and how long until the next are.

`xsk send` and the traffic of a Lab use it. A replay does not: its packets have a time each. Nor does the Lab's
generator, which runs outside of the package and bounds its bursts by what a veth holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pacer"]

_TICK = 0.001  # seconds: packets of so much time go out together, as far as a batch goes
_FORGIVEN = 0.1  # seconds: after a longer stall what is missing is not made up for


class Pacer:
    """Spreads packets evenly over time: `rate` a second in groups of about a millisecond, a batch at most.

    What is late is made up for at once, up to a tenth of a second's packets.
    """

    def __init__(self, rate: float | None, batch_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """rate: packets/s; None for as fast as it goes. The clock starts with the first due()."""
        self._rate = rate
        self._batch_size = batch_size
        self._clock = clock
        self._group = batch_size if rate is None else max(min(int(rate * _TICK), batch_size), 1)
        self._start: float | None = None

    def due(self, sent: int) -> int:
        """Return how many packets to send now, 0 or more, when `sent` have been until now."""
        if self._rate is None:
            return self._batch_size
        now = self._clock()
        if self._start is None:
            self._start = now
        # The first group is due at the start.
        owed = int((now - self._start) * self._rate) + self._group - sent
        excess = owed - max(self._rate * _FORGIVEN, self._batch_size)
        if excess > 0:
            self._start += excess / self._rate
        return min(owed, self._batch_size) if owed >= self._group else 0

    def pause(self, sent: int) -> float:
        """Return the seconds until due() is more than 0."""
        if self._rate is None or self._start is None:
            return 0.0
        return max(self._start + sent / self._rate - self._clock(), 0.0)
