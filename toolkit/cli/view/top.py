# SPDX-License-Identifier: Apache-2.0
"""What `xsk top` shows: a live table on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from toolkit.cli.view import output
from toolkit.cli.view.shares import percent, share_table
from toolkit.cli.view.summary import Source, Totals
from toolkit.flows.flows import Flow, Flows, Order
from toolkit.interface.tee import Tee

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

__all__ = ["TopView"]

_LINES = 5  # rows each time, where there is no terminal that says how many fit
_AROUND = 9  # lines of a terminal that are not rows
_NAME = 30  # columns of a terminal that the name has at least, and what the figures take
_FIGURES = 60


class TopView:
    """Shows the rows of a Flows, each interval the largest."""

    def __init__(self, *, quiet: bool, interval: float, rows: int | None) -> None:
        self._quiet = quiet
        self._interval = interval
        self._rows = rows
        self._console: Console | None = None
        self._live: Live | None = None
        self.begin(Flows(1))
        self.next = self._then + interval  # CLOCK_MONOTONIC s of the next picture

    def begin(self, flows: Flows) -> None:
        """Show these from now on: nothing has been counted in them yet."""
        self._flows = flows
        self._then = time.monotonic()  # when the interval that is being shown began
        self._counted = (0, 0)  # packets and bytes then

    def __enter__(self) -> TopView:
        """Find out what the output is."""
        if not self._quiet:
            from rich.console import Console

            self._console = Console(highlight=False)
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the last picture on the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def is_terminal(self) -> bool:
        """Whether there are pictures, and keys make sense."""
        return self._console is not None and self._console.is_terminal

    def tick(self, by: Order, totals: Totals, opened: Source, *, now: bool = False) -> None:
        """Show an interval when it is over, or `now`."""
        at, flows = time.monotonic(), self._flows
        if at < self.next and not now:
            return
        due = at >= self.next
        if due:
            self.next = max(self.next + self._interval, at + self._interval / 2)
        seconds = max(at - self._then, 1e-3)
        packets, octets = flows.packets - self._counted[0], flows.bytes - self._counted[1]
        if self._console is not None:
            rows = flows.top(self._fitting(), by, recent=True)
            head = (
                f"{output.count(packets / seconds):>8} packets/s  {output.bits(octets * 8 / seconds):>12}  "
                f"total {output.count(totals.packets):>8}  dropped {output.count(opened.statistics().dropped)}  "
                f"{flows.group}s {output.count(len(flows))}"
            )
            if self.is_terminal:
                self._draw(head, self._table(rows, flows.group, by, seconds, packets, octets), opened, by)
            else:
                self._print(head, rows, by, seconds, packets, octets)
        if due:  # a picture between two shows the part of the interval that is over
            self._then, self._counted = at, (flows.packets, flows.bytes)
            flows.mark()

    def _fitting(self) -> int:
        if self._rows is not None:
            return self._rows
        assert self._console is not None
        return max(self._console.height - _AROUND, 3) if self.is_terminal else _LINES

    def _table(
        self, rows: list[Flow], group: str, by: Order, seconds: float, packets: int, octets: int
    ) -> RenderableType:
        assert self._console is not None
        return share_table(
            group,
            ("packets/s", "bits/s", "share", "packets", "bytes"),
            [
                (
                    str(row),
                    output.count(row.recent_packets / seconds),
                    output.bits(row.recent_bytes * 8 / seconds),
                    _share(row, by, packets, octets),
                    output.count(row.packets),
                    output.count(row.bytes),
                )
                for row in rows
            ],
            width=max(self._console.width - _FIGURES, _NAME),
        )

    def _draw(self, head: str, table: RenderableType, opened: Source, by: Order) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.panel import Panel
        from rich.text import Text

        keys = "q quit   p packets   b bytes   f flow   s source   d destination   o port   r protocol"
        gets = "gets as well" if isinstance(opened, Tee) else "does not get"
        picture = Panel(
            Group(
                Text(head, style="bold green", no_wrap=True, overflow="ellipsis"),
                Text(f"by {by} in the last interval ({self._interval:g} s); share of all that was taken", style="dim"),
                Text(),
                table,
            ),
            title=Text(f"{opened.name}: what “{opened.filter}” takes, and the kernel {gets}"),
            subtitle=keys,
            border_style="cyan",
        )
        if self._live is None:
            self._live = Live(picture, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(picture, refresh=True)

    def _print(self, head: str, rows: list[Flow], by: Order, seconds: float, packets: int, octets: int) -> None:
        print(f"{output.clock()}  {head}")
        for row in rows:
            print(
                f"  {_share(row, by, packets, octets):>7}  {output.count(row.recent_packets / seconds):>8} packets/s  "
                f"{output.bits(row.recent_bytes * 8 / seconds):>12}  {row}"
            )
        sys.stdout.flush()


def _share(row: Flow, by: Order, packets: int, octets: int) -> str:
    return percent(row.recent_packets, packets) if by == "packets" else percent(row.recent_bytes, octets)
