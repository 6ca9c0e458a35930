# SPDX-License-Identifier: Apache-2.0
"""Programs that run in turn, pair after pair, and what their runs come to: spreads, and our rate divided by theirs."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.consumer import PeerError
from benchmarks.figures import ratios, spread
from benchmarks.isolation import Cores
from benchmarks.load import Run
from benchmarks.testpmd import Settings

__all__ = ["SPINNING", "UNTUNED", "Plan", "alternate", "rate_ratios", "summary"]

UNTUNED, SPINNING = "testpmd, as it comes", "toolkit, spinning"

Note = Callable[[str], None]


@dataclass
class Plan:
    """How much is measured."""

    where: Cores
    pairs: int
    seconds: float
    pings: int
    slow_peers: int  # runs of tcpdump and scapy, which are much slower
    note: Note = lambda _: None  # called with the progress
    settings: dict[str, Settings] = field(default_factory=dict)  # of testpmd, by mode: the fastest of those tried


def alternate(
    plan: Plan,
    who: dict[str, Callable[[], Any]],
    *,
    after: Callable[[], object] = lambda: None,
    pairs: int | None = None,
) -> dict[str, list[Any]]:
    """Run all programs in turn, `pairs` times. A program that cannot run is left out, with a note."""
    runs: dict[str, list[Any]] = {name: [] for name in who}
    missing: set[str] = set()
    for turn in range(plan.pairs if pairs is None else pairs):
        for name, work in who.items():
            if name in missing:
                continue
            plan.note(f"{name}, run {turn + 1}")
            try:
                runs[name].append(work())
            except (PeerError, FileNotFoundError) as absent:
                missing.add(name)
                plan.note(f"{name} is left out: {absent}\n")
        after()
    return runs


def summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Return the spreads of what was measured, by program."""
    return {
        name: {
            "offered_pps": spread([one.offered for one in many]),
            "pps": spread([one.rate for one in many]),
            "cpu": spread([one.cpu for one in many]),
            "cpu_ns_per_packet": spread([one.cpu_ns for one in many]),
            "lost": sum(max(one.lost, 0) for one in many),
            "counted": [one.counted for one in many],
            "witnessed": [one.witnessed for one in many],
        }
        for name, many in runs.items()
        if many
    }


def rate_ratios(runs: dict[str, list[Run]], wanted: dict[str, float]) -> dict[str, Any]:
    """Return our rate divided by theirs; testpmd with the settings that have the better median in these runs."""
    found: dict[str, Any] = {}
    for name, least in wanted.items():
        peer = runs[name]
        untuned = runs.get(UNTUNED) if name == "testpmd" else None
        if untuned and (not peer or median_rate(untuned) > median_rate(peer)):
            peer = untuned
        ratio = ratios([one.rate for one in runs["toolkit"]], [one.rate for one in peer])
        if ratio:
            found[name] = {**ratio, "wanted": least, "offered": offered_ratio(runs["toolkit"], peer)}
        if name == "testpmd" and SPINNING in runs and peer:
            ratio = ratios([one.rate for one in runs[SPINNING]], [one.rate for one in peer])
            if ratio:
                found["testpmd (toolkit spinning)"] = {
                    **ratio,
                    "wanted": least,
                    "offered": offered_ratio(runs[SPINNING], peer),
                }
    return found


def median_rate(runs: list[Run]) -> float:
    return statistics.median(one.rate for one in runs)


def offered_ratio(ours: list[Run], theirs: list[Run]) -> float | None:
    """Return our offered load divided by theirs, by medians; None if the consumer is the source."""
    a, b = (statistics.median(one.offered for one in runs) for runs in (ours, theirs))
    return a / b if b else None
