# SPDX-License-Identifier: Apache-2.0
"""Consumer: a program that is measured, in a process of its own: one interface for the toolkit and its peers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.isolation import Cores, child_prefix, cpu_ns
from toolkit.lab import Lab

__all__ = ["Consumer", "Counts", "PeerError", "Worker"]

ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT = 30.0  # seconds until an answer


class PeerError(Exception):
    """A program that is to be measured is missing, or does not work."""


class Counts(NamedTuple):
    """Packets, as the consumer itself counted them."""

    received: int
    sent: int = 0
    dropped: int = 0  # by its own count
    redirected: int = 0  # by the toolkit's XDP program, if it has one


class Consumer(Protocol):
    """A program that is measured."""

    name: str

    def counts(self) -> Counts:
        """Return the counts so far."""

    def cpu_ns(self) -> int:
        """Return the nanoseconds of CPU used so far."""

    def start(self) -> None:
        """Begin to work."""

    def close(self) -> None:
        """End it. May be called again."""


class Worker:
    """One of our modules whose main() answers in lines of JSON: benchmarks.worker, benchmarks.peers."""

    def __init__(self, name: str, lab: Lab, where: Cores, module: str, job: str, **options: Any) -> None:
        """Start `module` in the lab's near namespace with a job and its options; return when it is ready."""
        self.name = name
        command = [*child_prefix(where.consumer), sys.executable, "-m", module, job, json.dumps(options)]
        self._child: subprocess.Popen[str] = lab.netns.popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        )
        self.about: dict[str, Any] = self._hear()  # what its first line says
        self.pid = self._child.pid

    def start(self) -> None:
        """Do nothing: it works from the moment that it is ready."""

    def counts(self) -> Counts:
        """Return the counts so far; the child answers when no packet comes."""
        return Counts(**self.ask("counts"))

    def ask(self, *words: object) -> dict[str, Any]:
        """Send a command; return its answer."""
        self.tell(*words)
        return self._hear()

    def tell(self, *words: object) -> None:
        """Send a command; hear() returns its answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(" ".join(map(str, words)) + "\n")
        self._child.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return the answer to tell()."""
        return self._hear()

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU used so far."""
        return cpu_ns(self.pid)

    def close(self) -> None:
        """End it. May be called again."""
        child = self._child
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            child.wait(_TIMEOUT / 10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _hear(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        ready: Sequence[Any] = select.select([self._child.stdout], [], [], _TIMEOUT)[0]
        line = self._child.stdout.readline() if ready else ""
        if not line:
            self._child.kill()
            raise PeerError(f"{self.name} {'ended' if ready else 'does not answer'}; its standard error says why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
