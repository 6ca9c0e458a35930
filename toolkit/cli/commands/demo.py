# SPDX-License-Identifier: Apache-2.0
"""`xsk demo`: the main job, on a network of its own or on a real interface, for people who have never seen it."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from toolkit.cli.commands.demo_traffic import Traffic
from toolkit.cli.guard import ask
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.demo import DemoView
from toolkit.cli.view.sampler import Sampler
from toolkit.cli.view.summary import Totals, summary
from toolkit.errors import DeviceGoneError
from toolkit.interface.interface import Interface
from toolkit.interface.open_interface import open as open_interface

__all__ = ["run"]

_LAB_FILTER = "icmp or udp"
_LAB_RING = 32768  # entries: drawing takes some 10 ms, in which the flood brings 25,000 packets
_QUIET_END = 0.3  # seconds at the end in which nothing is sent, so that everything arrives


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
            traffic = parts.enter_context(Traffic(lab, seconds - _QUIET_END))
            view.introduce_lab(lab, opened)
        else:
            opened = parts.enter_context(open_interface(interface, filter=expression))
            view.introduce(opened)
        stop.restart()  # on a slow machine compiling may take all of a short time, and nothing would be shown
        report = _watch(opened, traffic, stop, view)
        failure = report["error"]
        view.conclude(report)
        if as_json:
            output.print_json(report)
        if failure is not None:
            print(f"xsk: {failure}", file=sys.stderr)
            return 1
        return 0 if report["received"] + report["dropped"] == report["redirected"] else 1


def _watch(opened: Interface, traffic: Traffic | None, stop: Stop, view: DemoView) -> dict[str, Any]:
    """Receive until the time is over, show what comes, and reconcile."""
    totals, sampler, began = Totals(opened), Sampler(), time.monotonic()
    view.begin()
    gone: DeviceGoneError | None = None
    while not stop:
        if traffic is not None:
            traffic.step(time.monotonic() - began)
        try:
            batch = opened.receive(timeout=min(stop.timeout, 0.05))
        except DeviceGoneError as error:
            gone = error
            break
        totals.add(batch)
        sampler.add(batch)
        view.show(time.monotonic() - began, totals, sampler, opened, traffic.phase if traffic is not None else "")
    elapsed = time.monotonic() - began
    sent, lost = None, None
    if traffic is not None and gone is None:
        sent, lost = traffic.finish(lambda: totals.add(opened.receive(timeout=0.01)))
    report = summary(opened, totals, elapsed, gone)
    if lost is not None:
        lost = max(lost - report["dropped"], 0)  # a veth counts what the socket dropped among its own losses
    report["sent"], report["lost_on_the_cable"] = sent, lost
    report["protocols"] = dict(sampler.protocols.most_common())
    return report
