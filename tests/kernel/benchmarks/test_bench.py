# SPDX-License-Identifier: Apache-2.0
"""The benchmark: that what it counts is what happened, that everybody can take part, that its documents come about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import load, rows, table, tuning, turns
from benchmarks.consumer import Counts, PeerError, Worker
from benchmarks.figures import ratios, spread
from benchmarks.isolation import Cores, cores, cpu_ns, undisturbed
from benchmarks.pinging import pinging
from benchmarks.tcpdump import Tcpdump
from benchmarks.testpmd import CHOICES, Settings, Testpmd
from tests.helpers import ROOT
from toolkit.lab import Lab
from toolkit.packets import frames
from toolkit.packets.checksum_offload import finish_checksums

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("af_xdp", "libxdp", "bcc", "setpriv", "ping"),
    pytest.mark.alone("it measures rates, with a process pinned to each CPU"),
]

SECONDS = 0.3
RATE = 50_000.0  # far below what anybody here can do: nothing may be lost


@pytest.fixture
def where() -> Cores:
    """Two CPUs."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a benchmark needs two CPUs: one for the sender, one for what is measured")
    return cores()


def need(program: str) -> None:
    """Skip without a peer that is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: a program that the toolkit is compared with, and does not need")


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["receive", "one_by_one"])
def test_what_the_toolkit_receives_is_what_the_network_delivered(job: str, where: Cores) -> None:
    run = load.receiving(rows.start_worker(where, job), where, SECONDS, rate=RATE)
    assert run.counted == run.witnessed > 1000
    assert run.lost == 0
    assert run.rate == pytest.approx(run.offered)
    assert 0 < run.cpu < 1.5


@pytest.mark.parametrize("size", [64, 1500])
def test_the_load_with_open_checksums_is_one_that_is_finished(size: int) -> None:
    matrix = np.frombuffer(rows.open_frame(size), np.uint8)[None].copy()
    right = frames.udp_frame(bytes(size - 42), size=size)
    assert matrix.tobytes() != right
    assert finish_checksums(matrix).all()
    assert matrix.tobytes() == right


def test_what_the_toolkit_forwards_arrives_at_the_other_end(where: Cores) -> None:
    run = load.forwarding(rows.start_worker(where, "forward"), where, SECONDS)
    assert run.counted == run.witnessed > 1000
    assert run.rate * run.seconds == pytest.approx(run.counted)


def test_what_the_toolkit_sends_arrives_at_the_other_end(where: Cores) -> None:
    run = load.sending(rows.start_worker(where, "send"), where, SECONDS)
    assert run.witnessed is not None
    # The window that is witnessed lies inside the time that is counted.
    assert 1000 < run.witnessed < run.counted


def test_testpmd_counts_as_the_network_does(where: Cores) -> None:
    need("dpdk-testpmd")
    received = load.receiving(lambda lab: Testpmd(lab, "rxonly", where), where, SECONDS, rate=RATE)
    assert received.counted == received.witnessed > 1000
    forwarded = load.forwarding(lambda lab: Testpmd(lab, "macswap", where), where, SECONDS)
    assert forwarded.counted == forwarded.witnessed > 1000
    assert load.sending(lambda lab: Testpmd(lab, "txonly", where), where, SECONDS).rate > 1000


def test_peers_without_af_xdp_receive(where: Cores) -> None:
    need("tcpdump")
    peers = "benchmarks.peers"
    for start in (rows.start_worker(where, "af_packet", module=peers), lambda lab: Tcpdump(lab, where)):
        run = load.receiving(start, where, SECONDS, rate=RATE / 10, gro=True)
        assert run.counted >= run.offered * run.seconds * 0.99  # and a neighbour's packet or two
    assert os.stat("/dev/null").st_uid == 0  # tcpdump gives away what it writes
    run = load.receiving(rows.start_worker(where, "scapy", module=peers), where, SECONDS, rate=RATE / 50, gro=True)
    assert run.counted > 100


def test_a_consumer_whose_counts_do_not_add_up_fails_the_run(where: Cores) -> None:
    class Lying(Worker):
        def counts(self) -> Counts:
            honest = super().counts()
            return honest._replace(received=honest.received + 1)

    def start(lab: Lab) -> Worker:
        return Lying("liar", lab, where, "benchmarks.worker", "receive")

    with pytest.raises(AssertionError, match="redirected"):
        load.receiving(start, where, SECONDS, rate=RATE)


def test_ping_is_answered_by_the_toolkit_and_nothing_is_lost(where: Cores) -> None:
    start = rows.start_worker(where, "echo", mac=frames.NEAR_MAC, address=frames.NEAR_IP)
    pinged = pinging(start, where, 200)
    assert pinged.lost == 0
    assert pinged.answers == 400
    assert 0 < pinged.adaptive < 10_000


def test_ping_without_anybody_who_answers_is_an_error(where: Cores) -> None:
    def start(lab: Lab) -> Worker:
        return Worker("echo", lab, where, "benchmarks.worker", "echo", mac=frames.NEAR_MAC, address="192.0.2.99")

    with pytest.raises(PeerError, match="nobody answers"):
        pinging(start, where, 3)


def test_cpu_time_is_that_of_all_threads() -> None:
    before = cpu_ns(os.getpid())
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    assert 0.045e9 < cpu_ns(os.getpid()) - before < 5e9


def test_undisturbed_leaves_no_trace(where: Cores) -> None:
    affinity = os.sched_getaffinity(0)
    with undisturbed(where.consumer):
        assert os.sched_getaffinity(0) == {where.consumer}
    assert os.sched_getaffinity(0) == affinity
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_worker_that_dies_is_an_error_that_names_it(where: Cores) -> None:
    with Lab() as lab, pytest.raises(PeerError, match="nonsense ended"):
        Worker("nonsense", lab, where, "benchmarks.worker", "nonsense")


# --- what is made of it -----------------------------------------------------------------------------------------------


def test_a_ratio_is_that_of_neighbouring_runs() -> None:
    # The machine was slow in the second pair, for both: the ratio does not see it.
    assert ratios([2.0, 0.2, 2.2], [1.0, 0.1, 1.0]) == pytest.approx({"median": 2.0, "min": 2.0, "max": 2.2, "runs": 3})
    assert ratios([1.0], []) is None
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "runs": 3}


def test_testpmd_is_held_to_its_faster_settings() -> None:
    """A setting chosen by luck must not make the peer slower than it is as it comes."""

    def runs(*mpps: float) -> list[load.Run]:
        return [load.Run(9e6, rate * 1e6, 1.0, 1.0, 1, 1, 0) for rate in mpps]

    who = {"toolkit": runs(3, 3, 3), "testpmd": runs(1.5, 1.5, 1.5), turns.UNTUNED: runs(3, 3, 3)}
    assert turns.rate_ratios(who, {"testpmd": 1.0})["testpmd"]["median"] == 1.0
    who["testpmd"] = runs(6, 6, 6)
    assert turns.rate_ratios(who, {"testpmd": 1.0})["testpmd"]["median"] == 0.5


def test_a_setting_of_testpmd_that_fails_is_not_a_rate_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: turns.Plan, mode: str, settings: Settings) -> load.Run:
        if settings == CHOICES[0]:
            raise PeerError("it ended")
        return load.Run(0, 1e6, 1.0, 1.0, 1, 1, 0)

    monkeypatch.setattr(tuning, "_run", run)
    plan = turns.Plan(Cores(0, 1), 1, 1.0, 1, 1)
    tried = tuning.tune(plan, 2)["rxonly"]
    assert tried["pps"]["busy_budget=0"] == []
    assert tried["failed"] == {"busy_budget=0": ["it ended", "it ended"]}
    assert plan.settings["rxonly"] == CHOICES[1]


def figures() -> dict[str, Any]:
    """A small run, as measured."""
    one = {
        "offered_pps": spread([2e6, 2.2e6]),
        "pps": spread([1.5e6, 1.7e6]),
        "cpu": spread([0.5, 0.6]),
        "cpu_ns_per_packet": spread([300.0, 320.0]),
        "lost": 7,
        "counted": [1, 2],
        "witnessed": [1, 2],
    }
    ratio = {**spread([1.25]), "wanted": 1.0}
    return {
        "began": "today",
        "machine": {"kernel": "6", "python": "3", "cpu": "x", "cpus": 2, "load": 0.5},
        "load_after": 0.6,
        "testpmd_settings": {"rxonly": ["busy_budget=0", []]},
        "testpmd_tried_pps": {
            "rxonly": {"pps": {"busy_budget=0": [3e6], "defaults": []}, "failed": {"defaults": ["it ended"]}}
        },
        "rows": {
            "receive": {
                "title": "receive and drop",
                "ceiling_pps": spread([5e6]),
                "who": {"toolkit": one, "testpmd": one},
                "ratios": {"testpmd": ratio},
            }
        },
        "decode_pps": {"decode, all columns": {"512": 2.5e6, "1024": 4e6}},
        "batch_ns_per_packet": {"receive": {"1": 9000.0, "64": 200.0}},
        "no_floor": "no C compiler",
        "profiles": {"send": {"toolkit": {}, "functions": {"toolkit.x": 0.9}}},
    }


WRITE = """
import json, pathlib, sys
from benchmarks import document
document.DOCS = pathlib.Path(sys.argv[1])
document.write(json.load(sys.stdin))
"""


def test_the_document_holds_every_figure(tmp_path: Path) -> None:
    # In a process of its own: matplotlib keeps its fonts open.
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    subprocess.run(command, input=json.dumps(figures()), text=True, check=True, cwd=ROOT, timeout=60)
    text = (tmp_path / "benchmarks.md").read_text()
    for expected in (
        "| receive and drop | toolkit | 1.600 (1.500 to 1.700) | 2.10 | 5.00",
        "1.25x",
        ">= 1x",
        "9,000",
        "(not measured in C: no C compiler)",
        "| 2.50 | 4.00",
    ):
        assert expected in text
    assert "`busy_budget=0` 3.00" in text
    assert "taken: **busy_budget=0**; 1 tries failed." in text
    for plot in ("benchmarks.svg", "benchmarks-batches.svg"):
        assert f"]({plot})" in text
        assert "<svg" in (tmp_path / plot).read_text()


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table.show(figures())
    assert "receive and drop" in capsys.readouterr().out


def test_the_command_prints_one_object(where: Cores) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", "--pairs", "1", "--seconds", "0.2", "steady"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    toolkit = found["rows"]["steady"]["who"]["toolkit"]
    assert toolkit["pps"]["median"] > 0
    assert toolkit["counted"] == toolkit["witnessed"]
