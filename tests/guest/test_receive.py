# SPDX-License-Identifier: Apache-2.0
"""What comes in over a driver: all of it, in order, with times; what does not is counted."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.helpers.cable import Cable
from tests.helpers.drivers import assert_whole, delivered, numbered, opened
from tests.helpers.sending import assert_once, in_thread, sent_frames
from tests.helpers.wire import Wire, collect, drain, eventually

Seen = Callable[[str], None]


def test_all_arrives_in_order_with_times(cable: Cable, mode: str, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    packets = numbered(192)
    times: list[np.ndarray] = []
    with opened(cable, mode) as near:
        receive = near.receive

        def noting(timeout: float | None = None) -> object:
            batch = receive(timeout=timeout)
            times.append(batch.arrival_ns.copy())
            return batch

        monkeypatch.setattr(near, "receive", noting)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        got = delivered(cable, near, packets)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        assert_whole(got, packets, near.statistics(), near.counters(), cable.counters())
        stamps = np.concatenate(times)
        assert (stamps[1:] >= stamps[:-1]).all()
        assert before <= stamps[0] <= stamps[-1] <= after
        assert near.statistics().dropped == 0
        assert near.counters()["redirected"] == len(packets)
    seen(f"{len(got)} of {len(packets)} frames sent by the peer arrived, byte by byte, in order")


def test_it_can_be_opened_again(cable: Cable, mode: str, seen: Seen) -> None:
    packets = numbered(16)
    for _ in range(2):
        with opened(cable, mode) as near:
            assert_whole(delivered(cable, near, packets), packets, near.statistics(), cable.counters())
    assert eventually(lambda: cable.ping().received == 1), "the kernel has its packets back"
    seen("twice 16 of 16 frames; then the kernel answers the peer's ping")


def test_it_goes_on_after_the_link_was_down(cable: Cable, mode: str, seen: Seen) -> None:
    packets = numbered(16)
    with opened(cable, mode) as near:
        assert_whole(delivered(cable, near, packets), packets, near.statistics(), cable.counters())
        cable.set_down()
        try:
            assert not near.receive(timeout=0.1)
        finally:
            cable.set_up()
        drain(near.receive)
        assert_whole(delivered(cable, near, packets), packets, near.statistics(), cable.counters())
    seen("16 of 16 frames before, and 16 of 16 after")


def test_overload_is_counted(cable: Cable, mode: str, seen: Seen) -> None:
    """Nobody receives: what finds no room is lost, or held back at its sender; what is lost is in the account."""
    offered = 600
    with opened(cable, mode, ring_size=64) as near, Wire(cable) as wire:
        # In a thread: a virtio NIC whose peer has no buffers stops its queue, and its sender with it.
        sender, sent = in_thread(lambda: wire.send(sent_frames(offered)))
        assert eventually(lambda: near.counters()["redirected"])
        sender.join(timeout=1.0)  # it is done, or held back until somebody receives
        # Not in order: of frames that are held back, qemu lets some overtake others.
        numbers = assert_once(collect(near.receive, offered, idle=1.0))
        sender.join(timeout=30.0)
        assert sent == [None]
        counted = near.statistics()
        known = len(numbers) + counted.dropped + (counted.missed or 0)
        account = f"{len(numbers)} received, {counted.dropped} dropped, {counted.missed} missed by the NIC"
        assert known == offered or (known < offered and counted.missed is None), f"{account}, {offered} offered"
    seen(f"{offered} frames offered: {account.replace('None', 'not known how many')}")
