# SPDX-License-Identifier: Apache-2.0
"""xsk send -r on files in which no packet comes for long: it shows that it lives, and a signal ends it at once."""

from __future__ import annotations

import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.cli import ENVIRONMENT, XSK
from tests.helpers.recordings import recording
from tests.helpers.sending import sent_frames
from toolkit.lab import Lab


@pytest.mark.timing("the end of a process is due 5 s after SIGINT")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_zeros_without_end(lab: Lab, tmp_path: Path, number: signal.Signals) -> None:
    """256 GB of them, on no disk: what was sent before is reported."""
    path = tmp_path / "x.pcap"
    path.write_bytes(recording(sent_frames(3)))
    with path.open("r+b") as file:
        file.truncate(1 << 38)
    process = lab.netns.popen(
        [*XSK, "send", lab.interface, "-r", str(path), "--interval", "0.1"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]  # what it does, and the lines of three intervals
        assert [line.count("packets/s") for line in lines] == [0, 1, 1, 1], lines
        process.send_signal(number)
        began = time.monotonic()
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, rest
        assert "sent 3 = completed 3" in rest
        assert time.monotonic() - began < 5, "0.2 s and the end of the interpreter, where nobody else wants the CPU"
    finally:
        process.kill()
        process.communicate()


def test_before_the_first_packet(lab: Lab) -> None:
    """Standard input that gives a section header, and then blocks that nobody knows."""
    header = bytes.fromhex("0a0d0d0a 1c000000 4d3c2b1a 01000000 ffffffffffffffff 1c000000")
    unknown = bytes.fromhex("ad0b0000 0c000000 0c000000") * 80_000
    process = lab.netns.popen(
        [*XSK, "send", lab.interface, "-r", "-"],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(header)
        fd, deadline = process.stdin.fileno(), time.monotonic() + 30
        written = 0
        while written < 20:  # some of it is read, so it is at work
            assert time.monotonic() < deadline
            assert select.select([], [fd], [], 30)[1]
            process.stdin.write(unknown)
            written += 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1, (out, err)
        assert b"stopped before there was a packet in -" in err
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("wanted", ["--seconds"])
def test_the_time_is_over_meanwhile(lab: Lab, tmp_path: Path, wanted: str) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(recording(sent_frames(3)))
    with path.open("r+b") as file:
        file.truncate(1 << 38)
    done = lab.netns.run(
        [*XSK, "send", lab.interface, "-r", str(path), wanted, "0.5"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "sent 3 = completed 3" in done.stderr
