# SPDX-License-Identifier: Apache-2.0
"""The xsk command as a process in a lab's namespace: run to its end, or for the length of a block, once it is ready."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from support import child_environment, eventually

from toolkit.lab import Lab

__all__ = ["ENVIRONMENT", "XSK", "running", "xsk"]

XSK = [sys.executable, "-m", "toolkit.cli"]
ENVIRONMENT = child_environment(PYTHONUNBUFFERED="1")


def xsk(lab: Lab, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **options}
    return lab.netns.run([*XSK, *arguments], env=ENVIRONMENT, **options)


@contextlib.contextmanager
def running(lab: Lab, *arguments: str, ready: int = 2, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start it and wait until it has everything open: `ready` is the number of Sockets and Interfaces (or Tees)."""
    options = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = lab.netns.popen([*XSK, *arguments], **options)
    try:
        assert eventually(lambda: _events(process) >= ready or process.poll() is not None, 30, step=0.02)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _events(process: subprocess.Popen[str]) -> int:
    """How many event descriptors it has: one for each Socket, and one for an Interface, which is made last."""
    found = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{process.pid}/fd"):
            with contextlib.suppress(OSError):
                found += "eventfd" in os.readlink(f"/proc/{process.pid}/fd/{name}")
    return found
