# SPDX-License-Identifier: Apache-2.0
"""Before testpmd is measured: which of its settings are the fastest here, by mode."""

from __future__ import annotations

from benchmarks import load
from benchmarks.consumer import PeerError
from benchmarks.load import Run
from benchmarks.rows import Plan
from benchmarks.testpmd import CHOICES, Settings, Testpmd
from toolkit.lab import Lab

__all__ = ["tune"]

_SECONDS = 1.0


def tune(plan: Plan, rounds: int) -> dict[str, dict[str, float]]:
    """Try every setting `rounds` times in each mode, and enter the fastest in the plan; packets/s of all."""
    tried: dict[str, dict[str, float]] = {}
    for mode in ("rxonly", "txonly", "macswap"):
        best: dict[Settings, float] = dict.fromkeys(CHOICES, 0.0)
        for _ in range(rounds):
            for settings in CHOICES:
                plan.note(f"testpmd {mode}, trying {_text(settings)}")
                try:
                    best[settings] = max(best[settings], _run(plan, mode, settings).rate)
                except (PeerError, FileNotFoundError) as refused:
                    plan.note(f"testpmd {mode} with {_text(settings)}: {refused}\n")
        plan.settings[mode] = max(best, key=lambda settings: best[settings])
        tried[mode] = {_text(settings): rate for settings, rate in best.items()}
    return tried


def _run(plan: Plan, mode: str, settings: Settings) -> Run:
    def start(lab: Lab) -> Testpmd:
        return Testpmd(lab, mode, plan.where, settings)

    work = {"rxonly": load.receiving, "txonly": load.sending, "macswap": load.forwarding}[mode]
    return work(start, plan.where, _SECONDS)


def _text(settings: Settings) -> str:
    return " ".join([settings.device, *settings.arguments]).strip() or "defaults"
