# SPDX-License-Identifier: Apache-2.0
"""Profiles: perf gives the shares of kernel, NumPy and interpreter; a sampler gives those of our functions."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.consumer import Worker
from benchmarks.isolation import Cores
from benchmarks.testpmd import Testpmd
from toolkit.lab import Lab
from toolkit.program import Program

__all__ = ["functions", "parts"]

# Shares of a process's CPU time, by part.
_PARTS = (
    ("kernel", re.compile(r"^\[kernel|^\[veth|^\[guest")),
    ("NumPy", re.compile(r"numpy|_multiarray|_umath")),
    ("Python", re.compile(r"python")),
    ("libc", re.compile(r"^libc[.-]|ld-linux|vdso")),
)
_SIXTY_FOUR = 64


def parts(
    start: Callable[[Lab], Worker | Testpmd], where: Cores, seconds: float, *, send: bool = False
) -> dict[str, Any]:
    """Profile a consumer with perf: shares by part, and the busiest symbols. {} if perf does not work."""
    with Lab() as lab, Program.build("xdp_drop.c") as program, program.attach(lab.peer, netns=lab.far):
        consumer = start(lab)
        try:
            pid = consumer.pid
            consumer.start()
            if send:
                if isinstance(consumer, Worker):
                    consumer.tell("send", seconds + 1)
                time.sleep(0.2)
                found = _record(pid, seconds)
                if isinstance(consumer, Worker):
                    consumer.hear()
                return found
            with lab.generator(seconds=seconds + 1, size=_SIXTY_FOUR, cpu=where.generator):
                time.sleep(0.2)
                return _record(pid, seconds)
        finally:
            consumer.close()


def functions(start: Callable[[Lab], Worker], where: Cores, seconds: float, *, send: bool = False) -> dict[str, float]:
    """Return the shares of a Worker's CPU time by our functions, including their calls of C, NumPy and the kernel."""
    with Lab() as lab, Program.build("xdp_drop.c") as program, program.attach(lab.peer, netns=lab.far):
        worker = start(lab)
        try:
            worker.ask("profile", "on")
            if send:
                worker.ask("send", seconds)
            else:
                with lab.generator(seconds=seconds, size=_SIXTY_FOUR, cpu=where.generator) as generator:
                    generator.wait(seconds + 10)
            counts: Counter[str] = Counter(worker.ask("profile", "off"))
        finally:
            worker.close()
    total = max(sum(counts.values()), 1)
    return {name: count / total for name, count in counts.most_common(25)}


def _record(pid: int, seconds: float) -> dict[str, Any]:
    if shutil.which("perf") is None:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        data = str(Path(directory) / "perf.data")
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-p", str(pid), "-o", data]
        done = subprocess.run([*record, "--", "sleep", str(seconds)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return {}
        report = ["perf", "report", "-i", data, "--stdio", "-q", "-g", "none", "--sort", "dso,symbol", "-t", ";"]
        text = subprocess.run(report, capture_output=True, text=True, check=False).stdout
    return _parse(text)


def _parse(text: str) -> dict[str, Any]:
    shares: defaultdict[str, float] = defaultdict(float)
    symbols: list[tuple[float, str]] = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(";")]
        if len(fields) < 3 or not fields[0].endswith("%"):
            continue
        share = float(fields[0].rstrip("%")) / 100
        shares[next((name for name, pattern in _PARTS if pattern.search(fields[1])), fields[1])] += share
        symbols.append((share, re.sub(r"^\[[.k]\] ", "", fields[2]) + f" ({fields[1]})"))
    return {"shares": dict(shares), "symbols": [(name, share) for share, name in sorted(symbols, reverse=True)[:30]]}
