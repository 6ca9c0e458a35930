# SPDX-License-Identifier: Apache-2.0
"""What leaves over a driver, seen by the far end's kernel: in every way of waiting, with nobody receiving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from tests.helpers.cable import Cable
from tests.helpers.drivers import assert_whole, opened
from tests.helpers.sending import Tap, assert_in_order, sent_frames
from tests.helpers.waiting import MODES as WAITS
from tests.helpers.waiting import busy_polling_or_not

pytestmark = busy_polling_or_not
Seen = Callable[[str], None]


def leave_paced(sender: Any, tap: Tap, count: int = 96) -> int:
    """Send bursts of 32, each when the one before has arrived."""
    for at in range(0, count, 32):
        packets = sent_frames(32, start=at, lengths=range(60, 1515, 97))
        assert sender.send(packets, timeout=10.0) == len(packets)
        assert sender.flush(10.0), "what was posted has not left"
        assert_whole(tap.take(len(packets)), packets, sender)
    return count


@pytest.mark.parametrize("wait", WAITS)
def test_it_leaves_without_a_receive(cable: Cable, mode: str, wait: Any, seen: Seen) -> None:
    with opened(cable, mode, wait=wait) as near, Tap.far(cable) as tap:
        count = leave_paced(near, tap)
    seen(f"{count} of {count} frames reached the peer")


def test_a_burst_leaves(cable: Cable, mode: str, seen: Seen) -> None:
    """More than the TX ring at once. The peer may lose some of them, but they come in order, and all have left."""
    packets = sent_frames(600)
    with opened(cable, mode) as near, Tap.far(cable) as tap:
        assert near.send(packets, timeout=20.0) == len(packets)
        assert near.flush(20.0)
        arrived = assert_in_order(tap.take(len(packets), timeout=5.0))
        assert len(arrived) >= 256, "one ring of an emulated NIC"
    seen(f"600 frames at once: all have left, {len(arrived)} reached the peer, in order")


def test_what_was_sent_leaves_although_it_is_closed_at_once(cable: Cable, mode: str, seen: Seen) -> None:
    packets = sent_frames(32)
    with Tap.far(cable) as tap:
        with opened(cable, mode) as near:
            assert near.send(packets) == len(packets)
        assert tap.take(len(packets)) == packets
    seen("32 of 32 frames reached the peer")


@pytest.mark.parametrize("zero_copy", ["auto", False])
def test_a_socket_sends_without_a_program(cable: Cable, zero_copy: Any, seen: Seen) -> None:
    with (
        toolkit.Socket(cable.interface, umem=None, zero_copy=zero_copy, netns=cable.netns) as sock,
        Tap.far(cable) as tap,
    ):
        count = leave_paced(sock, tap)
        bound = "zero-copy" if sock.zero_copy else "copy mode"
    seen(f"{count} of {count} frames reached the peer ({bound})")


def test_a_socket_sends_beside_a_generic_program(cable: Cable, seen: Seen) -> None:
    with (
        toolkit.open(cable.interface, filter="ether proto 0x88b5", mode="generic", netns=cable.netns) as near,
        Tap.far(cable) as tap,
    ):
        count = leave_paced(near, tap)
        bound = "zero-copy" if near.zero_copy else "copy mode"
    seen(f"{count} of {count} frames reached the peer ({bound})")
