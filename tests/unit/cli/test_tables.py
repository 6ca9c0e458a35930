# SPDX-License-Identifier: Apache-2.0
"""Tables are as wide as they need to be in a pipe or file, and within the terminal's width on one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import Any

import pytest

from benchmarks.table import show
from tests.helpers import ROOT

LONG = [f"column {number} with a long name" for number in range(12)]
PROGRAM = f"""
from rich.table import Table
from toolkit.cli.view.output import show

table = Table(box=None)
for title in {LONG!r}:
    table.add_column(title)
table.add_row(*["a cell that is longer than its title is, and [with] brackets"] * {len(LONG)})
show(table)
"""
FIGURES: dict[str, Any] = {
    "machine": {"kernel": "6.18.5-long-name", "python": "3.11.2", "cpus": 2, "cpu": "A Processor", "load": 0.1},
    "load_after": 0.2,
    "rows": {
        "receive": {
            "title": "receive and drop, 64 B, with a long title",
            "who": {
                "a peer with a long name": {
                    "pps": {"median": 3.8e6, "min": 3.7e6, "max": 3.9e6},
                    "offered_pps": {"median": 4e6},
                    "cpu": {"median": 0.5, "min": 0.4, "max": 0.6},
                    "cpu_ns_per_packet": {"median": 123.0},
                    "lost": 1_234_567,
                }
            },
        }
    },
}


def test_a_pipe_has_room_for_all_of_it() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    title, cells = done.stdout.splitlines()
    assert all(one in title for one in LONG)
    assert cells.count("longer than its title is, and [with] brackets") == len(LONG)


def test_a_terminal_is_not_left() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env={**environment, "TERM": "xterm"}, stdout=theirs, stdin=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while raw := os.read(ours, 65536):
            shown += raw
    except OSError:  # its other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 100


def test_the_benchmark_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    show(FIGURES)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "receive and drop" in line]
    for cell in (
        "with a long title",
        "a peer with a long name",
        "3.800 (3.700 to 3.900)",
        "50.0 (40.0 to 60.0)",
        "1,234,567",
    ):
        assert cell in row
    assert any("ceiling, Mpps" in line and "CPU ns a packet" in line for line in lines)
