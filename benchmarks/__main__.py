# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench`: measure the toolkit and its peers; print a table or JSON, write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import batches, costs, decoding, isolation, rows, table, tuning
from benchmarks.turns import Plan

_EXTRAS = ("startup", "batches", "decode", "profile")  # measurements that are not rows of the table


def _note(text: str) -> None:
    """Report progress: on a terminal a line that is overwritten, unless `text` ends in \\n."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text.endswith("\n"):
        print(text, end="", file=sys.stderr, flush=True)


def measure(names: Sequence[str], *, quick: bool, pairs: int | None, seconds: float | None) -> dict[str, Any]:
    """Measure the rows and extras of these names; return the figures by name."""
    plan = Plan(
        where=isolation.cores(),
        pairs=pairs or (2 if quick else 7),
        seconds=seconds or (0.8 if quick else 3.0),
        pings=1500 if quick else 10000,
        slow_peers=1 if quick else 3,
        note=_note,
    )
    # A high priority, which the generator's process inherits, so that other load on the machine is not measured.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    figures: dict[str, Any] = {"began": time.strftime("%Y-%m-%d %H:%M:%S %z"), "machine": machine(), "quick": quick}
    wanted = [name for name in rows.NAMES if name in names]
    if not quick and {"receive", "send", "forward"} & set(wanted):
        figures["testpmd_tried_pps"] = tuning.tune(plan, 3)
    figures["testpmd_settings"] = {mode: list(settings) for mode, settings in plan.settings.items()}
    figures["rows"] = rows.measure(plan, wanted)
    if "startup" in names:
        plan.note("import, opening, memory")
        figures["startup"] = costs.startup_figures(3 if quick else 7)
    if "batches" in names:
        plan.note("cost by batch size")
        figures["batch_ns_per_packet"], figures["no_floor"] = batches.costs(plan.where, 3 if quick else 7)
    if "decode" in names:
        plan.note("decoding, tables, flows")
        figures["decode_pps"] = decoding.rates(0.05 if quick else 0.5)
    if "profile" in names:
        figures["profiles"] = costs.profile_figures(plan, 0.8 if quick else 3.0)
    figures["load_after"] = os.getloadavg()[0]
    plan.note("")
    return figures


def machine() -> dict[str, Any]:
    """Return a description of this machine."""
    with open("/proc/cpuinfo") as text:
        model = next((line.split(":", 1)[1].strip() for line in text if line.startswith("model name")), "?")
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": model,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Parse, measure, print."""
    everything = (*rows.NAMES, *_EXTRAS)
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: under two minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its plots as well")
    parser.add_argument("--pairs", type=int, metavar="N", help="runs of each (7; quick: 2)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a run (3; quick: 0.8)")
    parser.add_argument("only", nargs="*", choices=[*everything, []], help="only these (default: all)")
    arguments = parser.parse_args()
    names = arguments.only or everything
    figures = measure(names, quick=arguments.quick, pairs=arguments.pairs, seconds=arguments.seconds)
    if arguments.json:
        print(json.dumps(figures))
    else:
        table.show(figures)
    if arguments.write:
        from benchmarks import document

        document.write(figures)


if __name__ == "__main__":
    main()
