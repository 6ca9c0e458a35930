# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench`: measure, and print the figures as a table or as JSON. Nothing is judged here."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import receive, startup


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": len(values)}


def measure(*, quick: bool) -> dict[str, Any]:
    """Run everything; figures by name."""
    runs, seconds = (3, 1.5) if quick else (7, 4.0)
    cached, fresh = startup.open_ms(5 * runs, runs)
    megabytes, llvm = startup.memory()
    figures: dict[str, Any] = {
        "import_ms": spread(startup.import_ms(runs)),
        "open_cached_ms": spread(cached),
        "open_fresh_ms": spread(fresh),
        "memory_mb": megabytes,
        "llvm_mapped": llvm,
    }
    # Ceiling, full speed and half speed in turn, so that a slow minute of the machine hits all three alike.
    ceilings, full, half = [], [], []
    for _ in range(runs):
        ceilings.append(receive.ceiling(seconds))
        full.append(receive.receive(seconds, ring_size=32768))
        half.append(receive.receive(seconds, rate=full[-1].offered / 2, sum_lengths=True))
    figures["ceiling_pps"] = spread(ceilings)
    for name, results in (("full", full), ("half", half)):
        figures[name] = {
            "offered_pps": spread([one.offered for one in results]),
            "received_pps": spread([one.rate for one in results]),
            "received_share": spread([one.share for one in results]),
            "cpu_share": spread([one.cpu for one in results]),
            "mean_batch": spread([one.mean_batch for one in results]),
        }
    return figures


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table, each beside what it is held against."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("figure", "median", "min", "max", "wanted"):
        table.add_column(title, justify="left" if title == "figure" else "right")

    def row(name: str, values: dict[str, float], form: str, scale: float, wanted: str) -> None:
        table.add_row(name, *(form.format(values[key] * scale) for key in ("median", "min", "max")), wanted)

    row("import toolkit, ms", figures["import_ms"], "{:.0f}", 1, "< 150")
    row("open a veth, cached program, ms", figures["open_cached_ms"], "{:.1f}", 1, "< 30")
    row("open a veth, fresh compile, ms", figures["open_fresh_ms"], "{:.0f}", 1, "< 600")
    table.add_row("peak memory, one queue, MB", f"{figures['memory_mb']:.1f}", "", "", "< 60")
    table.add_row("LLVM in the process", "yes" if figures["llvm_mapped"] else "no", "", "", "no")
    row("ceiling: XDP drops in the driver, Mpps", figures["ceiling_pps"], "{:.2f}", 1e-6, "")
    for name, title in (("full", "full speed, rings of 32768"), ("half", "half speed, default rings, summing lengths")):
        row(f"{title}: offered, Mpps", figures[name]["offered_pps"], "{:.2f}", 1e-6, "")
        row("  received, Mpps", figures[name]["received_pps"], "{:.2f}", 1e-6, "")
        row("  received of redirected, %", figures[name]["received_share"], "{:.3f}", 100, ">= 99.9")
        row("  CPU of the receiver, %", figures[name]["cpu_share"], "{:.0f}", 100, "")
        row("  packets in a batch", figures[name]["mean_batch"], "{:.0f}", 1, "")
    Console(highlight=False).print(table)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: about half a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    figures = measure(quick=arguments.quick)
    figures["machine"] = {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        machine = figures["machine"]
        print(
            f"Linux {machine['kernel']}, Python {machine['python']}, {machine['cpus']} CPUs, load {machine['load']:.1f}"
        )
        show(figures)


if __name__ == "__main__":
    main()
