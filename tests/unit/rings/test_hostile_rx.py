# SPDX-License-Identifier: Apache-2.0
"""An RX ring that lies: refused whole, with a sentence, each time; no frame has two owners, none is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.hostile import FRAME, FRAMES, RING, Plain
from toolkit.abi.if_xdp import XDP_PKT_CONTD
from toolkit.abi.xsk_meta import XSK_META, XSK_META_MAGIC
from toolkit.errors import FrameError
from toolkit.umem.ledger import RX, owner_code

Entries = list[tuple[int, ...]]

# What the kernel writes, given the frames that it has, and what is said of it.
LIES: dict[str, tuple[Callable[[Plain], Entries], str]] = {
    "one address twice": (lambda rig: [(rig.posted[0] + 256, 60), (rig.posted[0] + 256, 60)], "named twice"),
    "one frame twice": (lambda rig: [(a + 256, 60) for a in rig.posted] + [(rig.posted[3] + 300, 60)], "named twice"),
    "outside": (lambda rig: [(rig.posted[0] + 256, 60), (FRAMES * FRAME, 60)], "outside the UMEM"),
    "far outside": (lambda rig: [((1 << 64) - 1, 1)], "outside the UMEM"),
    "a free frame": (lambda rig: [(rig.posted[0], 60), (int(rig.umem.ledger.top(1)[0]), 60)], "to the free stack"),
    "the user's": (lambda rig: [(rig.umem.alloc_frame() + 256, 60)], "belongs to the user"),
    "into the neighbour": (lambda rig: [(rig.posted[0] + 256, FRAME - 255)], "not within one frame"),
    "the largest length": (lambda rig: [(rig.posted[0] + 256, 0xFFFFFFFF)], "not within one frame"),
    "a length that wraps": (lambda rig: [(rig.posted[0] + 256, 0xFFFFFFFF - 200, 0xFFFFFFFF)], "not bound for"),
    "several buffers": (lambda rig: [(rig.posted[0], 60, XDP_PKT_CONTD), (rig.posted[1], 60)], "not bound for"),
}


@pytest.mark.parametrize("name", LIES)
def test_refused_whole_and_said_each_time(name: str) -> None:
    rig = Plain()
    lie, what = LIES[name]
    rig.delivers((rig.posted[-1] + 256, 60), *lie(rig))
    if name == "one frame twice":
        rig.posted.pop()
    before = rig.owners()
    for _ in range(3):
        with pytest.raises(FrameError, match=what):
            rig.receiver.poll_once(FRAMES)
        assert rig.owners() == before
        with pytest.raises(FrameError, match=what), rig.receiver.taking(FRAMES):
            pass
        assert rig.owners() == before
    rig.ends()


def test_one_address_in_two_batches() -> None:
    rig = Plain()
    rig.delivers((rig.posted[0] + 256, 60), (rig.posted[0] + 256, 60))
    assert len(rig.receiver.poll_once(1)) == 1
    for _ in range(3):
        with pytest.raises(FrameError, match="belongs to the user, as a received packet"):
            rig.receiver.poll_once(1)
        rig.owners()
    rig.ends()


@pytest.mark.parametrize("name", LIES)
def test_pieces(name: str) -> None:
    """peek() and get() are gVisor's: peek() looks at the owners, and umem.get() at the rest."""
    rig = Plain()
    lie, _ = LIES[name]
    rig.delivers(*lie(rig))
    before = rig.owners()
    for _ in range(3):
        try:
            n, index = rig.rx.peek()
        except FrameError:
            assert rig.owners() == before
            continue
        for i in range(n):
            desc = rig.rx.get(index + i)
            if desc.addr % FRAME + desc.len > FRAME:
                with pytest.raises(FrameError, match="not within one frame"):
                    rig.umem.get(desc)
        rig.rx.cancel(n)
        assert rig.owners() == before
    rig.ends()


@pytest.mark.parametrize("name", sorted(set(LIES) - {"one address twice", "one frame twice"}))
def test_one_by_one(name: str) -> None:
    """The short path: what is good comes; what lies is refused, and its frame is not lost."""
    rig = Plain()
    lie, _ = LIES[name]
    rig.delivers(*lie(rig))
    for _ in range(4):
        try:
            rig.replier.reply(lambda packet: False, 8, 1)
        except FrameError:
            rig.owners()
    assert rig.umem.audit()["received"] == 0
    rig.ends()


def test_a_frame_of_a_batch_that_is_out() -> None:
    """The ring names it again: refused, and the Batch's end is not disturbed."""
    rig = Plain()
    rig.delivers((rig.posted[0] + 256, 60), (rig.posted[1] + 256, 60))
    batch = rig.receiver.poll_once()
    rig.receiver._batch = None  # the user keeps it: no receive() takes it back
    rig.delivers((rig.posted[0] + 256, 60))
    before = rig.owners()
    for _ in range(3):
        for call in (rig.receiver.poll_once, rig.rx.peek, rig.rx.take_one):
            with pytest.raises(FrameError, match="the user, as a received packet"):
                call()
            assert rig.owners() == before
    batch.release()
    rig.ends()


def test_a_frame_of_the_last_batch_on_the_short_path() -> None:
    """It is refused each time: to end the Batch would make it look like one of the kernel's."""
    rig = Plain()
    rig.delivers((rig.posted[0] + 256, 60), (rig.posted[1] + 256, 60))
    batch = rig.receiver.poll_once()
    rig.delivers((rig.posted[0] + 256, 60))
    for _ in range(3):
        with pytest.raises(FrameError, match="the user, as a received packet"):
            rig.replier.reply(lambda packet: True, 2, 2)
        assert len(batch.head(14)) == 2
    rig.ends()


@pytest.mark.parametrize("name", ["outside", "far outside", "the user's"])
def test_a_block_that_raises_while_the_ring_lies(name: str) -> None:
    """What it took is free again; what still stands in the ring is judged when it is taken."""
    rig = Plain()
    lie, what = LIES[name]
    rig.delivers((rig.posted[-1] + 256, 60), *lie(rig))
    users = rig.umem.audit()["user"]
    with pytest.raises(ZeroDivisionError), rig.receiver.taking(1) as descs:
        raise ZeroDivisionError(len(descs))
    audit = rig.umem.audit()
    assert (audit["received"], audit["user"]) == (0, users)
    for _ in range(3):
        with pytest.raises(FrameError, match=what):
            rig.receiver.poll_once(FRAMES)
    rig.ends()


@pytest.mark.parametrize("sg", [False, True])
@pytest.mark.parametrize("jump", [RING, RING + 7, (1 << 31) - 3])
def test_a_producer_index_that_jumps(jump: int, sg: bool) -> None:
    rig = Plain(sg=sg)
    rig.delivers((rig.posted[0] + 256, 60), jump=jump)
    before = rig.owners()
    calls: list[Callable[[], object]] = [
        rig.receiver.poll_once,
        rig.rx.peek,
        rig.rx.take_one,
        rig.rx.receive,
        rig.rx.available,
        lambda: rig.replier.reply(bool, 2, 2),
        lambda: rig.rx.peek(1),
        lambda: rig.receiver.poll_once(1),
    ]
    for call in calls * 2:
        with pytest.raises(FrameError, match=rf"ahead of what was taken.*{RING} entries"):
            call()
        assert rig.owners() == before
    rig.ends()


def test_a_packet_without_an_end() -> None:
    """Else receive() would return nothing for ever, and wait() at once: of a full ring without an end can come."""
    rig = Plain(sg=True)
    rig.delivers(*[(address, 100, XDP_PKT_CONTD) for address in rig.posted])
    assert not rig.receiver.poll_once(), "its end may still come"
    rig.delivers(*[(address, 100, XDP_PKT_CONTD) for address in rig.posted * 3])
    before = rig.owners()
    for _ in range(3):
        with pytest.raises(FrameError, match="without an end"):
            rig.receiver.poll_once()
        assert rig.owners() == before
    rig.ends()


def test_options_that_are_not_known_are_let_through_and_not_sent_on() -> None:
    rig = Plain()
    rig.delivers((rig.posted[0] + 256, 60, 0x80000002))
    assert rig.receiver.poll_once().options.tolist() == [0x80000002]
    rig.receiver.take_back()
    rig.delivers((rig.posted[1] + 256, 60, 0x80000002))
    assert rig.replier.reply(lambda packet: True, 1, 1) == (1, 1)
    assert rig.tx.get(rig.tx.next_index - 1).options == 0


def test_odd_and_allowed() -> None:
    """An empty packet; one that fills its frame; one at the very start of the UMEM, before which there is nothing."""
    rig = Plain()
    memory = rig.umem.memory
    assert memory is not None
    assert 0 in rig.posted
    stranger = np.zeros(1, dtype=XSK_META)  # what the program wrote for a packet of the frame before
    stranger["magic"], stranger["time"], stranger["length"] = XSK_META_MAGIC, 1 << 62, 9000
    size = XSK_META.itemsize
    memory[FRAME - size : FRAME] = stranger.view(np.uint8)
    rig.umem.ledger.posted_at[:] = 0
    rig.delivers((0, 0), (FRAME, FRAME), (2 * FRAME + 256, FRAME - 256))
    batch = rig.receiver.poll_once(3)
    assert batch.lengths.tolist() == batch.wire_lengths.tolist() == [0, FRAME, FRAME - 256]
    assert batch.arrival_ns.tolist() == [0, 0, 0]
    assert batch.head(14)[0].tolist() == [0] * 14


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_descriptors(data: st.DataObject) -> None:
    """Taken exactly when each is the kernel's, named once, within its frame and of one buffer; else nothing changes."""
    rig = Plain()
    number = st.integers(0, FRAMES) | st.integers(0, (1 << 53) - 1)
    address = st.builds(lambda n, offset: n * FRAME + offset, number, st.integers(0, FRAME - 1))
    length = st.integers(0, FRAME) | st.integers(0, 0xFFFFFFFF)
    option = st.just(0) | st.integers(0, 0xFFFFFFFF)
    good = st.tuples(st.sampled_from(rig.posted).map(lambda a: a + 256), st.integers(0, FRAME - 256), st.just(0))
    entries = data.draw(st.lists(good | st.tuples(address, length, option), min_size=1, max_size=6))
    before = rig.owners()
    fine = len({addr // FRAME for addr, _, _ in entries}) == len(entries) and all(
        addr // FRAME * FRAME in rig.posted and addr % FRAME + size <= FRAME and not options & XDP_PKT_CONTD
        for addr, size, options in entries
    )
    rig.delivers(*entries)
    for _ in range(2):
        if fine:
            batch = rig.receiver.poll_once(len(entries))
            assert batch.addresses.tolist() == [addr for addr, _, _ in entries]
            assert sum(owner & 7 == RX for owner in rig.owners()) == 8, "as many were lent again"
            break
        with pytest.raises(FrameError):
            rig.receiver.poll_once(len(entries))
        assert rig.owners() == before
        assert before.count(owner_code(RX, 1)) == 8
    rig.ends()
