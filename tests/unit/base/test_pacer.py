# SPDX-License-Identifier: Apache-2.0
"""Packets leave evenly, and a stall is not made up for with a burst."""

from __future__ import annotations

from toolkit._base.pacer import Pacer


def test_packets_are_spread_evenly() -> None:
    now = [100.0]
    pacer = Pacer(10_000, 64, clock=lambda: now[0])
    sent, groups = 0, []
    while now[0] < 101.0:
        due = pacer.due(sent)
        if due:
            groups.append((now[0], due))
        sent += due
        now[0] += max(pacer.pause(sent), 1e-6) if not due else 0
    assert abs(sent - 10_000) <= 20
    assert max(due for _, due in groups) <= 20  # a millisecond's worth, no bursts
    # After a stall of a minute it does not send a minute's worth at once.
    now[0] += 60
    burst = 0
    while due := pacer.due(sent + burst):
        burst += due
    assert 10_000 * 0.05 < burst <= 10_000 * 0.1 + 64
    # As fast as it goes, a batch is always due.
    assert Pacer(None, 64).due(12345) == 64


def test_one_at_a_time() -> None:
    now = [5.0]
    pacer = Pacer(100, 1, clock=lambda: now[0])
    times = []
    for number in range(10):
        while not pacer.due(number):
            now[0] += max(pacer.pause(number), 1e-9)
        times.append(round(now[0] - 5, 6))
    assert times == [number / 100 for number in range(10)]
