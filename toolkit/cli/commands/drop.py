# SPDX-License-Identifier: Apache-2.0
"""`xsk drop`: receive, count and discard, as fast as packets come."""

from __future__ import annotations

import time
from typing import Any

import cloup

from toolkit.cli import options as opt
from toolkit.cli.binding import Binding
from toolkit.cli.command import command
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine
from toolkit.cli.view.summary import Totals, conclude, introduce, reading, summary
from toolkit.errors import DeviceGoneError
from toolkit.interface.interface import Interface

__all__ = ["drop", "run"]


@command(
    cloup.option_group("What to take", opt.FILTER, opt.ON_MATCH, *opt.SAMPLING, opt.YES),
    cloup.option_group("What to show", opt.NO_NAMES, opt.INTERVAL, opt.EXTRA, opt.JSON),
    cloup.option_group("When to stop", opt.SECONDS),
    opt.where(),
    opt.how_to_receive(opt.batch_size()),
    filtered=True,
    examples=(
        ("xsk drop eth0 udp port 9", "how fast Python receives"),
        ("xsk drop eth0 udp port 9 --queue 2 --spin", "one queue, without sleeping"),
        ("xsk drop eth0 udp port 9 --batch-size 64 --seconds 10 --json", ""),
        ("xsk drop eth0 host 192.0.2.7 --on-match drop", "in the driver"),
        ("xsk drop eth0 udp --on-match drop --sample 1/10", "lose a tenth of all UDP"),
    ),
    matters=("--on-match", "--sample", "--seconds", "--interval", "--extra", "--json", "--queue", "--spin", "--yes"),
)
def drop(interface: str, **options: Any) -> int:
    """TAKE packets that match EXPRESSION, so that this host does not get them, and discard them.

    EXPRESSION is tcpdump's, or 'all' (`xsk help filters`). Before it takes what this host needs, it asks
    (`xsk help taking`). With --on-match count the kernel gets the packets as well.

    Standard output gets a line each second. At the end the program is detached, the rings are emptied, and standard
    error gets the account, to the packet: redirected = received + dropped (`xsk help output`).
    """
    return run(interface, opt.binding_from(options), **options)


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
    """Discard until a signal or `seconds`. Return the exit code."""
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
    return output.finish(report, conclude, as_json=as_json)


def _loop(
    opened: Interface, stop: Stop, totals: Totals, line: LiveLine, batch_size: int | None
) -> DeviceGoneError | None:
    """Receive until it is time to stop. The Batch is never read: the next receive() gives its frames back."""
    receive, add, tick = opened.receive, totals.add, line.tick
    try:
        while not stop:
            add(receive(stop.timeout, batch_size))
            tick()
    except DeviceGoneError as gone:
        return gone
    return None
