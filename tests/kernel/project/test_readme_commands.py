# SPDX-License-Identifier: Apache-2.0
"""The command lines of the README do what stands beside them, in a lab whose interfaces are eth0 and eth1."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.cli import ENVIRONMENT, XSK, events
from tests.helpers.second_cable import second_cable
from tests.helpers.wire import eventually, what_runs
from toolkit.lab import Lab, Namespace

pytestmark = pytest.mark.timing("it gives a process part of a second for its work, which it may have to wait for")

_README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    re.split(r"\s{2,}", line)[0]
    for line in _README[_README.index("## The command") : _README.index("## Where to go next")].splitlines()
    if line.startswith("xsk ")
]
TARGET = "192.0.2.7"  # of the line that sends
ENDS = ("xsk status", "xsk detach", "xsk doctor", "xsk demo")  # by themselves
COUNTED = re.compile(r"-c \d+")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(interface="eth0") as lab, Namespace() as beyond:
        second_cable(lab.netns, beyond, ("eth1", "veth3"))
        for words in (
            f"ip address add 192.0.2.1/24 dev {lab.interface}",
            f"ip neighbour add {TARGET} lladdr {lab.peer_mac} dev {lab.interface}",
        ):
            lab.netns.run(words.split(), check=True)
        yield lab


def test_there_are_lines() -> None:
    assert len(LINES) >= 12
    assert {line.split()[1] for line in LINES} >= {"demo", "receive", "capture", "top", "drop", "forward", "send"}


def traffic(lab: Lab, stop: threading.Event) -> None:
    while not stop.is_set():
        lab.udp(count=5, destination_port=9)
        lab.ping(count=1, interval=0.01, wait=0.1)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_readme(lab: Lab, line: str, tmp_path: Path) -> None:
    """It begins, works on what comes, and ends by itself or by Ctrl-C, without an error, and with packets."""
    _, *words = shlex.split(line)
    stop = threading.Event()
    sender = threading.Thread(target=traffic, args=(lab, stop))
    process = lab.netns.popen(
        [*XSK, *words],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if not line.startswith(ENDS):
            begun = (lambda: events(process.pid)) if "send" in words else (lambda: what_runs(lab))
            assert eventually(lambda: begun() or process.poll() is not None, 30)
            sender.start()
            if not COUNTED.search(line):
                with pytest.raises(subprocess.TimeoutExpired):  # until Ctrl-C
                    process.wait(2.0)
                process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        stop.set()
        if sender.ident is not None:
            sender.join()
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, (out, err)
    assert "Traceback" not in err
    assert "Next step" not in err, err
    if "send" in words:
        assert re.search(r"sent [1-9]", err), err
    elif not line.startswith(ENDS):
        assert re.search(r"received [1-9]", err), err
    if "-x" in words:
        assert out.count("ICMP") >= 3
        assert "0x0000" in out or re.search(r"\b[0-9a-f]{2} [0-9a-f]{2} [0-9a-f]{2}\b", out)
    if "-w" in words:
        assert (tmp_path / words[words.index("-w") + 1]).stat().st_size > 0
