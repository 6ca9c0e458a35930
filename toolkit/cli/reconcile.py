# SPDX-License-Identifier: Apache-2.0
"""Counting, and the end of it: the program detached, the rings drained, three independent counts side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.abi.if_xdp import Statistics
from toolkit.batch import Batch
from toolkit.cli import output
from toolkit.cli.live import Reading
from toolkit.errors import ClosedError, DeviceGoneError
from toolkit.interface import Interface
from toolkit.tee_interface import Tee

# What became of packets that the filter matched and that did not come here: the program's counter, in words.
_FATES = {
    "dropped": "dropped in the driver",
    "counted": "counted",
    "sampled_out": "not of the sample",
    "no_socket": "no socket",
}

Source = Interface | Tee
"""What a command looks at: packets that came here, or copies."""

__all__ = ["Source", "Totals", "conclude", "drain", "introduce", "reading", "summary"]


@dataclass
class Totals:
    """What was received so far."""

    packets: int = 0
    bytes: int = 0

    def add(self, batch: Batch) -> None:
        """Count a Batch."""
        if batch:
            self.packets += len(batch)
            self.bytes += int(batch.lengths.sum())


def introduce(opened: Source, what: str | None = None) -> None:
    """Say in a line what came about: mode, queues, filter (or `what` is taken, where the filter is no matter)."""
    info = opened.info()
    copying = "zero-copy" if info["zero_copy"] else "copy mode"
    queues = info["queues"]
    which = f"queue {queues[0]}" if len(queues) == 1 else f"{len(queues)} queues"
    print(
        f"{info['interface']}: {info['mode']} XDP, {copying}, {which}; {what or 'filter: ' + info['filter']}"
        + ("; the kernel gets them as well" if isinstance(opened, Tee) else ""),
        flush=True,
    )
    if info["fallback_reason"]:
        print(f"  generic, because: {info['fallback_reason']}", flush=True)


def reading(opened: Source, totals: Totals) -> Reading:
    """Return what a live line shows: what came here, or what the driver did with it where the rules leave it there."""
    rules = opened.program.rules
    if not rules or any(rule.action == "redirect" for rule in rules):
        return Reading(totals.packets, totals.bytes, {"dropped": opened.statistics().dropped})
    counters = opened.counters()
    others = {name: counters[key] for key, name in _FATES.items() if counters[key]}
    return Reading(counters["matched"], counters["bytes"], others)


def drain(opened: Source, totals: Totals) -> None:
    """Detach, and receive what is still in the rings: after this the counters stand still."""
    try:
        opened.detach()
        while batch := opened.receive(timeout=0.05):
            totals.add(batch)
    except (ClosedError, DeviceGoneError):
        return


def summary(opened: Source, totals: Totals, seconds: float) -> dict[str, Any]:
    """Drain, then put the program's counters, ours and the kernel's side by side.

    `taken` is what was received before the end was asked for (with --count, just that many); `received` is all.

    redirected is counted by the XDP program, received by us, dropped by the kernel; none is computed from the others.
    """
    taken, taken_bytes = totals.packets, totals.bytes
    drain(opened, totals)
    counters, statistics = opened.counters(), opened.statistics()
    return {
        **opened.info(),
        "sent": None,
        "redirected": counters["redirected"],
        "received": totals.packets,
        "received_bytes": totals.bytes,
        "taken": taken,
        "taken_bytes": taken_bytes,
        "dropped": statistics.dropped,
        "drop_reasons": statistics._asdict(),
        "passed": counters.get("passed"),
        "matched": counters.get("matched"),
        "matched_bytes": counters.get("bytes"),
        "fates": {key: counters.get(key) for key in _FATES},
        "tee": isinstance(opened, Tee),
        "seconds": round(seconds, 3),
    }


def conclude(report: dict[str, Any]) -> None:
    """Print what summary() found, for people."""
    seconds = max(report["seconds"], 1e-9)
    statistics = Statistics(**report["drop_reasons"])
    went_on = report["passed"] + sum(report["fates"].get(key) or 0 for key in ("counted", "sampled_out", "no_socket"))
    if report["tee"]:
        went_on += report["redirected"]
    print(
        f"{report['taken']:,} packets, {report['taken_bytes']:,} bytes in {report['seconds']:.1f} s "
        f"({output.count(report['taken'] / seconds)} packets/s); passed on to the kernel: {went_on:,}"
    )
    fates = [f"{name} {report['fates'][key]:,}" for key, name in _FATES.items() if report["fates"].get(key)]
    if fates:
        print(
            f"the filter matched {report['matched']:,} packets, {report['matched_bytes']:,} bytes = "
            f"redirected {report['redirected']:,} + {' + '.join(fates)}"
        )
    print(f"redirected {report['redirected']:,} = received {report['received']:,} + dropped {report['dropped']:,}")
    print(output.kernel_counters(statistics), flush=True)
