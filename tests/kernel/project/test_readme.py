# SPDX-License-Identifier: Apache-2.0
"""The programs of the README and of docs/ run as they stand; those on eth0 run on the lab's interface."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.papers import PAGES, programs_of
from tests.helpers.wire import eventually, what_runs
from toolkit.lab import Lab

pytestmark = pytest.mark.timing("packets come for 1.5 s, in which a program has to receive them")

PROGRAMS = [
    pytest.param(program, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, program in enumerate(programs_of(page), start=1)
]


def test_there_are_programs() -> None:
    programs = [str(one.values[0]) for one in PROGRAMS]
    assert len(programs) >= 15
    assert any('toolkit.open("eth0"' in program for program in programs)
    pages = {str(one.id).rpartition("-")[0] for one in PROGRAMS}
    assert {"README.md", "docs/filters.md", "docs/tutorial/piece-by-piece.md", "docs/how-to/send.md"} <= pages


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_of_a_page_runs(program: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program)
    with Lab(interface="eth0") as lab:
        stop = threading.Event()

        def traffic() -> None:
            # Packets for the programs on eth0, from when they take them; they end when that does. The others make
            # their own traffic.
            eventually(lambda: stop.is_set() or what_runs(lab), timeout=50)
            until = time.monotonic() + 1.5
            while not stop.is_set() and time.monotonic() < until:
                for port in (9, 53):
                    lab.udp(count=5, destination_port=port)
                time.sleep(0.05)

        sender = threading.Thread(target=traffic)
        sender.start()
        try:
            done = lab.netns.run(
                [sys.executable, tmp_path / "program.py"],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
            )
        finally:
            stop.set()
            sender.join()
    assert done.returncode == 0, done.stderr
    if "while batch := eth0.receive(" in program:
        lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
        assert sum(int(line[0]) for line in lines) >= 5
        assert all(line[2].startswith("20") for line in lines)  # a UTC timestamp
    if 'filter="icmp"' in program:
        assert "<Batch of" in done.stdout
        assert "8" in done.stdout  # ICMP echo request
    if "toolkit.Rule(" in program:
        assert "[60 60 60 60 60] [542 542 542 542 542]" in done.stdout
        assert "[ True  True  True  True  True]" in done.stdout
    if "toolkit.read(" in program:
        assert "[9 9 9]" in done.stdout
