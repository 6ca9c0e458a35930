# SPDX-License-Identifier: Apache-2.0
"""sample: one packet of N is acted on, by chance and not by turn; the others go on to the kernel, whole."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.helpers.rules import check_shares, opened, send, ways
from tests.helpers.wire import Wire, collect, frame, number_of
from toolkit import Program, Rule
from toolkit.errors import ArgumentError
from toolkit.lab import Lab

OURS = "ether proto 0x88b5"
FRAME = frame(0)
XDP_DROP = 1


@ways
def test_every_packet_is_either_taken_or_passed_on(lab: Lab, wire: Wire, door: str, mode: str) -> None:
    frames = [frame(i, 60 + i % 100) for i in range(1000)]
    with Wire(lab, near=True) as kernel, opened(lab, door, mode, filter=OURS, sample=4, snaplen=40) as near:
        for i in range(0, len(frames), 100):
            send(near, wire, frames[i : i + 100])
        (rule,) = near.rule_counters()
        check_shares(near)
        assert rule.packets == len(frames)
        assert rule.bytes == sum(map(len, frames))
        assert rule.redirected + rule.sampled_out == len(frames)
        taken = [number_of(packet) for packet in collect(near.receive, rule.redirected)]
        passed = kernel.receive(rule.sampled_out)
        assert len(taken) == rule.redirected
        assert all(one == frames[number_of(one)] for one in passed), "the kernel gets whole packets"
        assert sorted(taken + [number_of(one) for one in passed]) == list(range(len(frames)))
        assert near.statistics().dropped == 0


@pytest.mark.parametrize(("sample", "share"), [(2, 0.5), (10, 0.1), (1 / 3, 1 / 3), (0.75, 0.75), (1000, 0.001)])
def test_as_many_as_asked_for(sample: float, share: float) -> None:
    """Six standard deviations: a right program fails this once in 500 million runs."""
    count = 400_000
    with Program.build(filter="all", on_match="drop", sample=sample) as program:
        program.test_run(FRAME, repeat=count)
        counters = program.counters()
    assert counters["matched"] == counters["dropped"] + counters["sampled_out"] == count
    assert abs(counters["dropped"] - share * count) < 6 * math.sqrt(count * share * (1 - share))


def test_nothing_periodic_decides() -> None:
    """A packet of each of four kinds in turn: a sampler of every fourth one would see one kind only."""
    with Program.build(filter="all", on_match="drop", sample=4) as program:
        dropped = program.test_run_many([frame(i) for i in range(4000)]) == XDP_DROP
    for kind in range(4):
        assert abs(int(dropped[kind::4].sum()) - 250) < 6 * math.sqrt(1000 / 4 * 3 / 4)


def test_all_of_them() -> None:
    for sample in (1, 1.0):
        with Program.build(filter="all", on_match="drop", sample=sample) as program:
            program.test_run(FRAME, repeat=10_000)
            assert program.counters()["dropped"] == 10_000


@pytest.mark.parametrize(
    "sample", [100, 0.01, Fraction(1, 100), Fraction(100), np.uint8(100), np.int32(100), np.float64(0.01)]
)
def test_numbers_of_all_kinds(sample: float) -> None:
    rule = Rule("udp", sample=sample)
    assert str(rule) == "udp [1 of 100]"
    assert rule.share == (1 << 32) // 100


@pytest.mark.parametrize("sample", [10**400, 0, -1, 1e-12, math.inf, math.nan, True, "2", None, 1 << 33])
def test_a_sample_that_cannot_be(sample: object) -> None:
    with pytest.raises(ArgumentError, match="sample cannot be"):
        Rule("all", sample=sample)
