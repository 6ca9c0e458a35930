# SPDX-License-Identifier: Apache-2.0
"""Import, opening and memory, each in new processes, so that they start as cold as a user's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from toolkit.lab import Lab

ROOT = Path(__file__).resolve().parents[1]

_OPEN = """
import json, os, sys, time
import toolkit
from toolkit.program import Program
from toolkit.program import sources
cached, fresh = [], []
for turn in range(int(sys.argv[2])):
    began = time.perf_counter()
    interface = toolkit.open(sys.argv[1], filter="udp")
    cached.append(time.perf_counter() - began)
    interface.close()
for turn in range(int(sys.argv[3])):
    began = time.perf_counter()
    # An expression that is not in the cache: the compiling process, clang and the verifier all run.
    port = 1024 + (os.getpid() * 7 + turn) % 60000
    interface = toolkit.open(sys.argv[1], filter=f"udp port {port} and greater {40 + turn}")
    fresh.append(time.perf_counter() - began)
    interface.close()
print(json.dumps([cached, fresh]))
"""

_MEMORY = """
import json, sys, time
import toolkit
with toolkit.open(sys.argv[1], filter="udp") as interface:
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        interface.receive(timeout=0.1)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    maps = open("/proc/self/maps").read()
print(json.dumps([int(status["VmHWM"].split()[0]), "LLVM" in maps or "libbcc" in maps or "clang" in maps]))
"""


def _python(*arguments: str, lab: Lab | None = None) -> str:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if lab is None:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
        return done.stdout
    return str(lab.netns.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT).stdout)


def import_ms(runs: int) -> list[float]:
    """Return the ms of `import toolkit` in new interpreters with warm files, without the interpreter's own start."""
    text = "import time; t = time.perf_counter(); import toolkit; print(time.perf_counter() - t)"
    _python("-c", text)
    return [float(_python("-c", text)) * 1e3 for _ in range(runs)]


def open_ms(cached: int, fresh: int) -> tuple[list[float], list[float]]:
    """Return the ms of toolkit.open() on a veth: with a cached program, and with one that must be compiled."""
    with Lab() as lab:
        _python("-c", _OPEN, lab.interface, "1", "0", lab=lab)
        seconds = json.loads(_python("-c", _OPEN, lab.interface, str(cached), str(fresh), lab=lab))
    return [s * 1e3 for s in seconds[0]], [s * 1e3 for s in seconds[1]]


def memory() -> tuple[float, bool]:
    """Return the peak MB of a process that receives on one queue, and whether LLVM was ever mapped into it."""
    with Lab() as lab:
        kilobytes, llvm = json.loads(_python("-c", _MEMORY, lab.interface, lab=lab))
    return kilobytes / 1024, bool(llvm)
