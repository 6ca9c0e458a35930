# SPDX-License-Identifier: Apache-2.0
"""`xsk top`: who has the traffic of an interface, live: flows, hosts, ports or protocols by rate and share."""

from __future__ import annotations

import time
from typing import Any

import click
import cloup

from toolkit.cli import options as opt
from toolkit.cli.binding import Binding
from toolkit.cli.command import command
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.keys import Keys
from toolkit.cli.view.summary import Source, Totals, conclude, introduce, summary
from toolkit.cli.view.top import TopView
from toolkit.errors import DeviceGoneError
from toolkit.flows import Flow, Flows
from toolkit.flows.flows import Order
from toolkit.flows.keys import Group

__all__ = ["run", "top"]

_JSON_ROWS = 20  # rows in the JSON object, when --rows does not say
_ORDERS: dict[str, Order] = {"p": "packets", "b": "bytes"}
_GROUPS: dict[str, Group] = {"f": "flow", "s": "source", "d": "destination", "o": "port", "r": "protocol"}


@command(
    cloup.option_group("What to take", opt.FILTER, opt.TEE, *opt.SAMPLING, opt.YES),
    cloup.option_group(
        "What to show",
        cloup.option(
            "--group",
            metavar="WHAT",
            type=click.Choice(["flow", "source", "destination", "port", "protocol"]),
            default="flow",
            show_default=True,
            help="Count by flow, source, destination, port or protocol. A port is the lower of the two of a packet.",
        ),
        cloup.option(
            "--by", type=click.Choice(["bytes", "packets"]), default="bytes", show_default=True, help="Sort by this."
        ),
        cloup.option(
            "--rows",
            metavar="N",
            type=click.IntRange(min=1),
            help="Rows to show.  [what fits the terminal; else 5]",
        ),
        cloup.option(
            "--max-flows",
            metavar="N",
            type=click.IntRange(16, 1 << 24),
            default=1 << 16,
            show_default=True,
            help="How many flows, hosts or ports to remember. Those that were idle longest make room.",
        ),
        opt.NO_NAMES,
        opt.INTERVAL,
        opt.JSON,
    ),
    cloup.option_group("When to stop", opt.SECONDS),
    opt.where(),
    opt.how_to_receive(),
    filtered=True,
    examples=(
        ("xsk top eth0 all --tee", "who sends what arrives"),
        ("xsk top eth0 udp --tee --group source", "which hosts send UDP"),
        ("xsk top eth0 udp --tee --seconds 10 --json", ""),
        ("xsk top eth0 udp port 4789", "taken: this host misses them"),
        ("xsk top eth0 tcp --sample 1/100 --group port", "one of a hundred is taken"),
    ),
    matters=("--tee", "--group", "--by", "--rows", "--interval", "--seconds", "--json", "--yes"),
)
def top(interface: str, **options: Any) -> int:
    """TAKE packets that match EXPRESSION, so that this host does not get them, and show who sends how much.

    With --tee it works on copies, and this host gets every packet.

    EXPRESSION is tcpdump's, or 'all' (`xsk help filters`). Before it takes what this host needs, it asks
    (`xsk help taking`).

    It shows rate and share of the last interval, and totals. With --sample 1/100 most packets go on to the kernel; all
    figures are then those of the sample.

    On a terminal it shows a table. These keys work: q quits; p and b sort by packets or by bytes; f, s, d, o and r
    group by flow, source, destination, port or protocol, and begin to count anew. Elsewhere it prints lines on standard
    output. At the end standard error gets the account: redirected = received + dropped (`xsk help output`).
    """
    return run(interface, opt.binding_from(options), **options)


def run(
    interface: str,
    binding: Binding,
    *,
    expression: str | None,
    group: Group,
    by: Order,
    rows: int | None,
    max_flows: int,
    seconds: float | None,
    interval: float,
    as_json: bool,
) -> int:
    """Watch until a signal, `seconds` or the key q; the exit code."""
    with Stop(seconds) as stop, binding.watch(interface, expression) as opened:
        if not as_json:
            introduce(opened)
        totals, began = Totals(opened), stop.restart()  # to compile and attach is not to watch
        with TopView(quiet=as_json, interval=interval, rows=rows) as view:
            watch = _Watch(opened, stop, view, totals, group, by, max_flows)
            gone = watch.loop()
        report = summary(opened, totals, time.monotonic() - began, gone)
    largest = watch.flows.top(rows or _JSON_ROWS, watch.by)
    report |= {"group": watch.flows.group, "by": watch.by, "rows": len(watch.flows)}
    report |= {"evicted": watch.flows.evicted._asdict(), "top": [_plain(flow) for flow in largest]}
    return output.finish(report, conclude, as_json=as_json)


class _Watch:
    """The loop, and what keys change in it."""

    def __init__(
        self, opened: Source, stop: Stop, view: TopView, totals: Totals, group: Group, by: Order, max_flows: int
    ) -> None:
        self._opened = opened
        self._stop = stop
        self._view = view
        self._totals = totals
        self._max_flows = max_flows
        self.by: Order = by
        self._count_by(group)

    def _count_by(self, group: Group) -> None:
        """Begin to count, and to show rates, from now on."""
        self.flows = Flows(self._max_flows, group=group)
        self._view.begin(self.flows)

    def loop(self) -> DeviceGoneError | None:
        """Count and show until it is time to stop. Return the error of a device that went away, or None."""
        with Keys() as keys:
            while not self._stop:
                timeout = min(self._stop.timeout, max(self._view.next - time.monotonic(), 0.0))
                try:
                    batch = self._opened.receive(timeout=timeout)
                    self._totals.add(batch)
                    self.flows.add(batch)
                    changed = self._view.is_terminal and self._obey(keys.pressed())
                    self._view.tick(self.by, self._totals, self._opened, now=changed)
                except DeviceGoneError as gone:
                    return gone
        return None

    def _obey(self, pressed: str) -> bool:
        """Act on the keys. Return whether the picture must be drawn again."""
        changed = False
        for key in pressed:
            if key == "q":
                self._stop.request()
            elif key in _ORDERS:
                self.by, changed = _ORDERS[key], True
            elif key in _GROUPS and _GROUPS[key] != self.flows.group:
                self._count_by(_GROUPS[key])
                changed = True
        return changed


def _plain(flow: Flow) -> dict[str, Any]:
    columns = {name: value for name, value in flow._asdict().items() if not name.startswith(("recent_", "back_"))}
    times = {name: output.instant(columns[name]) for name in ("first", "last")}
    return {"name": str(flow), **columns, **times}
