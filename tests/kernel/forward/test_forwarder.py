# SPDX-License-Identifier: Apache-2.0
"""Forwarding onto the same interface: packets unchanged, and changed by edit functions, also by wrong ones."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.forwarding import adds_up, moved, settled, swap_macs
from tests.helpers.sending import Tap, assert_in_order
from tests.helpers.wire import ETHERTYPE, FAR_MAC, NEAR_MAC, Wire, frame, number_of
from toolkit.batch.editable import EditableBatch
from toolkit.errors import ArgumentError, StaleBatchError, ToolkitError
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab

pytestmark = pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU")


@pytest.fixture
def near(lab: Lab) -> Iterator[toolkit.Interface]:
    """The near end, which receives everything."""
    with toolkit.open("veth0", filter="all", ring_size=64, frames=256, netns=lab.netns) as interface:
        yield interface


# --- one interface --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [18, 60, 1514])
def test_unchanged_onto_itself(lab: Lab, near: toolkit.Interface, length: int) -> None:
    packets = [frame(i, length) for i in range(50)]
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near)
        wire.send(packets)
        moved(forwarder, 50)
        assert tap.take(50) == packets
    assert (forwarder.statistics().forwarded, forwarder.statistics().edited_out, forwarder.statistics().no_room) == (
        50,
        0,
        0,
    )
    assert forwarder.statistics().octets == 50 * length
    assert repr(forwarder) == "<Forwarder received=50 forwarded=50 edited_out=0 no_room=0>"
    settled(near)


def test_the_frames_move_and_not_their_bytes(lab: Lab, near: toolkit.Interface) -> None:
    """The TX descriptors name the very addresses at which the packets arrived."""
    arrived: list[np.ndarray] = []
    forwarder = Forwarder(near, near, lambda batch: arrived.append(batch.addresses))
    (sock,) = near.sockets
    with Wire(lab) as wire:
        wire.send([frame(i, 60 + i) for i in range(10)])
        moved(forwarder, 10)
    (addresses,) = [np.concatenate(arrived)]
    last = sock.tx.next_index
    descs = [sock.tx.get(last - 10 + i) for i in range(10)]
    assert [desc.addr for desc in descs] == addresses.tolist()
    assert [desc.len for desc in descs] == [60 + i for i in range(10)]
    settled(near)


def test_many_rounds_of_the_rings(lab: Lab, near: toolkit.Interface) -> None:
    """5,000 packets of all lengths through rings of 64: all arrive, in order, to the byte."""
    packets = [frame(i, 18 + i * 37 % 1490) for i in range(5000)]
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, swap_macs)
        for first in range(0, 5000, 40):
            wire.send(packets[first : first + 40])
            moved(forwarder, first + 40)
        got = tap.take(5000)
        assert [FAR_MAC + NEAR_MAC + one[12:] for one in packets] == got
    settled(near)


# --- edits ----------------------------------------------------------------------------------------------------------


def test_a_mask_drops(lab: Lab, near: toolkit.Interface) -> None:
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, lambda batch: batch.head(18)[:, 17] % 3 == 0)
        wire.send([frame(i) for i in range(60)])
        moved(forwarder, 60)
        assert assert_in_order(tap.take(20)) == list(range(0, 60, 3))
    assert (forwarder.statistics().forwarded, forwarder.statistics().edited_out, forwarder.statistics().octets) == (
        20,
        40,
        20 * 64,
    )
    settled(near)


@pytest.mark.parametrize("keep", [True, False])
def test_a_mask_of_all_or_nothing(lab: Lab, near: toolkit.Interface, keep: bool) -> None:
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, lambda batch: np.full(len(batch), keep))
        wire.send([frame(i) for i in range(30)])
        moved(forwarder, 30)
        assert len(tap.take(30 * keep)) == 30 * keep
    assert (forwarder.statistics().forwarded, forwarder.statistics().edited_out) == (30 * keep, 30 * (not keep))
    settled(near)


def test_a_vlan_tag_is_pushed(lab: Lab, near: toolkit.Interface) -> None:
    """The packet grows to the front; nothing behind the addresses is copied."""

    def push(batch: EditableBatch) -> None:
        heads = batch.head(12)
        batch.grow_front(4)
        tagged = np.empty((len(batch), 16), dtype=np.uint8)
        tagged[:, :12] = heads
        tagged[:, 12:] = np.frombuffer(struct.pack("!HH", 0x8100, 42), np.uint8)
        batch.put_head(tagged)

    packets = [frame(i, 60 + i) for i in range(20)]
    with lab.capture(far=True) as seen, Wire(lab) as wire:
        forwarder = Forwarder(near, near, push)
        wire.send(packets)
        moved(forwarder, 20)
        assert seen.frames(20) == [one[:12] + b"\x81\x00\x00\x2a" + one[12:] for one in packets]
    settled(near)


def test_packets_are_shortened_and_extended(lab: Lab, near: toolkit.Interface) -> None:
    def cut(batch: EditableBatch) -> None:
        batch.set_lengths(np.where(batch.lengths > 100, 100, batch.lengths))

    def extend(batch: EditableBatch) -> None:
        lengths = batch.lengths
        batch.set_lengths(np.maximum(lengths, 60))
        for i in np.flatnonzero(lengths < 60).tolist():
            batch.writable(i)[int(lengths[i]) :] = bytes(60 - int(lengths[i]))

    def strip(batch: EditableBatch) -> None:
        batch.grow_front(-14)

    packets = [frame(i, length) for i, length in enumerate([20, 59, 60, 100, 101, 1514])]
    inner = HEADERLESS + frame(7, 64)
    for edit, given, expected in (
        (cut, packets, [one[:100] for one in packets]),
        (extend, packets, [one.ljust(60, b"\0") for one in packets]),
        (strip, [inner], [frame(7, 64)]),
    ):
        with Tap.far(lab) as tap, Wire(lab) as wire:
            forwarder = Forwarder(near, near, edit)
            wire.send(given)
            moved(forwarder, len(given))
            assert tap.take(len(expected)) == expected
        settled(near)


HEADERLESS = NEAR_MAC + FAR_MAC + struct.pack("!H", ETHERTYPE + 1)


class BrokenError(Exception):
    pass


def raises(batch: EditableBatch) -> None:
    swap_macs(batch)
    raise BrokenError


MISTAKES: dict[str, Callable[[EditableBatch], Any]] = {
    "raises": raises,
    "numbers": lambda batch: np.ones(len(batch), np.uint8),
    "one for all": lambda batch: True,
    "too short": lambda batch: np.ones(len(batch) - 1, bool),
    "too long": lambda batch: np.ones(len(batch) + 1, bool),
    "a matrix": lambda batch: np.ones((len(batch), 1), bool),
    "rows": lambda batch: np.arange(len(batch)),
    "the batch": lambda batch: batch.head(1),
    "empty": lambda batch: [],
    "a head for too many": lambda batch: batch.put_head(np.zeros((len(batch) + 1, 4), np.uint8)),
    "a head of words": lambda batch: batch.put_head(np.zeros((len(batch), 4), np.uint16)),
    "a head longer than packets": lambda batch: batch.put_head(np.zeros((len(batch), 100), np.uint8)),
    "too short packets": lambda batch: batch.set_lengths([13] * len(batch)),
    "out of the frame": lambda batch: batch.set_lengths([4000] * len(batch)),
    "too far to the front": lambda batch: batch.grow_front(65),
}


def test_an_edit_function_that_makes_a_mistake(lab: Lab, near: toolkit.Interface) -> None:
    """The error is seen, the packets are dropped and counted, their frames come back, and forwarding goes on."""
    mistake: Callable[[EditableBatch], Any] | None = None
    kept: list[EditableBatch] = []

    def edit(batch: EditableBatch) -> Any:
        kept.append(batch)
        return None if mistake is None else mistake(batch)

    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, edit)
        for what in MISTAKES:
            mistake = MISTAKES[what]
            wrong, before = forwarder.statistics().edited_out, forwarder.statistics().received
            wire.send([frame(i) for i in range(40)])  # more packets in all than there are frames
            while forwarder.statistics().received < before + 40:
                with pytest.raises(BrokenError if what == "raises" else ArgumentError):
                    raise AssertionError(f"{what}: {forwarder.step(1.0)} packets, and no error")
            adds_up(forwarder)
            assert forwarder.statistics().edited_out == wrong + 40, what
            settled(near)
        mistake = None
        wire.send([frame(i) for i in range(40)])
        moved(forwarder, 40 * len(MISTAKES) + 40)
        assert tap.take(40) == [frame(i) for i in range(40)]
    for batch in kept:
        assert batch.stale
        with pytest.raises(StaleBatchError):
            batch.put_head(np.zeros((len(batch), 1), np.uint8))
    settled(near)


def test_an_edit_function_that_uses_the_interface(lab: Lab, near: toolkit.Interface) -> None:
    """It may send packets of its own; it may not receive."""

    def edit(batch: EditableBatch) -> Any:
        near.send([frame(1000 + len(batch))])
        with pytest.raises(ToolkitError, match="two threads receive"):
            near.receive(timeout=0)
        return None

    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, edit)
        wire.send([frame(1)])
        moved(forwarder, 1)
        assert [number_of(one) for one in tap.take(2)] == [1001, 1]
    settled(near)
