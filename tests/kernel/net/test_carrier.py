# SPDX-License-Identifier: Apache-2.0
"""A link that is coming back is waited for: drivers take it down for a second or two around a program's life."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from toolkit.lab import Lab
from toolkit.net import device as devices
from toolkit.net import ethtool
from toolkit.net.device import Device, await_carrier, describe
from toolkit.net.links import link_state
from toolkit.program import Program
from toolkit.program import link as links

PAUSE = 0.4  # seconds without a carrier


def near(lab: Lab, **changed: Any) -> Device:
    with lab.netns.entered():
        return describe("veth0")._replace(**changed)


def far_end(lab: Lab, *, up: bool) -> None:
    lab.far.call(lambda: ethtool.set_up("veth1", up=up))


@pytest.fixture
def broken(lab: Lab) -> Iterator[Lab]:
    """A cable whose far end is down, and comes back after a while."""
    far_end(lab, up=False)
    later = threading.Timer(PAUSE, far_end, (lab,), {"up": True})
    later.start()
    yield lab
    later.join()


@pytest.mark.parametrize(
    "before",
    [{"running": True}, {"running": False, "driver": "igb", "bus": "0000:01:00.0"}],
    ids=["it-was-there", "perhaps-just-gone-from-a-wire"],
)
def test_it_is_waited_for(broken: Lab, before: dict[str, object]) -> None:
    device = near(broken, **before)
    with broken.netns.entered():
        assert link_state(device.ifindex).carrier is False
        assert await_carrier(device).running


def test_not_where_there_is_no_wire_behind_it(lab: Lab) -> None:
    far_end(lab, up=False)
    device = near(lab, running=False)
    with lab.netns.entered():
        began = time.monotonic()
        assert not await_carrier(device).running
        assert time.monotonic() - began < 1


def test_not_for_ever_nor_for_an_interface_that_is_down(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CABLE_TIMEOUT", 0.1)
    far_end(lab, up=False)
    unplugged = near(lab, running=False, driver="igb", bus="0000:01:00.0")
    with lab.netns.entered():
        assert not await_carrier(unplugged).running
    lab.set_down()
    with lab.netns.entered():
        assert not await_carrier(unplugged._replace(running=True)).up


def test_who_attaches_natively_waits_and_nobody_else(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(links, "await_carrier", lambda device: waited.append(device.name))
    with Program.build("xdp_pass.c") as program:
        with program.attach("veth0", mode="generic", netns=lab.netns):
            assert waited == []
        with program.attach("veth0", mode="native", netns=lab.netns):
            assert waited == ["veth0"]
