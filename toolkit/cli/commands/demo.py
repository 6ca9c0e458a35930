# SPDX-License-Identifier: Apache-2.0
"""`xsk demo`: shows AF_XDP at work, on a network of its own or on a real interface, to people who never saw it."""

from __future__ import annotations

import contextlib
import time
from typing import Any, NamedTuple

import click
import cloup

from toolkit.cli import options as opt
from toolkit.cli.command import command
from toolkit.cli.commands.demo_traffic import SentTraffic, Traffic
from toolkit.cli.guard import ask
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.demo import DemoView
from toolkit.cli.view.summary import Totals, summary
from toolkit.errors import DeviceGoneError
from toolkit.interface.interface import Interface
from toolkit.interface.open_interface import open as open_interface

__all__ = ["demo", "run"]

_LAB_FILTER = "icmp or udp"
_LAB_RING = 32768  # entries
_HOLDS = 0.1  # seconds of the paced flood that the ring holds, while we draw or the machine is busy
_QUIET_END = 0.3  # seconds at the end in which nothing is sent, so that everything arrives


@command(
    cloup.option_group("What to take", opt.FILTER, opt.YES),
    cloup.option_group("What to show", opt.JSON),
    cloup.option_group(
        "When to stop",
        cloup.option(
            "--seconds",
            metavar="S",
            type=opt.Number(min=2),
            default=8.0,
            show_default=True,
            help="Stop after this many seconds.",
        ),
    ),
    cloup.option_group("Which interface", opt.GIVEN),
    optional=True,
    filtered=True,
    examples=(
        ("xsk demo", "on a private network"),
        ("xsk demo eth0 udp port 9", "on a real interface; sends nothing"),
    ),
    matters=("--seconds", "--json", "--yes"),
)
def demo(interface: str | None, *, expression: str | None, yes: bool, seconds: float, as_json: bool) -> int:
    """Make two hosts, send real traffic from one, and receive it on the other through AF_XDP.

    The hosts are network namespaces joined by a virtual cable. First an ordinary kernel sends pings and UDP. Then a
    flood follows at the rate that this host can receive. In the last second the flood is faster than that, to show
    where packets are dropped and who counts them.

    Without INTERFACE, this machine's own network is not touched. With it, packets that match EXPRESSION do NOT reach
    this host while the demo runs, and nothing is sent; before it takes what this host needs, it asks
    (`xsk help taking`). Nothing is left behind.
    """
    if (interface is None) != (expression is None):
        raise click.UsageError(
            "a real interface needs a filter that says what to take, and a filter an interface. Next step: give both; "
            "or none, for a private network."
        )
    return run(interface, expression, seconds, as_json=as_json, yes=yes)


def run(interface: str | None, expression: str | None, seconds: float, *, as_json: bool, yes: bool = False) -> int:
    """Run the demo for `seconds`; the exit code: 1 when the counters do not add up.

    `yes`: on a real interface, even if the filter takes the session that this runs in.
    """
    if interface is not None and expression is not None:
        ask(interface, expression, assent=yes)
    with contextlib.ExitStack() as parts:
        stop = parts.enter_context(Stop(seconds))
        view = parts.enter_context(DemoView(quiet=as_json))
        traffic: Traffic | None = None
        if interface is None:
            from toolkit.lab import Lab

            lab = parts.enter_context(Lab())
            opened = parts.enter_context(
                open_interface(lab.interface, filter=_LAB_FILTER, ring_size=_LAB_RING, netns=lab.netns)
            )
            traffic = parts.enter_context(Traffic(lab, seconds - _QUIET_END, most=_LAB_RING / _HOLDS))
            view.introduce_lab(lab, opened)
        else:
            opened = parts.enter_context(open_interface(interface, filter=expression))
            view.introduce(opened)
        stop.restart()  # on a slow machine compiling may take all of a short time, and nothing would be shown
        report = _watch(opened, traffic, stop, view)
    status = output.finish(report, view.conclude, as_json=as_json)
    return status if report["received"] + report["dropped"] == report["redirected"] else 1


def _watch(opened: Interface, traffic: Traffic | None, stop: Stop, view: DemoView) -> dict[str, Any]:
    """Receive until the time is over, show what comes, and compare the counters."""
    totals, began, before = Totals(opened), time.monotonic(), _Counts()
    view.begin()
    gone: DeviceGoneError | None = None
    try:
        while not stop:
            if traffic is not None and traffic.step(time.monotonic() - began):
                before = _settled(opened, totals, view)
            batch = opened.receive(timeout=min(stop.timeout, 0.05))
            totals.add(batch)
            view.add(batch)
            view.show(time.monotonic() - began, totals, opened, traffic.phase if traffic is not None else "")
        elapsed = time.monotonic() - began
        if traffic is not None:
            traffic.stop()
    except DeviceGoneError as error:
        gone, elapsed = error, time.monotonic() - began
    report = summary(opened, totals, elapsed, gone) | {"protocols": view.protocols()}
    sent = None if traffic is None or gone is not None else traffic
    return report | _parts(report, before, sent)


class _Counts(NamedTuple):
    """What had been counted when the overload began."""

    redirected: int = 0
    received: int = 0
    dropped: int = 0


def _settled(opened: Interface, totals: Totals, view: DemoView) -> _Counts:
    """Receive what is on its way, now that nothing more is sent, and return the counters."""
    while batch := opened.receive(timeout=0.05):
        totals.add(batch)
        view.add(batch)
    return _Counts(opened.counters()["redirected"], totals.packets, opened.statistics().dropped)


def _parts(report: dict[str, Any], before: _Counts, traffic: Traffic | None) -> dict[str, Any]:
    """What was sent in all, and what of all figures belongs to the overload; None on a real interface."""
    if traffic is None:
        return {"sent": None, "lost_on_the_cable": None, "paced_rate": None, "overload": None}
    now = _Counts(*(report[name] for name in _Counts._fields))
    paced = _part(traffic.paced, now if traffic.overload is None else before)
    overload = None
    if traffic.overload is not None:
        overload = _part(traffic.overload, _Counts(*(a - b for a, b in zip(now, before, strict=True))))
    both = [part for part in (paced, overload) if part is not None]
    return {
        "sent": sum(part["sent"] for part in both),
        "lost_on_the_cable": sum(part["lost_on_the_cable"] for part in both),
        "paced_rate": round(traffic.fastest),
        "overload": overload,
    }


def _part(sent: SentTraffic, counts: _Counts) -> dict[str, int]:
    # A veth counts what the socket dropped among its own losses.
    return {"sent": sent.packets, "lost_on_the_cable": max(sent.lost - counts.dropped, 0), **counts._asdict()}
