# SPDX-License-Identifier: Apache-2.0
"""The demo's flood goes as fast as packets arrive: what is lost slows it down, what is idle makes it faster."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from toolkit.cli.commands import demo_traffic
from toolkit.cli.commands.demo_traffic import Traffic


class Report(NamedTuple):
    sent: int
    lost: int
    seconds: float


class World:
    """A far host whose generator sends what it is asked for, and a near host that receives `capacity` packets/s."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.rates: list[float | None] = []
        self.clock = 0.0
        self.cpu = 0.0  # of the receiving thread

    def generator(self, *, flows: int, seconds: float, rate: float | None) -> Any:
        self.rates.append(rate)
        rate = rate or 10 * self.capacity
        self.clock += seconds
        self.cpu += seconds * min(rate / self.capacity, 1.0)
        sent = round(rate * seconds)
        report = Report(sent, max(sent - round(self.capacity * seconds), 0), seconds)
        generator = type("Fake", (), {"cpu": 0, "running": False})()
        generator.start = lambda: generator
        generator.stop = lambda: report
        generator.close = lambda: None
        return generator


def course(monkeypatch: pytest.MonkeyPatch, world: World, seconds: float, most: float) -> tuple[Traffic, list[float]]:
    """Let it run to its end; the traffic, and when the overload began."""
    monkeypatch.setattr(demo_traffic.time, "monotonic", lambda: world.clock)
    monkeypatch.setattr(demo_traffic.time, "thread_time", lambda: world.cpu)
    monkeypatch.setattr(demo_traffic.os, "sched_setaffinity", lambda pid, cpus: None)
    monkeypatch.setattr(Traffic, "_end_kernel", lambda self: None)
    traffic, overload = Traffic(world, seconds, most=most), []
    while world.clock < seconds + 0.2:
        if traffic.step(world.clock):
            overload.append(world.clock)
        world.clock += 0.01
    return traffic, overload


@pytest.mark.parametrize("capacity", [20_000, 100_000, 250_000, 2_000_000])
def test_the_flood_is_paced_to_what_arrives(monkeypatch: pytest.MonkeyPatch, capacity: float) -> None:
    world = World(capacity)
    traffic, overload = course(monkeypatch, world, 10.0, 300_000)
    *paced, last = world.rates
    assert last is None, "the overload has no rate"
    assert all(rate is not None and rate <= 300_000 for rate in paced)
    settled = [rate for rate in paced if rate is not None][-4:]
    assert all(rate <= capacity for rate in settled), paced
    assert max(settled) >= min(0.4 * capacity, 300_000), "it is no trickle either"
    assert traffic.fastest == pytest.approx(
        max(rate for rate in paced if rate is not None and rate <= capacity), rel=0.01
    )
    assert len(overload) == 1
    assert 8.5 < overload[0] < 9.3
    assert traffic.overload is not None
    assert traffic.overload.lost > 0
    assert traffic.overload.packets == pytest.approx(10 * capacity * (10 - overload[0]), rel=0.05)


def test_what_arrives_without_loss_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, _ = course(monkeypatch, World(1_000_000), 5.0, 300_000)
    assert traffic.paced.lost == 0
    assert traffic.fastest == 300_000


def test_a_short_demo_has_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(200_000)
    traffic, overload = course(monkeypatch, world, 1.7, 300_000)
    assert len(world.rates) >= 2
    assert overload
    assert traffic.paced.packets
    assert traffic.overload is not None
    assert traffic.overload.packets
