# SPDX-License-Identifier: Apache-2.0
"""`xsk capture` as a process in a lab's namespace, and what is in its files."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import toolkit
from tests.helpers.cli import ENVIRONMENT, events
from tests.helpers.cli import XSK as COMMAND
from tests.helpers.wire import eventually
from toolkit.lab import Lab

__all__ = ["WHAT", "XSK", "capture", "capturing", "recorded"]

XSK = [*COMMAND, "capture", "veth0"]
WHAT = ["ether", "proto", "0x88b5"]  # what frame() makes; several words, as one types them


def capture(lab: Lab, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **options}
    return lab.netns.run([*XSK, *map(str, arguments)], env=ENVIRONMENT, **options)


@contextlib.contextmanager
def capturing(lab: Lab, *arguments: Any, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start it, and wait until it has its file and everything else open."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = lab.netns.popen([*XSK, *map(str, arguments)], env=ENVIRONMENT, **options)
    try:
        if "--json" in arguments:  # it says nothing
            file = Path(arguments[arguments.index("-w") + 1])

            def ready() -> bool:
                return any(file.parent.glob(f"{file.stem}*")) and events(process.pid) >= 2

            assert eventually(lambda: ready() or process.poll() is not None, 20)
        else:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert "native XDP" in first, first + process.stderr.read()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def recorded(path: Path) -> list[bytes]:
    """The packets of a file."""
    with toolkit.read(path) as source:
        return [bytes(one) for batch in source for one in batch]
