# SPDX-License-Identifier: Apache-2.0
"""An edit function that gives away the frames of the batch it sees: refused, counted, and each frame has one owner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.forwarding import adds_up, moved, settled
from tests.helpers.sending import Tap
from tests.helpers.wire import Wire, frame
from toolkit.batch.editable import EditableBatch
from toolkit.errors import FrameError
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab


@pytest.fixture
def near(lab: Lab) -> Iterator[toolkit.Interface]:
    with toolkit.open("veth0", filter="all", ring_size=64, frames=256, netns=lab.netns) as interface:
        yield interface


def descs(batch: EditableBatch) -> Any:
    return np.stack((batch.addresses, batch.lengths.astype(np.uint64)), axis=1)


GIFTS: dict[str, Callable[[toolkit.Interface, EditableBatch], object]] = {
    "to the free stack": lambda near, batch: near.umem.free_frames(batch.addresses),
    "one to the free stack": lambda near, batch: near.umem.free_frame(batch.addresses[-1]),
    "to the fill ring": lambda near, batch: near.sockets[0].fill.put(batch.addresses[:8]),
    "to the TX ring": lambda near, batch: near.sockets[0].tx.put(descs(batch)[:8]),
    "twice to the TX ring": lambda near, batch: near.sockets[0].tx.put(descs(batch)[[0, 1, 0]]),
    "twice to the free stack": lambda near, batch: near.umem.recycle(batch.addresses[[0, 1, 0]]),
}


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("what", GIFTS)
def test_a_frame_given_away_by_an_edit_function(lab: Lab, near: toolkit.Interface, what: str, dropped: bool) -> None:
    generous = True
    near.sockets[0].rx_limit = 32  # so that the fill ring has room for a gift

    def edit(batch: EditableBatch) -> Any:
        if generous:
            GIFTS[what](near, batch)
        return np.zeros(len(batch), bool) if dropped and generous else None

    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, edit)
        wire.send([frame(i) for i in range(20)])
        while forwarder.statistics().received < 20:
            with pytest.raises(FrameError):
                raise AssertionError(f"{what}: {forwarder.step(1.0)} packets, and no error")
            near.umem.audit()
        adds_up(forwarder)
        generous = False
        for first in range(100, 500, 20):  # more packets than there are frames
            wire.send([frame(first + i) for i in range(20)])
            moved(forwarder, first - 60)
        expected = [frame(i) for i in range(100, 500)]
        came: list[bytes] = []
        while len(came) < 400:
            came += [one for one in tap.take(1) if one in expected]
        assert came == expected
    settled(near)
