# SPDX-License-Identifier: Apache-2.0
"""What Workers are told reaches each of them: rules with their names, and the options of toolkit.open()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import worker_jobs
from tests.helpers.wire import eventually
from toolkit.lab import Lab
from toolkit.program import Program, Rule
from toolkit.workers import Workers

pytestmark = pytest.mark.timeout(120)

RULES = [Rule("udp port 9"), Rule("tcp", action="drop"), Rule("icmp", "count")]


def test_rules_have_their_names_on_both_sides(lab: Lab) -> None:
    names = [str(rule) for rule in RULES]
    with Workers(lab.interface, worker_jobs.rules_and_times, rules=RULES, netns=lab.netns) as workers:
        lab.udp(count=10)
        assert eventually(lambda: workers.rule_counters()[0].redirected == 10)
        assert [one.rule for one in workers.rule_counters()] == names
        workers.stop()
        ((theirs, filter, timed, untimed),) = workers.results(30)
    assert (theirs, filter) == (names, "; ".join(names))
    assert (timed, untimed) == (10, 0)


def test_a_program_of_one_s_own_keeps_its_rules(lab: Lab) -> None:
    with (
        Program.build(rules=RULES) as program,
        Workers(lab.interface, worker_jobs.rules_and_times, program=program, netns=lab.netns) as workers,
    ):
        workers.stop()
        assert workers.results(30)[0][0] == [one.rule for one in program.rule_counters()] == [str(one) for one in RULES]


@pytest.mark.parametrize("timestamps", [True, False])
def test_times_are_left_out_where_that_was_asked_for(lab: Lab, timestamps: bool) -> None:
    options: dict[str, Any] = {"filter": "udp port 9", "timestamps": timestamps, "netns": lab.netns}
    with Workers(lab.interface, worker_jobs.rules_and_times, **options) as workers:
        lab.udp(count=10)
        assert eventually(lambda: workers.counters()["redirected"] == 10)
        workers.stop()
        ((_, _, timed, untimed),) = workers.results(30)
    assert (timed, untimed) == ((10, 0) if timestamps else (0, 10))


def test_sizes_reach_each_worker(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=2)
    with Workers(
        lab.interface, worker_jobs.count, filter="udp", workers=2, ring_size=256, frames=512, netns=lab.netns
    ) as workers:
        info = workers.info()
    assert (info["ring_size"], info["frames"]) == (256, 2 * 512)
