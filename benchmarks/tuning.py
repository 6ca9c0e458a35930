# SPDX-License-Identifier: Apache-2.0
"""Tuning: find testpmd's fastest settings on this machine, by mode, before it is measured."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import load
from benchmarks.consumer import PeerError
from benchmarks.load import Run
from benchmarks.testpmd import CHOICES, Settings, Testpmd
from benchmarks.turns import Plan
from toolkit.lab import Lab

__all__ = ["tune"]

_SECONDS = 1.0


def tune(plan: Plan, rounds: int) -> dict[str, dict[str, Any]]:
    """Try every setting `rounds` times in each mode, and put the one with the best median into the plan.

    Returns, by mode and setting, the packets/s of each try, and why tries failed (a failure is not a rate of 0).
    """
    tried: dict[str, dict[str, Any]] = {}
    for mode in ("rxonly", "txonly", "macswap"):
        rates: dict[Settings, list[float]] = {settings: [] for settings in CHOICES}
        failed: dict[str, list[str]] = {}
        for _ in range(rounds):
            for settings in CHOICES:
                plan.note(f"testpmd {mode}, trying {_text(settings)}")
                try:
                    rates[settings].append(_run(plan, mode, settings).rate)
                except (PeerError, OSError) as refused:
                    failed.setdefault(_text(settings), []).append(str(refused))
                    plan.note(f"testpmd {mode} with {_text(settings)}: {refused}\n")
        whole = {settings: many for settings, many in rates.items() if len(many) == rounds}
        if whole:  # otherwise it keeps its first settings, which every pair tries in any case
            plan.settings[mode] = max(whole, key=lambda settings: statistics.median(whole[settings]))
        tried[mode] = {"pps": {_text(settings): many for settings, many in rates.items()}, "failed": failed}
    return tried


def _run(plan: Plan, mode: str, settings: Settings) -> Run:
    def start(lab: Lab) -> Testpmd:
        return Testpmd(lab, mode, plan.where, settings)

    work = {"rxonly": load.receiving, "txonly": load.sending, "macswap": load.forwarding}[mode]
    return work(start, plan.where, _SECONDS)


def _text(settings: Settings) -> str:
    return " ".join([settings.device, *settings.arguments]).strip() or "defaults"
