# SPDX-License-Identifier: Apache-2.0
"""Commands, captures and workers whose program somebody takes off: they end by themselves, say so, and exit with 1."""

from __future__ import annotations

import logging
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers import worker_jobs
from tests.helpers.cli import ended, index_of, reconciles, running, xsk
from tests.helpers.detaching import WAYS, Way, detach, pass_program
from tests.helpers.second_cable import second_cable
from tests.helpers.wire import Wire, eventually, frame, what_runs
from toolkit.capture import Capture
from toolkit.errors import DetachedError, DeviceGoneError
from toolkit.lab import Lab, Namespace
from toolkit.program import attached
from toolkit.workers import Workers


def link_of(lab: Lab) -> int:
    found: Any = what_runs(lab)
    (link,) = found.link_ids
    return int(link)


def took(text: str) -> bool:
    return re.search(r"somebody took the XDP program \w+ off", text) is not None


COMMANDS = {
    "receive": ["receive", "veth0", "-f", "all"],
    "receive --tee": ["receive", "veth0", "-f", "all", "--tee"],
    "receive --spin": ["receive", "veth0", "-f", "all", "--spin"],
    "receive, counted in the driver": ["receive", "veth0", "-f", "all", "--on-match", "count"],
    "drop": ["drop", "veth0", "-f", "all"],
    "drop, in the driver": ["drop", "veth0", "-f", "all", "--on-match", "drop"],
    "top": ["top", "veth0", "-f", "all"],
    "top --tee": ["top", "veth0", "-f", "all", "--tee"],
    "echo": ["echo", "veth0", "--ip", "10.11.0.77"],
    "echo --spin": ["echo", "veth0", "--ip", "10.11.0.77", "--spin"],
    "forward": ["forward", "veth0", "-f", "all"],
}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command(lab: Lab, wire: Wire, command: str) -> None:
    with running(lab, *COMMANDS[command], "--json", ready=1 if "--tee" in command else 2) as process:
        wire.send([frame(n) for n in range(20)])
        detach(lab, link_of(lab))
        report = ended(process, None, status=1)
    assert report["whole"] is False
    assert took(report["error"])
    (report,) = report.get("directions", [report])
    assert report["mode"] == "native", "how it ran"
    assert reconciles(report)
    if "driver" not in command and "echo" not in command:
        assert report["received"] == 20


def test_the_same_for_people(lab: Lab) -> None:
    """Both commands are ours: what `xsk detach --force` ends says so."""
    with running(lab, "receive", "veth0", "-f", "all") as process:
        done = xsk(lab, "detach", "veth0", "--force")
        assert done.returncode == 0, done.stderr
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "redirected" not in out
    assert "redirected 0\n" in err
    assert took(err)
    assert "Next step" in err


@pytest.mark.parametrize("end", [0, 1])
def test_a_bridge(lab: Lab, end: int) -> None:
    """One of its two ends is cut, while packets keep coming at the other."""
    with Namespace() as far:
        second_cable(lab.netns, far, ("right", "veth1"), bridged=False, neighbours=True)
        arguments = ["forward", "veth0", "right", "-f", "all", "--both", "--json"]
        with running(lab, *arguments, ready=4) as process, Wire(lab) as w:
            w.send([frame(n) for n in range(20)])
            name = ("veth0", "right")[end]
            found = attached(index_of(lab.netns, name), lab.netns)
            assert found is not None
            assert found.link_ids
            detach(lab, found.link_ids[0])
            if end:
                assert eventually(lambda: w.send([frame(1)]) or process.poll() is not None, 10, step=0.001)
            report = ended(process, None, status=1)
    there = report["directions"][0]
    assert not any(way["whole"] for way in report["directions"])
    assert took(there["error"])
    assert name in there["error"]
    assert there["redirected"] == there["received"] + there["dropped"]


def test_several_workers(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=2)
    with running(lab, "receive", "veth0", "-f", "all", "--workers", "2", "--json", ready=0) as process:
        assert eventually(lambda: what_runs(lab) is not None, 30)
        with Wire(lab) as wire:
            wire.send([frame(n) for n in range(20)])
            detach(lab, link_of(lab))
            report = ended(process, None, status=1)
    assert report["whole"] is False
    assert took(report["error"])
    assert report["failed_workers"] == []
    assert reconciles(report)


@pytest.mark.parametrize("way", WAYS[:4], ids=repr)
def test_workers(lab: Lab, wire: Wire, way: Way, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="toolkit.workers"),
        pass_program() as other,
        Namespace() as elsewhere,
        Workers("veth0", worker_jobs.count, filter="all", netns=lab.netns) as workers,
    ):
        wire.send([frame(n) for n in range(20)])
        assert eventually(lambda: workers.counters()["redirected"] == 20)
        way.end(lab, workers.link.id, other, elsewhere)
        with pytest.raises(way.kind, match="veth0"):
            workers.results(timeout=20)
        assert workers.loss()
        assert workers.info()["mode"] == "detached"


def test_workers_that_are_stopped_lost_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask at any moment, here while the parent has taken the program off and not yet said so."""
    with Workers("veth0", worker_jobs.count, filter="all", netns=lab.netns) as workers:
        keeper = workers._keeper
        assert keeper is not None
        send = keeper.send

        def send_late(message: str) -> None:
            time.sleep(1.5)  # three times as long as an answer of the kernel's is believed
            send(message)

        monkeypatch.setattr(keeper, "send", send_late)
        workers.stop()
        workers.results(timeout=20)
        assert workers.loss() is None


@pytest.mark.parametrize("tee", [False, True], ids=["taken", "copied"])
def test_xsk_capture(lab: Lab, wire: Wire, tmp_path: Path, tee: bool) -> None:
    path = tmp_path / "x.pcapng"
    arguments = ["capture", "veth0", "all", "-w", str(path), "--json", *(["--tee"] if tee else [])]
    with running(lab, *arguments, ready=1 if tee else 2) as process:
        wire.send([frame(n) for n in range(20)])
        detach(lab, link_of(lab))
        report = ended(process, None, status=1)
    assert report["whole"] is False
    assert took(report["error"])
    assert (report["received"], report["written"], report["dropped"]) == (20, 20, 0)
    read = subprocess.run(["tcpdump", "-nr", str(path)], capture_output=True, text=True, check=True)
    assert read.stdout.count("ethertype") == 20


@pytest.mark.parametrize("noticed", [True, False], ids=["while it runs", "at its end"])
def test_a_capture(lab: Lab, wire: Wire, tmp_path: Path, noticed: bool) -> None:
    with toolkit.open("veth0", filter="all", netns=lab.netns) as opened:
        capture = Capture(opened, tmp_path / "x.pcap")
        wire.send([frame(1)])
        assert capture.step(5) == 1
        assert capture.whole
        wire.send([frame(2)])
        assert eventually(lambda: opened.waiting() == 1)
        detach(lab, opened.link.id)
        if noticed:
            with pytest.raises(DetachedError):
                capture.run(20)
            assert capture.finish().written == 2
        else:
            with pytest.raises(DeviceGoneError):
                capture.finish()
        assert not capture.whole
        assert capture.statistics().written == 2
        assert capture.statistics().lost == 0
    assert not capture.whole
