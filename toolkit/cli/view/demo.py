# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: live tables on a terminal, plain lines elsewhere, and a summary."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from toolkit.batch.batch import Batch
from toolkit.cli.view import output
from toolkit.cli.view.shares import percent, share_table
from toolkit.cli.view.summary import Totals
from toolkit.flows import Flows
from toolkit.interface.interface import Interface
from toolkit.xsk.statistics import Statistics

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from toolkit.lab import Lab

__all__ = ["DemoView"]

_REFRESH = 0.2  # seconds between two pictures on a terminal
_LINE = 1.0  # seconds between two lines elsewhere
_ROWS = 5


class DemoView:
    """Shows the demo. With `quiet` nothing is printed."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console: Console | None = None
        self._live: Live | None = None
        self.begin()
        self._rates = (0.0, 0.0)  # packets and bits per second
        self._peak = 0.0
        self._protocols = Flows(group="protocol")
        self._flows = Flows(group="flow")
        self._lines: deque[str] = deque(maxlen=_ROWS)  # the last packets that were decoded

    def begin(self) -> None:
        """Begin the first rate now: the time to compile and attach is no part of it."""
        self._last = (time.monotonic(), 0, 0)  # when the rate was last computed; packets and bytes then

    def __enter__(self) -> DemoView:
        if not self._quiet:
            from rich.console import Console

            self._console = Console(highlight=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end_live()

    def introduce_lab(self, lab: Lab, opened: Interface) -> None:
        """Say what is about to happen on the private network."""
        self._say(
            "\n[bold]AF_XDP: packets from the network driver straight into a Python program[/bold]\n\n"
            "Here are two hosts: network namespaces, joined by a virtual cable.\n\n"
            f"  [cyan]far host[/cyan]  {lab.peer} {lab.peer_ip}  ══════ packets ══════▶  "
            f"{lab.interface} {lab.ip}  [cyan]near host[/cyan]\n"
            "  [dim]an ordinary kernel sends pings and UDP,  veth0's XDP program takes them,[/dim]\n"
            "  [dim]then a flood, then a faster one          and Python gets them[/dim]\n"
        )
        self._say_mode(opened)

    def introduce(self, opened: Interface) -> None:
        """Say what is about to happen on a real interface."""
        self._say(f"\n[bold]AF_XDP on {opened.name}[/bold]: what the filter takes does not reach this host's kernel.\n")
        self._say_mode(opened)

    def _say_mode(self, opened: Interface) -> None:
        from rich.markup import escape

        where = "inside the driver" if opened.mode == "native" else "behind the driver (generic: slower)"
        how = "written by the driver" if opened.zero_copy else "copied once by the kernel"
        self._say(
            f"The XDP program runs [bold]{where}[/bold]. "
            f"It takes “{escape(str(opened.filter))}”; all else goes on to the kernel.\n"
            f"Packets are {how} into memory shared with this process, and appear here as NumPy arrays.\n"
        )

    def add(self, batch: Batch) -> None:
        """Count a Batch by protocol and flow, and on a terminal decode some packets of it, when a picture is due."""
        self._protocols.add(batch)
        if self._console is None or not self._console.is_terminal:
            return
        self._flows.add(batch)
        if batch and (len(batch) < _ROWS or time.monotonic() - self._last[0] >= _REFRESH):
            from toolkit.decode.text import summary

            columns = batch.decode()
            self._lines += [summary(columns, row) for row in range(min(len(batch), 2))]

    def protocols(self) -> dict[str, int]:
        """Return the packets of each protocol, the largest first."""
        return {str(flow): flow.packets for flow in self._protocols.top(None, "packets")}

    def show(self, elapsed: float, totals: Totals, opened: Interface, phase: str) -> None:
        """Draw the live picture, or print a line, when it is time."""
        if self._console is None:
            return
        now = time.monotonic()
        terminal = self._console.is_terminal
        then, packets, octets = self._last
        if now - then < (_REFRESH if terminal else _LINE):
            return
        self._last = (now, totals.packets, totals.bytes)
        self._rates = ((totals.packets - packets) / (now - then), (totals.bytes - octets) * 8 / (now - then))
        self._peak = max(self._peak, self._rates[0])
        if not terminal:
            self._say(f"{elapsed:5.1f} s  {self._rate_text()}  total {output.count(totals.packets)}  {phase}")
            return
        picture = self._picture(elapsed, totals, opened.statistics(), phase)
        if self._live is None:
            from rich.live import Live

            self._live = Live(picture, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(picture, refresh=True)

    def _rate_text(self) -> str:
        return f"{output.count(self._rates[0]):>8} packets/s  {output.bits(self._rates[1]):>12}"

    def _picture(self, elapsed: float, totals: Totals, statistics: Statistics, phase: str) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        head = Text.from_markup(
            f"[bold green]{self._rate_text()}[/bold green]   total {totals.packets:,} packets   "
            f"dropped {statistics.dropped:,}\n[dim]{elapsed:.1f} s  {phase}[/dim]"
        )
        tables = Table.grid(padding=(0, 4))
        tables.add_row(
            _shares("protocol", self._protocols),
            _shares("top flows", self._flows),
        )
        packets = Text("\n".join(self._lines), overflow="ellipsis", no_wrap=True)
        return Panel(
            Group(head, Text(), tables, Text(), Text("some of the packets, decoded", style="bold"), packets),
            title="received through AF_XDP",
            border_style="cyan",
        )

    def conclude(self, report: dict[str, Any]) -> None:
        """Say what happened, with the sums that must agree."""
        self._end_live()
        self._say("\n[bold]What happened[/bold]\n")
        overload = report["overload"]
        if overload is None:
            self._account(report, Statistics(**report["drop_reasons"]))
        else:
            rate = output.count(report["paced_rate"])
            self._say(f"The flood at the rate that arrives here, up to {rate} packets/s:\n")
            names = ("sent", "lost_on_the_cable", "redirected", "received", "dropped")
            self._account({name: report[name] - overload[name] for name in names}, None)
            self._say("The faster flood at the end, frames made by the kernel as fast as one core can:\n")
            self._account(overload, Statistics(**report["drop_reasons"]))
        rate = report["received"] / max(report["seconds"], 1e-9)
        best = output.count(max(self._peak, rate))
        self._say(f"{best} packets/s at best; {report['mode']} XDP, one process, one queue\n")
        if report["sent"] is not None:
            self._say("The network, the program and the memory are gone again. There is nothing to clean up.")
            self._say("Next: [bold]xsk receive -h[/bold], or examples/first_packets.ipynb\n")

    def _account(self, part: dict[str, Any], statistics: Statistics | None) -> None:
        """Show where the packets of one part went, and who counted them; no line for what is zero."""
        why = output.reasons(statistics) if statistics is not None else ""
        rows = [
            ("sent", part["sent"], "counted by the senders on the far host"),
            (
                "lost",
                part["lost_on_the_cable"],
                "before XDP saw them, the queue of veth0 was full: counted by its driver (rx_dropped)",
            ),
            ("redirected", part["redirected"], "counted by the XDP program"),
            ("received", part["received"], "counted here, in Python"),
            ("dropped", part["dropped"], "counted by the kernel, for the socket" + (f": {why}" if why else "")),
        ]
        for name, value, who in rows:
            if value:
                self._say(f"  {name:<10}  {value:>14,}   {who}")
        even = part["received"] + part["dropped"] == part["redirected"]
        verdict = "redirected = received + dropped" if part["dropped"] else "redirected = received"
        self._say(f"\n  [green]✓[/green] {verdict}\n" if even else "\n  [red]✗ the counters do not add up[/red]\n")

    def _say(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, soft_wrap=True)
            sys.stdout.flush()

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _shares(title: str, counted: Flows) -> RenderableType:
    return share_table(
        title,
        ("packets", "share"),
        [
            (str(flow), output.count(flow.packets), percent(flow.packets, counted.packets))
            for flow in counted.top(_ROWS, "packets")
        ],
    )
