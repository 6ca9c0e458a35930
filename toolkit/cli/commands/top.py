# SPDX-License-Identifier: Apache-2.0
"""`xsk top`: who has the traffic of an interface, live: flows, hosts, ports or protocols by rate and share."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from toolkit.cli.binding import Binding
from toolkit.cli.spelling import message_of
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.keys import Keys
from toolkit.cli.view.summary import Source, Totals, conclude, ended, introduce, summary
from toolkit.cli.view.top import TopView
from toolkit.errors import DeviceGoneError
from toolkit.flows import Flow, Flows
from toolkit.flows.flows import Order
from toolkit.flows.keys import Group

__all__ = ["run"]

_JSON_ROWS = 20  # rows in the JSON object, when --rows does not say
_ORDERS: dict[str, Order] = {"p": "packets", "b": "bytes"}
_GROUPS: dict[str, Group] = {"f": "flow", "s": "source", "d": "destination", "o": "port", "r": "protocol"}


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
        if as_json:
            largest = watch.flows.top(rows or _JSON_ROWS, watch.by)
            report |= {"group": watch.flows.group, "by": watch.by, "rows": len(watch.flows)}
            report |= {"evicted": watch.flows.evicted._asdict(), "top": [_plain(flow) for flow in largest]}
            output.print_json(report)
        else:
            conclude(report)
    if (failure := ended(opened, gone)) is not None:
        print(f"xsk: {message_of(failure)}", file=sys.stderr)
        return 1
    return 0


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
        """Count and show until it is time to stop; what became of the device, if it went."""
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
        """Do what the keys say; whether something is to be shown anew."""
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
    told = {name: value for name, value in flow._asdict().items() if not name.startswith(("recent_", "back_"))}
    times = {name: f"{np.datetime_as_string(told[name])}Z" for name in ("first", "last")}
    return {"name": str(flow), **told, **times}
