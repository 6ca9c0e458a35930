# SPDX-License-Identifier: Apache-2.0
"""How many packets one receive() returns, by itself and when it is asked for fewer: README and docs say so too."""

from __future__ import annotations

import pytest

import toolkit
from tests.helpers.wire import eventually
from toolkit.lab import Lab

pytestmark = pytest.mark.needs("bcc")


def test_a_quarter_of_the_ring_by_default_and_as_many_as_asked_for() -> None:
    with Lab() as lab, toolkit.open(lab.interface, netns=lab.netns, filter="udp", ring_size=256) as near:
        lab.udp(count=200)
        eventually(lambda: near.counters()["redirected"] == 200)
        assert len(near.receive(timeout=1.0)) == 256 // 4
        assert len(near.receive(timeout=1.0, limit=10)) == 10
        assert len(near.receive(timeout=1.0, limit=1000)) == 200 - 64 - 10


def test_a_tee_returns_all_copies_that_wait() -> None:
    with Lab() as lab, toolkit.tee(lab.interface, netns=lab.netns, filter="udp", slots=256) as copies:
        lab.udp(count=100)
        eventually(lambda: copies.counters()["redirected"] == 100)
        assert len(copies.receive(timeout=1.0)) == 100
