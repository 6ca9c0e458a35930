# SPDX-License-Identifier: Apache-2.0
"""Queueing: how much of a capture may wait in memory for the disk, and how long write() and close() wait for it."""

from __future__ import annotations

from typing import NamedTuple

from toolkit._base.arguments import seconds, whole
from toolkit._base.memory import affordable, available

__all__ = ["LEAST", "Queueing"]

LEAST = 1 << 20  # bytes
_SHARE = 64  # by default a 64th of the memory that may be used
_SMALLEST, _LARGEST = 64 << 20, 256 << 20  # bytes: limits of the default


class Queueing(NamedTuple):
    """How much may wait for the disk."""

    # Bytes, 1 MB at least; None: a 64th of the memory that this process may use (by the machine, its cgroups and
    # limits), 64 to 256 MB, but at most a quarter of what is free. Only the part that is used is allocated.
    limit: int | None = None
    timeout: float = 0.002  # seconds that write() waits for room: the rings hold more at a million packets/s
    stalled: float = 5.0  # seconds without progress after which close() gives up

    @property
    def room(self) -> int:
        """Bytes that may wait."""
        if self.limit is not None:
            return self.limit
        return affordable(min(max(available().total // _SHARE, _SMALLEST), _LARGEST), LEAST)

    def check(self) -> None:
        """Raise ArgumentError for values that are not possible."""
        if self.limit is not None:
            whole("limit", self.limit, LEAST)
        for name, value in (("timeout", self.timeout), ("stalled", self.stalled)):
            seconds(name, value, 0)
