# SPDX-License-Identifier: Apache-2.0
"""Completion rings that lie, and callers who name a frame that is not theirs, twice, or beyond its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.hostile import FRAME, FRAMES, RING, Plain, descs
from toolkit.abi.if_xdp import XDP_PKT_CONTD, XDP_TX_METADATA, XDPDesc
from toolkit.errors import ArgumentError, FrameError
from toolkit.umem.ledger import TX, owner_code

SENDING = owner_code(TX, 1)

# --- the completion ring ----------------------------------------------------------------------------------------------

LIES: dict[str, tuple[Callable[[list[int], Plain], list[int]], str]] = {
    "one address twice": (lambda sent, rig: [sent[0], sent[1], sent[0]], "named twice"),
    "outside": (lambda sent, rig: [sent[0], sent[1], FRAMES * FRAME], "outside the UMEM"),
    "far outside": (lambda sent, rig: [sent[0], sent[1], (1 << 64) - 1], "outside the UMEM"),
    "the user's": (lambda sent, rig: [sent[0], sent[1], rig.umem.alloc_frame()], "belongs to the user"),
    "being received": (lambda sent, rig: [sent[0], sent[1], rig.posted[0]], "for receiving"),
}


def sent(rig: Plain, n: int = 4) -> list[int]:
    assert rig.sender.send([bytes(60)] * n) == n
    return rig.tx_memory.read(rig.tx.next_index - n, n)[:, 0].tolist()


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("way", ["send", "flush", "reclaim", "free_all"])
def test_a_completion_ring_that_lies(name: str, way: str) -> None:
    """Said once; what was sent is free, once; sending goes on."""
    rig = Plain()
    mine = sent(rig)
    lie, what = LIES[name]
    rig.completes(lie(mine, rig))
    before = rig.owners()
    calls: dict[str, Callable[[], object]] = {
        "send": lambda: rig.sender.send([bytes(60)]),
        "flush": lambda: rig.sender.flush(1),
        "reclaim": rig.sender.reclaim,
        "free_all": lambda: rig.completion.free_all(rig.umem),
    }
    with pytest.raises(FrameError, match=rf"unexpectedly.*{what}.*open it again"):
        calls[way]()
    expected = [0 if owner == SENDING and n * FRAME in mine[:2] else owner for n, owner in enumerate(before)]
    assert rig.owners() == expected
    rig.completes(mine[2:])
    assert rig.sender.flush(1)
    assert SENDING not in rig.owners()
    rig.ends()


@pytest.mark.parametrize("name", LIES)
def test_pieces_of_a_completion_ring_that_lies(name: str) -> None:
    rig = Plain()
    mine = sent(rig)
    lie, what = LIES[name]
    rig.completes(lie(mine, rig))
    before = rig.owners()
    for _ in range(2):
        for call in (rig.completion.peek, rig.completion.take):
            with pytest.raises(FrameError, match=what):
                call()
            assert rig.owners() == before
    n, _ = rig.completion.peek(2)
    rig.completion.cancel(n)
    assert rig.owners() == before
    rig.ends()


def test_a_completion_ring_that_changes_between_peek_and_cancel() -> None:
    """cancel() reads the ring again: a frame of the user's own is not taken from him."""
    rig = Plain()
    mine, users = sent(rig), rig.umem.alloc_frame()
    rig.completes(mine[:2])
    n, index = rig.completion.peek()
    before = rig.owners()
    rig.completion_memory.write(index, np.array([users, mine[1]], dtype=np.uint64))
    with pytest.raises(FrameError, match="cancel"):
        rig.completion.cancel(n)
    assert rig.owners() == before


@pytest.mark.parametrize("jump", [RING, 1 << 30])
def test_a_completion_index_that_jumps(jump: int) -> None:
    rig = Plain()
    mine = sent(rig)
    rig.completes(mine, jump=jump)
    before = rig.owners()
    calls: list[Callable[[], object]] = [
        lambda: rig.sender.send([bytes(60)]),
        lambda: rig.sender.flush(1),
        rig.sender.reclaim,
        rig.completion.peek,
        lambda: rig.completion.free_all(rig.umem),
        lambda: rig.sender.pass_on(descs(), 0),
    ]
    for call in calls[:5] * 2:
        with pytest.raises(FrameError, match="ahead of what was taken"):
            call()
        assert rig.owners() == before
    rig.sender._settle()  # as close() does: it is the end, whatever the ring says
    rig.ends()


def test_a_tx_consumer_index_that_jumps() -> None:
    """Entries that the kernel has not read are not overwritten, however much room it claims."""
    rig = Plain()
    mine = sent(rig)
    rig.tx_memory.consumer[0] = (rig.tx_memory.producer[0] + 3) & 0xFFFFFFFF
    before = rig.owners()
    rig.tx._cached_consumer = rig.tx._cached_producer  # as when the ring was last seen full
    for _ in range(2):
        for call in (lambda: rig.sender.send([bytes(60)]), lambda: rig.tx.reserve(1), lambda: rig.tx.free(1)):
            with pytest.raises(FrameError, match="has passed what was put into it"):
                call()
            assert rig.owners() == before
    assert rig.tx_memory.read(rig.tx.next_index - 4, 4)[:, 0].tolist() == mine
    rig.ends()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_completions(data: st.DataObject) -> None:
    """Whatever comes back: a frame that was sent is free once it was named, and no other changes hands."""
    rig = Plain()
    mine = sent(rig, 6)
    anything = st.sampled_from(mine) | st.integers(0, FRAMES * FRAME) | st.integers(0, (1 << 64) - 1)
    named: set[int] = set()
    for batch in data.draw(st.lists(st.lists(anything, min_size=1, max_size=6), max_size=4)):
        before, left = rig.owners(), {address for address in mine if address not in named}
        numbers = [address // FRAME * FRAME for address in batch]
        rig.completes(batch)
        fine = len(set(numbers)) == len(numbers) and set(numbers) <= left
        try:
            assert rig.completion.free_all(rig.umem) == len(batch)
            assert fine
        except FrameError:
            assert not fine
        named |= set(numbers)
        after = rig.owners()
        assert [a for n, a in enumerate(after) if n * FRAME not in mine] == [
            b for n, b in enumerate(before) if n * FRAME not in mine
        ]
        assert {n * FRAME for n, owner in enumerate(after) if owner == SENDING} == set(mine) - named
    rig.ends()


# --- callers ----------------------------------------------------------------------------------------------------------


def wrong(rig: Plain, mine: list[int]) -> dict[str, np.ndarray]:
    """Descriptors that no ring may be given, of frames of which `mine` are the user's."""
    a, b = mine[:2]
    return {
        "twice": descs((a, 60), (b, 60), (a, 60)),
        "a frame twice": descs((a, 60), (a + 1000, 60)),
        "the kernel's": descs((a, 60), (rig.posted[0], 60)),
        "outside": descs((a, 60), (FRAMES * FRAME, 60)),
        "into the neighbour": descs((a, 60), (b + 256, FRAME - 255)),
        "nothing": descs((a, 60), (b, 0)),
        "goes on": descs((a, 60), (b, 60, XDP_PKT_CONTD)),
        "metadata": descs((a, 60), (b, 60, XDP_TX_METADATA)),
        "unknown options": descs((a, 60), (b, 60, 1 << 31)),
        "all bits": descs((a, 60), (b, 0xFFFFFFFF, 0xFFFFFFFF)),
    }


NAMES = tuple(wrong(Plain(), [0, FRAME]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["put", "notify", "pass_on"])
def test_what_is_not_sent(name: str, way: str) -> None:
    """The kernel would count them as invalid and never return their frames."""
    rig = Plain()
    mine = rig.umem.alloc_frames(3).tolist()
    before, bad = rig.owners(), wrong(rig, mine)[name]

    def notify() -> None:
        n, index = rig.tx.reserve(len(bad))
        rig.tx.set_batch(index, bad)
        try:
            rig.tx.notify()
        finally:
            rig.tx.unreserve(n)

    calls: dict[str, Callable[[], object]] = {
        "put": lambda: rig.tx.put(bad),
        "notify": notify,
        "pass_on": lambda: rig.sender.pass_on(bad, 0),
    }
    for _ in range(2):
        with pytest.raises(FrameError):
            calls[way]()
        assert rig.owners() == before
        assert rig.tx.outstanding == 0
    good = descs(*((address + 256, 60) for address in mine))
    assert rig.tx.put(good[:1]) == 1
    assert len(rig.sender.pass_on(good[1:], 0)) == 0
    assert rig.tx.outstanding == 3
    rig.ends()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("twice", "a frame twice")])
def test_one_that_is_not_sent(name: str) -> None:
    rig = Plain()
    mine = rig.umem.alloc_frames(2).tolist()
    (addr, word), before = wrong(rig, mine)[name][1].tolist(), rig.owners()
    desc = XDPDesc(addr, word & 0xFFFFFFFF, word >> 32)
    for _ in range(2):
        with pytest.raises(FrameError):
            rig.tx.put_one(desc)
        n, index = rig.tx.reserve(1)
        rig.tx.set(index, desc)
        with pytest.raises(FrameError):
            rig.tx.notify()
        rig.tx.unreserve(n)
        assert rig.owners() == before
    assert rig.tx.put_one(XDPDesc(mine[0], FRAME))
    rig.ends()


def test_metadata_needs_room_in_the_frame() -> None:
    """The kernel reads tx_metadata_len bytes in front of the packet."""
    rig = Plain(tx_metadata_len=16)
    a, b = rig.umem.alloc_frames(2).tolist()
    for bad in (descs((a, 60)), descs((a + 16, 60, XDP_TX_METADATA), (b + 15, 60))):
        with pytest.raises(FrameError, match="16 bytes in front"):
            rig.tx.put(bad)
    assert rig.tx.put(descs((a + 16, 60, XDP_TX_METADATA), (b + 16, FRAME - 16))) == 2


def test_packets_of_several_buffers_are_sent_where_the_socket_is_bound_for_them() -> None:
    rig = Plain(sg=True)
    a, b = rig.umem.alloc_frames(2).tolist()
    assert rig.tx.put(descs((a, FRAME, XDP_PKT_CONTD), (b, 60))) == 2


@pytest.mark.parametrize("bad", [[(0, 60)], np.zeros(4, np.uint64), np.zeros((2, 3), np.uint64), None])
def test_what_is_no_array_of_descriptors(bad: Any) -> None:
    rig = Plain()
    for call in (rig.tx.put, lambda wrong: rig.sender.pass_on(wrong, 0)):
        with pytest.raises(ArgumentError, match="descs cannot be"):
            call(bad)
    assert rig.sender.send([bytes(60)]) == 1


@pytest.mark.parametrize("offset", [0, 1000])
def test_frames_that_are_not_posted(offset: int) -> None:
    rig = Plain()
    a, b = rig.umem.alloc_frames(2).tolist()
    before = rig.owners()
    for bad in ([a, b, a + offset], [a, rig.posted[0]], [a, FRAMES * FRAME + offset], [a, (1 << 64) - 1]):
        with pytest.raises(FrameError):
            rig.fill.put(np.array(bad, dtype=np.uint64))
        n, index = rig.fill.reserve(len(bad))
        rig.fill.set_batch(index, np.array(bad, dtype=np.uint64))
        with pytest.raises(FrameError):
            rig.fill.notify()
        rig.fill.unreserve(n)
        assert rig.owners() == before
    with pytest.raises(ArgumentError, match="addresses cannot be"):
        rig.fill.put([a, b])
    assert rig.fill.put(np.array([a + offset, b], dtype=np.uint64)) == 2, "any address names its frame"
    rig.ends()


@pytest.mark.parametrize("kind", [list, np.array, lambda given: np.array(given, dtype=np.int32)])
@pytest.mark.parametrize("call", ["recycle", "free_frames"])
def test_frames_that_are_not_given_back(call: str, kind: Callable[[list[int]], Any]) -> None:
    """alloc_frame() handed out a frame twice after recycle([a, a])."""
    rig = Plain()
    a, b = rig.umem.alloc_frames(2).tolist()
    before, give = rig.owners(), getattr(rig.umem, call)
    for bad in ([a, a], [a, b, a + 7], [a, rig.posted[0]], [a, FRAMES * FRAME], [a, -1]):
        with pytest.raises(FrameError):
            give(kind(bad))
        assert rig.owners() == before
    for bad in (["x"], [0.5], [[a]]):
        with pytest.raises(ArgumentError, match="an array of integers"):
            give(bad)
    give(kind([]))
    give(kind([a + 100, b]))
    assert len({rig.umem.alloc_frame() for _ in range(8)}) == 8
