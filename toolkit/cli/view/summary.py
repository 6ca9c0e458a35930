# SPDX-License-Identifier: Apache-2.0
"""Count packets; at the end detach, drain the rings, and compare three independent counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from toolkit.batch.batch import Batch
from toolkit.cli.spelling import message_of
from toolkit.cli.view import output
from toolkit.cli.view.live import Reading
from toolkit.cli.view.losses import complete, loss_lines, losses, now
from toolkit.errors import ClosedError, DeviceGoneError
from toolkit.interface.attachment import Attachment
from toolkit.interface.interface import Interface
from toolkit.interface.tee import Tee
from toolkit.xsk.statistics import Statistics

# What became of packets that the filter matched and that did not come here: the program's counters, by plain names.
_OUTCOMES = {
    "dropped": "dropped in the driver",
    "counted": "counted",
    "sampled_out": "not of the sample",
    "no_socket": "no socket",
}

Source = Interface | Tee
"""What a command receives: packets that came here, or copies."""

__all__ = [
    "Source",
    "Totals",
    "becomes",
    "conclude",
    "drain",
    "ended",
    "introduce",
    "outcome",
    "outcome_lines",
    "passed_line",
    "program_counts",
    "reading",
    "summary",
    "takes",
    "went_on",
]


class Totals:
    """What was received so far."""

    def __init__(self, opened: Source) -> None:
        """Count nothing yet of what comes from `opened`."""
        self.packets = 0
        self.bytes = 0  # on the wire
        # The length on the wire stands in front of the packet, and costs more to read than the length of what is there.
        self._cut = isinstance(opened, Tee) or any(rule.snaplen is not None for rule in opened.program.rules)

    def add(self, batch: Batch) -> None:
        """Count a Batch."""
        if batch:
            self.packets += len(batch)
            self.bytes += int(batch._on_wire().sum(dtype=np.int64) if self._cut else batch.lengths.sum())


def becomes(opened: Attachment) -> str:
    """Say what becomes of the packets that match, and whether this host gets them."""
    actions = {rule.action for rule in opened.program.rules} or {"redirect"}
    lost = {
        "redirect": "TAKEN, this host does not get them",
        "drop": "DROPPED in the driver, this host does not get them",
    }
    if isinstance(opened, Tee):
        lost["redirect"] = "copied, the kernel gets them as well"
    names = [lost[action] for action in ("redirect", "drop") if action in actions]
    return "; ".join(names) or "left to the kernel"


def introduce(opened: Attachment, what: str | None = None, *more: str) -> None:
    """Say in a line how it was opened: mode, queues, filter (or, in place of the filter, `what` is taken).

    more: lines that follow it.
    """
    info = opened.info()
    copying = "zero-copy" if info["zero_copy"] else "copy mode"
    queues = info["queues"]
    which = f"queue {queues[0]}" if len(queues) == 1 else f"{len(queues)} queues"
    output.say(
        f"{info['interface']}: {info['mode']} XDP, {copying}, {which}; {what or 'filter: ' + info['filter']}; "
        f"packets that match are {becomes(opened)}",
        *more,
        *([f"  generic, because: {info['fallback_reason']}"] if info["fallback_reason"] else []),
        *(["  promiscuous until the end: packets to other hosts' addresses come as well"] if info["promisc"] else []),
    )


def takes(opened: Source) -> bool:
    """Whether packets come here at all, or the rules leave them in the driver."""
    rules = opened.program.rules
    return not rules or any(rule.action == "redirect" for rule in rules)


def reading(opened: Source, totals: Totals) -> Reading:
    """Return what a live line shows: what came here, or what the driver did with it where the rules leave it there."""
    if takes(opened):
        return Reading(totals.packets, totals.bytes, now(opened.statistics()))
    counters = opened.counters()
    others = {name: counters[key] for key, name in _OUTCOMES.items() if counters[key]}
    return Reading(counters["matched"], counters["bytes"], others)


def drain(opened: Source, totals: Totals) -> None:
    """Detach, and receive what is still in the rings: after this the counters stand still."""
    try:
        opened.detach()
        while batch := opened.receive(timeout=0.05):
            totals.add(batch)
    except (ClosedError, DeviceGoneError):
        return


def summary(opened: Source, totals: Totals, seconds: float, gone: DeviceGoneError | None = None) -> dict[str, Any]:
    """Drain, then compare the counters of the program, ours, and the kernel's. `gone` is what ended it, if anything.

    `taken` is what was received before the end was asked for (with --count, just that many); `received` is all. Bytes
    are those on the wire, whatever --snaplen left of them.

    redirected is counted by the XDP program, received by us, dropped by the kernel; none is computed from the others.
    """
    taken, taken_bytes = totals.packets, totals.bytes
    drain(opened, totals)
    statistics = opened.statistics()
    return {
        **outcome(opened, gone, statistics),
        "sent": None,
        "received": totals.packets,
        "received_bytes": totals.bytes,
        "taken": taken,
        "taken_bytes": taken_bytes,
        **losses(opened, statistics),
        **program_counts(opened),
        "seconds": round(seconds, 3),
    }


def ended(opened: Source, gone: DeviceGoneError | None) -> DeviceGoneError | None:
    """Return what kept packets from coming before the end was asked for: `gone`, or a loss that was not noticed before.

    After detach(): what we took off ourselves is no news.
    """
    return gone or opened.loss()


def outcome(opened: Source, gone: DeviceGoneError | None, statistics: Statistics, missing: int = 0) -> dict[str, Any]:
    """Return how it was opened, and whether all came that the filter is for. After detach().

    missing: packets that got lost beyond those of the `statistics`.

    `mode` is the one in which it ran, `error` what ended it before that was asked for.
    """
    failure = ended(opened, gone)
    return {
        **opened.info(),
        "mode": opened.link.mode,
        "whole": failure is None and complete(statistics, zero_copy=opened.zero_copy) and not missing,
        "error": None if failure is None else message_of(failure),
    }


def program_counts(opened: Source) -> dict[str, Any]:
    """Put what the program counted beside what it redirected: what did not match, and what became of the others.

    to_kernel is all that the kernel got, for whatever reason.
    """
    counters = opened.counters()
    counted = {
        "redirected": counters["redirected"],
        "passed": counters.get("passed"),
        "matched": counters.get("matched"),
        "matched_bytes": counters.get("bytes"),
        "outcomes": {key: counters.get(key) for key in _OUTCOMES},
        "tee": isinstance(opened, Tee),
    }
    return counted | {"to_kernel": went_on(counted)}


def went_on(report: Mapping[str, Any]) -> int:
    """Count the packets that the kernel got, of a report with the keys of program_counts()."""
    outcomes = sum(report["outcomes"].get(key) or 0 for key in ("counted", "sampled_out", "no_socket"))
    return int((report["passed"] or 0) + outcomes + (report["redirected"] if report["tee"] else 0))


def outcome_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a line of what became of the packets that matched, where not all were redirected; else nothing."""
    outcomes = {name: report["outcomes"].get(key) or 0 for key, name in _OUTCOMES.items()}
    if not any(outcomes.values()):
        return []
    matched = f"{report['matched']:,} packets, {report['matched_bytes']:,} bytes"
    parts = {"redirected": report["redirected"], **outcomes}
    return [
        output.equation("the filter matched", report["matched"], parts).replace(f"{report['matched']:,}", matched, 1)
    ]


def passed_line(report: Mapping[str, Any]) -> list[str]:
    """Return a line of what went on to the kernel, if anything did."""
    return [f"passed on to the kernel: {report['to_kernel']:,}"] if report["to_kernel"] else []


def conclude(report: dict[str, Any]) -> None:
    """Print what summary() found, for people."""
    seconds = max(report["seconds"], 1e-9)
    output.say(
        f"{report['taken']:,} packets, {report['taken_bytes']:,} bytes in {report['seconds']:.1f} s "
        f"({output.count(report['taken'] / seconds)} packets/s)",
        *passed_line(report),
        *outcome_lines(report),
        output.equation("redirected", report["redirected"], {key: report[key] for key in ("received", "dropped")}),
        *loss_lines(report),
    )
