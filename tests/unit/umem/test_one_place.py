# SPDX-License-Identifier: Apache-2.0
"""A frame is in one place, also when raw ring calls, single frames and Batches are mixed; wrong calls cost nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.hostile import Kernel, descs
from tests.helpers.interrupts import Interrupt, every_line
from toolkit.errors import ArgumentError, FrameError
from toolkit.umem.ledger import FREE, USER, owner_code


def _call(rig: Kernel, how: str) -> None:
    if how == "receive":
        rig.receiver.poll_once()
    elif how == "reply":
        rig.replier.reply(lambda packet: True, 4, 1)
    else:
        with rig.receiver.taking():
            pass


@pytest.mark.parametrize("how", ["receive", "reply", "taking"])
def test_a_call_that_refuses_leaves_what_is_peeked(how: str) -> None:
    """However often: not even an entry whose frame was passed on already comes again."""
    rig = Kernel()
    came = rig.brings(3)
    n, index = rig.rx.peek(2)
    rig.umem.free_frame(came[0])
    for _ in range(3):
        with pytest.raises(ArgumentError, match="peeked and not released"):
            _call(rig, how)
    assert rig.rx.unreleased == n
    assert rig.umem.audit()["received"] == 1
    rig.rx.release(n)
    rig.umem.free_frame(rig.rx.get(index + 1).addr)
    assert rig.receiver.poll_once().addresses.tolist() == [came[2] + 256]
    rig.ends()


@pytest.mark.parametrize("posted", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_peeked_frame_that_was_passed_on_does_not_come_again(posted: bool, shuffled: bool) -> None:
    """resync() returns the others to the kernel; those peeked before it are still the user's."""
    rig = Kernel(shuffled=shuffled)
    came = rig.brings(4)
    rig.rx.peek(3)
    if posted:
        rig.fill.put(np.array(came[1:2], np.uint64))
    else:
        rig.umem.free_frame(came[1])
    rig.rx.resync()
    audit = rig.umem.audit()
    assert (audit["received"], audit["rx"]) == (1, 7 if posted else 6)
    assert rig.receiver.poll_once(8).addresses.tolist() == [came[2] + 256, came[3] + 256]
    rig.umem.audit()
    rig.umem.free_frame(came[0])
    rig.ends()


def test_a_completion_that_was_passed_on_does_not_come_again() -> None:
    """Its frame is being sent once more when the entries that were peeked are dropped."""
    rig = Kernel()
    mine = rig.umem.alloc_frames(3)
    rig.tx.put(descs(*((int(address), 60) for address in mine)))
    rig.completes(mine.tolist())
    assert rig.completion.peek()[0] == 3
    rig.tx.put(descs((int(mine[1]), 60)))
    rig.completion.resync()
    assert rig.completion.free_all(rig.umem) == 1  # the third
    assert rig.umem.audit()["tx"] == 1
    rig.umem.free_frame(int(mine[0]))
    rig.completes([int(mine[1])])
    assert rig.completion.free_all(rig.umem) == 1
    rig.ends()


@pytest.mark.parametrize("how", ["receive", "release", "reply"])
def test_a_frame_that_was_freed_and_taken_again_is_no_longer_of_the_batch(how: str) -> None:
    rig = Kernel()
    came = rig.brings(2)
    batch = rig.receiver.poll_once()
    rig.umem.free_frame(came[0])
    mine = rig.umem.alloc_frame()
    assert mine == came[0]
    with pytest.raises(FrameError, match="belongs to the user"):
        batch.release() if how == "release" else _call(rig, how)
    rig.receiver.poll_once()
    assert rig.umem.ledger.owner_of(mine) == owner_code(USER)
    assert rig.umem.audit()["received"] == 0
    rig.umem.free_frame(mine)
    rig.ends()


def test_entries_that_the_user_reserved_in_the_fill_ring_stay_his() -> None:
    """Packets are received meanwhile; their frames go back once the user has published his."""
    rig = Kernel()
    rig.brings(2)
    rig.receiver.poll_once()
    mine = rig.umem.alloc_frame()
    n, index = rig.fill.reserve(1)
    rig.fill.set(index, mine)
    for _ in range(3):
        rig.brings(2)
        assert len(rig.receiver.poll_once()) == 2
        assert rig.fill.unpublished == n
    rig.fill.notify()
    rig.receiver.poll_once()
    assert rig.umem.audit()["rx"] == 8
    assert rig.fill_memory.read(index, 1).tolist() == [mine]
    rig.ends()


def test_replies_do_not_cost_the_order() -> None:
    """It was given up after as many frames as twice the fill ring has: batches were slower from then on."""
    rig = Kernel()
    for _ in range(3 * rig.rx._order.size):
        rig.brings(1)
        rig.replier.reply(lambda packet: False, 4, 2)
    assert rig.rx._order.kept
    rig.ends()


def test_close_writes_nothing_while_another_thread_may_free_the_batch() -> None:
    """What release() has freed meanwhile may be anybody's already."""
    rig = Kernel()
    came = rig.brings(2)
    batch = rig.receiver.poll_once()
    account, ledger = rig.core.receive_account, rig.umem.ledger
    numbers = ledger.numbers(batch.addresses)
    listed = list(ledger.borrowed.items())

    class Racing(dict[int, Any]):
        """Between the two steps of close(), the other thread ends release()."""

        def items(self) -> Any:
            ledger.owner[numbers] = FREE
            self.clear()
            ledger.rebuild()
            return dict(listed).items()

    ledger.borrowed = Racing(ledger.borrowed)
    with ledger.lock:
        account.close()
    assert rig.codes(came) == {FREE}
    assert rig.umem.audit()["free"] == 16


@pytest.mark.parametrize("how", ["as a whole", "asked for single ones", "out of order", "poisoned"])
@pytest.mark.parametrize("call", ["poll_once", "take_back"])
def test_no_batch_seems_valid_while_the_kernel_has_its_frames(call: str, how: str) -> None:
    """It expires before the first of its frames goes: an interrupt in between leaves it stale, or all frames its."""

    def at(k: int) -> bool:
        rig, interrupt = Kernel(shuffled=how == "out of order"), Interrupt(k)
        came = rig.brings(4)
        batch = rig.receiver.poll_once(4)
        assert (batch.frames is None) == (how == "out of order")
        rig.umem.poison = how == "poisoned"
        if how == "asked for single ones":
            rig.umem.audit()
        rig.brings(2)
        interrupted = interrupt.run(getattr(rig.receiver, call))
        if not batch.stale:
            where = f"after an interrupt at {interrupt.where} (event {k})"
            assert not set(came) & set(rig.unfilled()), f"{where} the Batch seems valid, and its frames are posted"
            rig.rx.settle()
            rig.umem.audit()  # enters in the array what the Batch borrows
            assert rig.codes(came) == {rig.rx.received}, f"{where} the Batch seems valid, and its frames are not its"
        rig.receiver.poll_once()
        rig.ends()
        return interrupted

    assert every_line(at) > 20
