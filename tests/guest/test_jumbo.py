# SPDX-License-Identifier: Apache-2.0
"""Packets longer than a frame, or than 1500 bytes: they come whole, or open() says why they do not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest

import toolkit
from tests.helpers.cable import Cable
from tests.helpers.drivers import assert_whole, delivered, opened
from tests.helpers.sending import sent_frames
from toolkit.errors import ToolkitError

Seen = Callable[[str], None]


@pytest.fixture(params=[3000, 9000])
def jumbo(cable: Cable, request: pytest.FixtureRequest) -> Iterator[Cable]:
    cable.set_mtu(request.param)
    yield cable
    cable.set_mtu(1500)


def test_long_packets_arrive_whole_or_open_says_why(jumbo: Cable, mode: str, seen: Seen) -> None:
    packets = sent_frames(32, lengths=range(60, jumbo.mtu + 15, {3000: 211, 9000: 407}[jumbo.mtu]))
    near: toolkit.Interface | None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            near = opened(jumbo, mode)
        except ToolkitError as error:
            refused = str(error)
            near = None
    if near is None:
        assert str(jumbo.mtu) in refused, f"it does not say that it is the MTU: {refused}"
        seen(f"refused: {refused}")
        return
    with near:
        fit = [one for one in packets if len(one) <= 3840] if said else packets
        assert_whole(delivered(jumbo, near, fit, burst=8), fit, near.statistics(), jumbo.counters())
    longest, because = max(map(len, fit)), f": {said[0].message}" if said else ""
    seen(f"{len(fit)} of {len(packets)} frames up to {longest} bytes{because}")
