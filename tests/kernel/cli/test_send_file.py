# SPDX-License-Identifier: Apache-2.0
"""`xsk send -r`: a recording leaves again, in its own times or at another pace; the far end's kernel is witness."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers.cli import XSK, xsk
from tests.helpers.recordings import recording
from tests.helpers.sending import Stopwatch, Tap, sent_frames
from tests.helpers.wire import child_environment, frame
from toolkit.lab import Lab


def send(lab: Lab, *arguments: str, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run `xsk send` on the near end."""
    return xsk(lab, "send", lab.interface, *arguments, **options)


@pytest.mark.timing("a gap is kept to 0.1 s, as far as a CPU is free then")
def test_a_long_gap_is_waited_for_as_long_as_asked(lab: Lab, tmp_path: Path) -> None:
    times = [0, 10_000_000, 3600 * 10**9, 3600 * 10**9 + 10_000_000]
    frames = sent_frames(4)
    (tmp_path / "a.pcap").write_bytes(recording(frames, times))
    with Stopwatch(lab) as tap:
        done = send(lab, "-r", str(tmp_path / "a.pcap"), "--max-gap", "0.2", "--json")
        found = tap.timed(4)
    assert done.returncode == 0, done.stderr
    gaps = np.diff([at for _, at in found]) / 1e9
    assert gaps[1] == pytest.approx(0.2, abs=0.1)
    assert max(gaps[0], gaps[2]) < 0.1


@pytest.mark.alone("gaps of milliseconds, which others lengthen")
def test_the_command_keeps_the_pace(lab: Lab, tmp_path: Path) -> None:
    times = [i * 10_000_000 for i in range(30)]
    frames = sent_frames(30, lengths=range(60, 1500, 50))
    (tmp_path / "a.pcap").write_bytes(recording(frames, times))
    with Stopwatch(lab) as tap:
        done = send(lab, "-r", str(tmp_path / "a.pcap"), "--json")
        found = tap.timed(30)
    assert done.returncode == 0, done.stderr
    assert [data for data, _ in found] == frames
    gaps = np.diff([at for _, at in found])
    assert abs(np.median(gaps) - 10_000_000) < 2_000_000, gaps
    report = json.loads(done.stdout)
    assert (report["sent"], report["completed"], report["sent_bytes"]) == (30, 30, sum(map(len, frames)))
    assert report["seconds"] >= 0.29


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (("--pace", "fast", "--loop", "4"), 400),
        (("--pace", "100"), 100),
        (("--rate", "5000"), 100),
        (("--pace", "fast", "--loop", "0", "-c", "1234"), 1234),
        (("--pace", "fast", "--loop", "0", "--seconds", "0.3"), None),
    ],
)
def test_the_command_at_other_paces(lab: Lab, tmp_path: Path, options: tuple[str, ...], sent: int | None) -> None:
    (tmp_path / "a.pcap").write_bytes(recording(sent_frames(100), [i * 1_000_000 for i in range(100)]))
    done = send(lab, "-r", str(tmp_path / "a.pcap"), *options, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["sent"] == sent or (sent is None and report["sent"] > 100)
    assert report["completed"] == report["sent"]


def test_the_command_reads_a_pipe_and_says_what_it_sent(lab: Lab) -> None:
    frames = [*sent_frames(10), frame(10, 5000), b"short"]
    with Tap.far(lab) as tap:
        done = send(lab, "-r", "-", input=recording(frames, wire=9000), text=False)
        assert tap.take(10) == frames[:10]
    said = done.stderr.decode()
    assert done.returncode == 0, said
    for reported in (
        "veth0: queue 0, copy mode; -, as recorded",
        "10 packets, 640 bytes",
        "1 packets were left out: longer",
        "1 packets were left out: they have no whole",
        "10 packets were sent as short",
    ):
        assert reported in said, said


@pytest.mark.timing("the end of a process is due 10 s after a signal")
def test_the_command_ends_on_a_signal(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(recording(sent_frames(2), [0, 3600 * 10**9]))
    process = lab.netns.popen(
        [*XSK, "send", lab.interface, "-r", str(tmp_path / "a.pcap"), "--interval", "0.1"],
        env={**child_environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.STDOUT,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:  # a live line: it is waiting for the second packet
            if "total        1" in line:
                break
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert time.monotonic() - began < 10
    assert "sent 1 = completed 1" in rest


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (("--max-gap", "2"), "name their file with -r"),
        (("-r", "x", "--max-gap", "2", "--pace", "fast"), "--max-gap is for packets that leave in their recorded"),
        (("--pace", "2"), "name their file with -r"),
        (("-r", "x", "--ip-dst", "192.0.2.1"), "--ip-dst is for packets made here"),
        (("-r", "x", "--flows", "2"), "--flows is for packets made here"),
        (("-r", "x", "--pace", "slow"), "give 'original', 'fast' or a number above 0"),
        (("-r", "x", "--pace", "2", "--rate", "5"), "give one of them"),
        (("-r", "-", "--loop", "2"), "once only"),
        (("-r", "/nonexistent.pcap"), "cannot read /nonexistent.pcap"),
        (("-r", str(ROOT / "README.md")), "neither pcap nor pcapng"),
    ],
)
def test_the_command_refuses(lab: Lab, options: tuple[str, ...], reported: str) -> None:
    done = send(lab, *options)
    assert done.returncode in (1, 2)
    assert reported in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_a_damaged_file_sends_what_is_whole(lab: Lab, tmp_path: Path) -> None:
    frames = sent_frames(20)
    whole = recording(frames)
    for name, data, code, reported in (
        ("cut.pcap", whole[:-3], 0, "its end is missing"),
        ("bad.pcap", whole[: -80 * 5 + 8] + b"\xff" * 392, 1, "is damaged"),
    ):
        (tmp_path / name).write_bytes(data)
        with Tap.far(lab) as tap:
            done = send(lab, "-r", str(tmp_path / name))
            assert tap.take(15)[:15] == frames[:15]
        assert done.returncode == code, done.stderr
        assert reported in done.stderr
        assert "sent 19 = completed 19" in done.stderr or code
        assert "sent 15 = completed 15" in done.stderr or not code
        assert "Traceback" not in done.stderr


@pytest.mark.timing("the end of a process is due 5 s after a signal")
@pytest.mark.parametrize("end", ["signal", "seconds"])
def test_the_command_ends_though_its_input_stays_open(lab: Lab, end: str) -> None:
    options = ["--seconds", "1"] if end == "seconds" else []
    process = lab.netns.popen(
        [*XSK, "send", lab.interface, "-r", "-", "--interval", "0.1", *options],
        env={**child_environment(), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(recording(sent_frames(3)))
        process.stdin.flush()
        assert b"queue 0" in process.stdout.readline()
        time.sleep(0.5)
        if end == "signal":
            process.send_signal(signal.SIGINT)
        began = time.monotonic()
        rest = process.stdout.read()
        assert process.wait(10) == 0
    assert time.monotonic() - began < 5
    assert b"sent 3 = completed 3" in rest
