# SPDX-License-Identifier: Apache-2.0
"""Measurements that are not rows of the table: start-up, memory, and profiles of the busy jobs."""

from __future__ import annotations

from typing import Any

from benchmarks import profiles, rows, startup
from benchmarks.consumer import PeerError
from benchmarks.figures import spread
from benchmarks.turns import Plan

__all__ = ["profile_figures", "startup_figures"]


def startup_figures(runs: int) -> dict[str, Any]:
    """Return the figures of import, opening and memory."""
    cached, fresh = startup.open_ms(5 * runs, runs)
    megabytes, llvm = startup.memory()
    return {
        "import_ms": spread(startup.import_ms(runs)),
        "open_cached_ms": spread(cached),
        "open_fresh_ms": spread(fresh),
        "memory_mb": megabytes,
        "llvm_mapped": llvm,
    }


def profile_figures(plan: Plan, seconds: float) -> dict[str, Any]:
    """Return the shares of CPU time by part and by function, for the toolkit and testpmd at the same work."""
    found: dict[str, Any] = {}
    for job, mode in (("receive", "rxonly"), ("forward", "macswap"), ("send", "txonly")):
        plan.note(f"profile: {job}")
        ours, send = rows.start_worker(plan.where, job), job == "send"
        found[job] = {
            "toolkit": profiles.parts(ours, plan.where, seconds, send=send),
            "functions": profiles.functions(ours, plan.where, seconds, send=send),
        }
        try:
            found[job]["testpmd"] = profiles.parts(rows.start_testpmd(plan, mode), plan.where, seconds, send=send)
        except (PeerError, FileNotFoundError) as absent:
            plan.note(f"testpmd is left out: {absent}\n")
    return found
