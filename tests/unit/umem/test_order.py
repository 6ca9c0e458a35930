# SPDX-License-Identifier: Apache-2.0
"""Frames that go from a Batch straight back into the fill ring: whoever asks for one sees the truth, in any order."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from tests.helpers.hostile import Kernel
from tests.helpers.rings_oracle import U32
from toolkit.batch.batch import Batch
from toolkit.errors import FrameError
from toolkit.umem.ledger import RECEIVED, RX, owner_code

POSTED, BORROWED = owner_code(RX, 1), owner_code(RECEIVED, 1)


@pytest.mark.parametrize("shuffled", [False, True])
def test_frames_go_round_without_end(shuffled: bool) -> None:
    """In order the owner array is left alone; else each frame is entered in it. Either way none is lost."""
    rig = Kernel(shuffled=shuffled)
    for turn in range(200):
        came = rig.brings(turn % 5)
        batch = rig.receiver.poll_once()
        assert batch.addresses.tolist() == [address + 256 for address in came[: len(batch)]]
        while len(batch) < len(came):
            came = came[len(batch) :]
            batch = rig.receiver.poll_once()
        if batch and turn > 10:
            assert rig.codes((batch.addresses - np.uint64(256)).tolist()) == {BORROWED if shuffled else POSTED}
        if turn % 50 == 49:
            audit = rig.umem.audit()
            assert (audit["received"], audit["rx"]) == (len(batch), 8)
    assert rig.rx._order.kept is not shuffled
    rig.ends()


ASKS: dict[str, tuple[Callable[[Kernel, Batch], object], dict[str, int]]] = {
    "audit": (lambda rig, batch: rig.umem.audit(), {"received": 2}),
    "free_frame": (lambda rig, batch: rig.umem.free_frame(int(batch.addresses[0])), {"received": 1, "free": 7}),
    "free_frames": (lambda rig, batch: rig.umem.free_frames(batch.addresses), {"received": 0, "free": 8}),
    "tx.put": (lambda rig, batch: rig.tx.put(batch._descs[:1]), {"received": 1, "tx": 1}),
    "pass_on": (lambda rig, batch: rig.sender.pass_on(batch._descs[:1], 0), {"received": 1, "tx": 1}),
    "fill.put": (lambda rig, batch: rig.fill.put(batch.addresses[:1]), {"received": 1, "rx": 9}),
    "release": (lambda rig, batch: batch.release(), {"received": 0, "free": 8}),
}


@pytest.mark.parametrize("who", ASKS)
def test_whoever_asks_for_single_frames_has_them(who: str) -> None:
    rig = Kernel()
    came = rig.brings(2)
    batch = rig.receiver.poll_once()
    assert rig.codes(came) == {POSTED}
    ask, expected = ASKS[who]
    ask(rig, batch)
    audit = rig.umem.audit()
    assert {kind: audit[kind] for kind in expected} == expected
    first = came[0]
    if who in ("free_frame", "free_frames", "release"):
        for again in (lambda: rig.umem.free_frame(first), lambda: rig.umem.free_frames(np.array(came, np.uint64))):
            with pytest.raises(FrameError, match="free stack"):
                again()
    if who in ("audit", "release"):  # as far as the frames are still the Batch's
        for _ in range(3):
            rig.brings(1)
            assert len(rig.receiver.poll_once()) == 1
    else:
        with pytest.raises(FrameError, match="belongs to"):
            rig.receiver.poll_once()
        assert not rig.receiver.poll_once()
        assert rig.umem.audit()["received"] == 0
    rig.ends()


def test_a_driver_that_leaves_the_order_is_found_out_and_believed_no_more() -> None:
    """The same frame, named again while it is held, is refused before and after."""
    rig = Kernel()
    for _ in range(2):
        came = rig.brings(3)
        batch = rig.receiver.poll_once(2)
        rig.delivers((int(batch.addresses[0]), 60))
        with pytest.raises(FrameError, match="belongs to the user, as a received packet"):
            rig.receiver.poll_once(8)
        rig.rx_memory.producer[0] = (rig.rx_memory.producer[0] - 1) & U32
        assert rig.receiver.poll_once(8).addresses.tolist() == [came[2] + 256]
        rig.random = random.Random(2)
    assert not rig.rx._order.kept
    rig.ends()


@pytest.mark.parametrize("shuffled", [False, True])
def test_when_each_frame_was_posted_is_known(shuffled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of frames that were posted before the order was left: a time left from an earlier packet is before that."""
    now = [1000]
    monkeypatch.setattr("toolkit.umem.order.time.monotonic_ns", lambda: now[0])
    rig = Kernel()
    posted, seen = dict.fromkeys(rig.posted, 0), rig.fill.next_index
    for turn in range(60):
        if turn == 30 and shuffled:
            rig.random = random.Random(3)
        came = rig.brings(1 + turn % 3)
        now[0] += 10
        batch = rig.receiver.poll_once(8)
        if turn > 8:
            assert batch._posted_ns().tolist() == [posted[address] for address in came], turn
        new = rig.fill_memory.read(seen, (rig.fill.next_index - seen) & U32)
        posted.update(dict.fromkeys(new.tolist(), now[0]))
        seen = rig.fill.next_index
    rig.ends()


def test_a_driver_that_ran_out_of_frames_is_woken_when_some_go_back() -> None:
    """It sets NEED_WAKEUP, and brings nothing until a system call is made."""
    rig, woken = Kernel(), []

    def wake() -> bool:
        woken.append(1)
        return False

    rig.fill._wake = wake
    rig.receiver.limit = 80  # so that none come from the free stack
    rig.receiver._tolerated = 80
    for turn in range(6):
        rig.fill_memory.flags[0] = turn % 2
        rig.brings(1)
        assert len(rig.receiver.poll_once()) == 1
        assert len(woken) == (turn + 1) // 2
    rig.ends()


def test_large_batches_go_straight_back_as_well() -> None:
    """The room for them is that which the packets leave that are taken in their place."""
    rig = Kernel()
    rig.brings(4)
    rig.receiver.poll_once(4)
    for _ in range(20):
        came = rig.brings(4)
        batch = rig.receiver.poll_once(4)
        assert len(batch) == 4
        free = rig.umem.ledger.depth
        assert rig.codes(came) == {POSTED}
        assert free == 16 - 8 - 4, "none went by way of the free stack"
    rig.ends()
