# SPDX-License-Identifier: Apache-2.0
"""The live line: what the last second brought, for as long as a command runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TextIO

from toolkit.cli.view import output
from toolkit.xsk.statistics import Statistics

__all__ = ["LiveLine", "Reading"]


class Reading(NamedTuple):
    """What was counted from the start until now."""

    packets: int
    octets: int | None = None  # bytes; None where they are not counted
    others: Mapping[str, int] = {}  # what else the line shows, by name: "dropped", ...
    note: str = ""  # what it ends with


class LiveLine:
    """Prints a line each `interval` seconds. The loop calls tick() often: it costs a reading of the clock."""

    def __init__(
        self,
        read: Callable[[], Reading],
        *,
        interval: float = 1.0,
        name: str = "",
        statistics: Callable[[], Statistics] | None = None,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        """read: asked once a line, never in between. name: in front of the figures, where there are several lines.

        statistics: adds the kernel's six counters to each line. quiet: prints nothing. stream: by default stdout.
        """
        self._read = read
        self._interval = interval
        self._stream = stream
        self._name = f"{name}  " if name else ""
        self._statistics = None if quiet else statistics
        self._then = time.monotonic()
        self._last = Reading(0)  # not read(): what came since the start belongs into the first line
        self._last_statistics = statistics() if statistics is not None else None
        self.next: float = float("inf") if quiet else self._then + interval  # CLOCK_MONOTONIC s of the next line

    def tick(self) -> None:
        """Print a line when it is time."""
        now = time.monotonic()
        if now >= self.next:
            self._print(now)
            # In step with the start, without making up for lines that were missed.
            self.next = max(self.next + self._interval, now + self._interval / 2)

    def _print(self, now: float) -> None:
        if self._stream is not None and not output.takes(self._stream):
            return
        reading, before, seconds = self._read(), self._last, max(now - self._then, 1e-9)
        self._last, self._then = reading, now
        text = f"{output.clock()}  {self._name}"
        text += f"{output.count((reading.packets - before.packets) / seconds):>8} packets/s  "
        if reading.octets is not None:
            text += f"{output.bits((reading.octets - (before.octets or 0)) * 8 / seconds):>12}  "
        text += f"total {output.count(reading.packets):>8}"
        for name, value in reading.others.items():
            text += f"  {name} {output.count(value - before.others.get(name, 0))}"
        print(f"{text}  {reading.note}" if reading.note else text, file=self._stream, flush=True)
        if self._statistics is not None:
            statistics = self._statistics()
            since = _counted(statistics - (self._last_statistics or statistics))
            print(f"           {since}", file=self._stream, flush=True)
            self._last_statistics = statistics


def _counted(statistics: Statistics) -> str:
    """What the kernel counted, in a line, under plain names."""
    values = [(getattr(statistics, name), plain) for name, plain in output.DROP_REASONS.items()]
    counted = ", ".join(f"{value:,} {plain}" for value, plain in values if value)
    return f"kernel: {counted or 'all six counters stand still'}"
