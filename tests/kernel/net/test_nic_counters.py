# SPDX-License-Identifier: Apache-2.0
"""What a device lost before any program saw it is in the account, as the device counts it.

No device without hardware counts rx_missed_errors. A veth whose queue is full counts that as rx_dropped, together with
what a socket had no room for: here that name stands in for the other.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import DEADLINE, Wire, drain, eventually, frame
from toolkit._base.netns import Home
from toolkit.capture import Capture
from toolkit.cli.view.losses import loss_lines, losses
from toolkit.errors import SystemCallError
from toolkit.lab import Lab
from toolkit.net import nic_counters, sysfs
from toolkit.net.nic_counters import NicCounters

pytestmark = pytest.mark.timing("a veth overflows while its softirq waits for a CPU, and then only")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A veth's own counter of what found no room, in place of a NIC's."""
    monkeypatch.setattr(nic_counters, "_MISSED", ("rx_dropped",))


def overflow(lab: Lab, opened: Any) -> int:
    """Send faster than the cable takes until something is lost there; how many packets were sent."""
    sent = 0
    for _ in range(60):
        with lab.generator(count=100_000) as generator:
            sent += generator.wait(DEADLINE).sent
        now = opened.statistics()
        if now.missed > now.dropped:
            break
    return sent


@pytest.mark.usefixtures("counted")
def test_sent_is_redirected_and_missed_to_the_packet(lab: Lab) -> None:
    with toolkit.open("veth0", filter="all", mode="native", ring_size=8192, netns=lab.netns) as veth0:
        assert veth0.statistics().missed == 0
        sent = overflow(lab, veth0)
        before_the_program = eventually(lambda: veth0.statistics().missed - veth0.statistics().dropped)
        assert before_the_program + veth0.counters()["redirected"] == sent
        now = veth0.statistics()
        assert now.dropped + drain(veth0.receive) == veth0.counters()["redirected"], "missed is no part of this"
        assert veth0.nic_counters()["rx_dropped"] == now.missed


@pytest.mark.parametrize("opener", [toolkit.open, toolkit.tee])
def test_they_count_from_the_opening_on(lab: Lab, wire: Wire, opener: Callable[..., Any]) -> None:
    """And what the driver has under its own names: a native veth counts what its socket had no room for."""
    with toolkit.open("veth0", filter="all", mode="native", ring_size=64, netns=lab.netns) as veth0:
        wire.send([frame(number) for number in range(500)])
        assert eventually(lambda: veth0.counters()["redirected"] == 500)
        lost = veth0.statistics().dropped
        assert lost >= 500 - 80
        assert eventually(lambda: veth0.nic_counters().get("rx_queue_0_drops") == lost)
    with opener("veth0", filter="all", netns=lab.netns) as again:
        assert again.nic_counters() == {}
        assert again.statistics().missed == 0


def test_what_a_rule_drops_is_no_loss(lab: Lab, wire: Wire) -> None:
    """The driver counts it (rx_queue_0_xdp_drops), but it was to be dropped."""
    with toolkit.open("veth0", filter="all", on_match="drop", mode="native", netns=lab.netns) as veth0:
        wire.send([frame(number) for number in range(50)])
        assert eventually(lambda: veth0.counters()["dropped"] == 50)
        told = lab.netns.run(["ethtool", "-S", "veth0"], capture_output=True, text=True)
        assert "rx_queue_0_xdp_drops: 50" in told.stdout
        assert veth0.nic_counters() == {}


def test_the_drivers_names_are_those_of_ethtool(lab: Lab) -> None:
    """Against the program itself, where it is installed."""
    with lab.netns.entered():
        counters = NicCounters("veth0", Home(None))
        ours = set(counters._before[1])
        counters.close()
    told = lab.netns.run(["ethtool", "-S", "veth0"], capture_output=True, text=True)
    theirs = {line.split(":")[0].strip() for line in told.stdout.splitlines()[1:]}
    assert ours == {name for name in theirs if nic_counters.is_loss(name)}
    assert ours


def starve(lab: Lab, wire: Wire, opened: toolkit.Interface) -> None:
    """Leave the fill ring without a frame: nobody receives."""
    wire.send([frame(number) for number in range(300)])
    assert eventually(lambda: opened.statistics().rx_fill_ring_empty_descs > 0), DEADLINE


def test_an_empty_fill_ring_in_zero_copy_mode_is_not_known_to_be_harmless(lab: Lab, wire: Wire) -> None:
    """The NIC loses what arrives then; if it counts none of it, nobody knows how many."""
    with toolkit.open("veth0", filter="all", ring_size=64, frames=128, netns=lab.netns) as veth0:
        starve(lab, wire, veth0)
        assert veth0.statistics().missed == 0, "in copy mode, the kernel has counted them"
        for sock in veth0.sockets:
            sock._core.zero_copy = True
        statistics = veth0.statistics()
        assert statistics.missed is None
        report = {**veth0.info(), **losses(veth0, statistics)}
        assert "packets may be missing: the fill ring was empty" in "\n".join(loss_lines(report))
        # What was so when it was opened is no loss yet.
        veth0._empty_at_first = statistics.rx_fill_ring_empty_descs
        assert veth0.statistics().missed == 0
        for sock in veth0.sockets:
            sock._core.zero_copy = False


@pytest.mark.usefixtures("counted")
def test_a_capture_is_not_whole_and_its_file_says_why(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "lossy.pcapng"
    with (
        toolkit.open("veth0", filter="udp", mode="native", netns=lab.netns) as veth0,
        Capture(veth0, path, snaplen=64) as capture,
    ):
        overflow(lab, veth0)
        while capture.step(0.1):
            pass
        now = capture.finish()
        assert now.missed == veth0.statistics().missed
        assert now.missed
        assert not capture.whole
        report = {**veth0.info(), **losses(veth0, veth0.statistics())}
        (line,) = (line for line in loss_lines(report) if line.startswith("missed by the NIC"))
        assert f"{now.missed:,} packets" in line
    told = subprocess.run(["capinfos", "-M", str(path)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert f"{now.missed} packets were lost by the NIC before the filter saw them".encode() in path.read_bytes()


def test_what_cannot_be_read_is_not_known(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(interface: str) -> int:
        raise SystemCallError(1, f"no sysfs for {interface}")

    monkeypatch.setattr(sysfs, "_open", refused)
    with toolkit.open("veth0", filter="all", netns=lab.netns) as veth0:
        assert veth0.statistics().missed is None
        assert veth0.statistics().dropped == 0


@pytest.mark.usefixtures("counted")
def test_a_device_that_is_gone_leaves_the_last_figure(lab: Lab) -> None:
    with toolkit.open("veth0", filter="all", mode="native", netns=lab.netns) as veth0:
        overflow(lab, veth0)
        last = veth0.statistics().missed
        assert last
        lab.delete_interface()
        assert veth0.statistics().missed == last
        assert veth0.nic_counters() == {}
