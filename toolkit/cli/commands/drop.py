# SPDX-License-Identifier: Apache-2.0
"""`xsk drop`: receive, count, and let go, as fast as packets come."""

from __future__ import annotations

import sys
import time

from toolkit.cli.binding import Binding
from toolkit.cli.spelling import message_of
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine
from toolkit.cli.view.summary import Totals, conclude, ended, introduce, reading, summary
from toolkit.errors import DeviceGoneError
from toolkit.interface.interface import Interface

__all__ = ["run"]


def run(
    interface: str,
    binding: Binding,
    *,
    expression: str | None,
    batch_size: int | None,
    seconds: float | None,
    interval: float,
    extra: bool,
    as_json: bool,
) -> int:
    """Drop until a signal or `seconds`; the exit code."""
    # The program writes lengths on the wire where it writes times, at a tenth of the rate: only where packets are cut.
    described = binding.snaplen is not None
    with Stop(seconds) as stop, binding.open(interface, expression, timestamps=described) as opened:
        if not as_json:
            introduce(opened)
        totals, began = Totals(opened), stop.restart()  # to compile and attach is not to receive
        line = LiveLine(
            lambda: reading(opened, totals),
            interval=interval,
            statistics=opened.statistics if extra else None,
            quiet=as_json,
        )
        gone = _loop(opened, stop, totals, line, batch_size)
        report = summary(opened, totals, time.monotonic() - began, gone)
        if as_json:
            output.print_json(report)
        else:
            conclude(report)
    if (failure := ended(opened, gone)) is not None:
        print(f"xsk: {message_of(failure)}", file=sys.stderr)
        return 1
    return 0


def _loop(
    opened: Interface, stop: Stop, totals: Totals, line: LiveLine, batch_size: int | None
) -> DeviceGoneError | None:
    """Receive until it is time to stop. The Batch is never looked into: the next receive() gives its frames back."""
    receive, add, tick = opened.receive, totals.add, line.tick
    try:
        while not stop:
            add(receive(stop.timeout, batch_size))
            tick()
    except DeviceGoneError as gone:
        return gone
    return None
