# SPDX-License-Identifier: Apache-2.0
"""Filters on jumbo frames that cross a real cable: the program sees all buffers of each, in native and generic mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.helpers.wire import FAR_MAC, NEAR_MAC, Wire, eventually
from toolkit.abi import libpcap
from toolkit.lab import Lab
from toolkit.program import Program

MTU = 9000
SIZES = (60, 1500, 3000, 3500, 3600, 4096, 5000, 7700, 9000, 9014)

EXPRESSIONS = [
    "ether[8999] >= 0",
    "ether[len - 1] & 1 = 1",
    "ether[len - 4:4] & 0x30 != 0",
    "len > 3600 and len < 9000",
    "not ether[4000:2] & 7 = 3",
    "ether[3470:4] != 0 and ether[3518:4] != 0",
]


def frame(length: int) -> bytes:
    """An Ethernet frame for nobody in particular, whose bytes differ from place to place."""
    return (NEAR_MAC + FAR_MAC + b"\x88\xb5" + bytes((7 * i + i // 251) & 0xFF for i in range(length)))[:length]


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_jumbo_frames_are_read_to_their_end(expression: str, mode: str, make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(mtu=MTU)
    frames = [frame(size) for size in SIZES]
    expected = sum(libpcap.offline_filter_many(libpcap.compile_expression(expression), frames))
    assert 0 < expected < len(frames)
    with (
        Wire(lab) as wire,
        Program.build("xdp_drop.c", filter=expression, frags=True) as program,
        program.attach(lab.interface, mode=mode, netns=lab.netns),
    ):
        wire.send(frames)
        assert eventually(lambda: sum(program.counters().values()) >= len(frames)), program.counters()
        assert program.counters()["dropped"] == expected
