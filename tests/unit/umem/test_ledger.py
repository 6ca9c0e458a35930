# SPDX-License-Identifier: Apache-2.0
"""The ledger and its custodians against a plain model: whatever is asked for, each frame is in exactly one place."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from toolkit.errors import ArgumentError, FrameError
from toolkit.rings import CompletionQueue, FillQueue, RingMemory
from toolkit.umem.accounts import ReceiveAccount, SendAccount
from toolkit.umem.ledger import FREE, RECEIVED, RETIRED, RX, TX, USER, Ledger, describe_owner, owner_code
from toolkit.umem.umem import UMEM

FRAMES, SHIFT = 8, 11


def addresses(*numbers: int, offset: int = 0) -> Any:
    return np.array(numbers, dtype=np.uint64) * np.uint64(1 << SHIFT) + np.uint64(offset)


class LedgerMachine(RuleBasedStateMachine):
    """Two sockets with custody of both directions, and a user, on one ledger of 8 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(FRAMES, SHIFT)
        self.receive = {holder: ReceiveAccount(self.ledger, holder) for holder in (1, 2)}
        self.send = {holder: SendAccount(self.ledger, holder) for holder in (1, 2)}
        self.model = [owner_code(FREE)] * FRAMES

    some = st.lists(st.integers(0, FRAMES), min_size=1, max_size=4)  # FRAMES itself is foreign
    holders = st.sampled_from((1, 2))

    def expect(self, call: Callable[[], object], numbers: list[int], allowed: set[int], after: int) -> None:
        """The call succeeds exactly if the model says so, and then it changes what it should."""
        known = [self.model[number] for number in numbers if number < FRAMES]
        fine = len(known) == len(numbers) and all(owner in allowed for owner in known)
        if fine and len(set(numbers)) == len(numbers):
            call()
            for number in numbers:
                self.model[number] = after
        else:
            with pytest.raises(FrameError):
                call()

    @rule(n=st.integers(0, FRAMES + 1))
    def alloc(self, n: int) -> None:
        if n > self.model.count(FREE):
            with pytest.raises(FrameError, match="cannot take"):
                self.ledger.alloc(n, USER)
            return
        for address in self.ledger.alloc(n, USER):
            number = int(address) >> SHIFT
            assert self.model[number] == FREE
            self.model[number] = USER

    def pick(self, data: st.DataObject, allowed: set[int]) -> list[int]:
        """Frames that the call will take, or any frames at all, often more than one of them and one twice."""
        fitting = [number for number, owner in enumerate(self.model) if owner in allowed]
        if fitting and data.draw(st.booleans()):
            return data.draw(
                st.lists(st.sampled_from(fitting), min_size=1, max_size=4, unique=data.draw(st.booleans()))
            )
        return data.draw(self.some)

    def ours(self) -> set[int]:
        """What the user may free, lend and send."""
        return {owner for owner in self.model if owner & 7 in (USER, RECEIVED)}

    @rule(data=st.data(), offset=st.integers(0, 2047))
    def free(self, data: st.DataObject, offset: int) -> None:
        numbers = self.pick(data, self.ours())
        given = addresses(*numbers, offset=offset)
        self.expect(lambda: self.ledger.free(given), numbers, self.ours(), FREE)

    @rule(number=st.integers(0, FRAMES), offset=st.integers(0, 2047))
    def free_one(self, number: int, offset: int) -> None:
        address = int(addresses(number, offset=offset)[0])
        self.expect(lambda: self.ledger.free_one(address), [number], self.ours(), FREE)

    @rule(data=st.data(), holder=holders, direction=st.sampled_from((RX, TX)))
    def given(self, data: st.DataObject, holder: int, direction: int) -> None:
        numbers = self.pick(data, self.ours())
        account: Any = (self.receive if direction == RX else self.send)[holder]
        after = owner_code(direction, holder)
        call = functools.partial(account.given, addresses(*numbers))
        if len(numbers) == 1:
            call = functools.partial(account.given_one, int(addresses(*numbers)[0]))
        self.expect(call, numbers, self.ours(), after)

    @rule(data=st.data(), holder=holders, direction=st.sampled_from((RX, TX)))
    def taken(self, data: st.DataObject, holder: int, direction: int) -> None:
        """By its own holder only: a descriptor of another socket's frame is the kernel's error, or an attack."""
        numbers = self.pick(data, {owner_code(direction, 1), owner_code(direction, 2)})
        account: Any = (self.receive if direction == RX else self.send)[holder]
        after = owner_code(RECEIVED if direction == RX else USER, holder)
        given = addresses(*numbers, offset=256)
        call = (lambda: account.taken_one(int(given[0]))) if len(numbers) == 1 else (lambda: account.taken(given))
        self.expect(call, numbers, {owner_code(direction, holder)}, after)

    @rule(holder=holders, retire=st.booleans())
    def a_socket_ends(self, holder: int, retire: bool) -> None:
        """From a finalizer as well: with the lock held by whoever was interrupted."""
        with self.ledger.lock:
            self.receive[holder].end()
            self.send[holder].end(retire=retire)
        # USER of a socket: what its completion ring returned and nobody freed.
        after = {RX: FREE, RECEIVED: FREE, USER: FREE, TX: RETIRED if retire else FREE}
        self.model = [after.get(owner & 7, owner) if owner >> 3 == holder else owner for owner in self.model]

    @invariant()
    def agree(self) -> None:
        assert self.ledger.count_free() == self.model.count(FREE)
        audit = self.ledger.audit()
        kinds = ("free", "user", "rx", "received", "tx", "retired")
        assert [audit[kind] for kind in kinds] == [sum(o & 7 == i for o in self.model) for i in range(len(kinds))]
        assert self.ledger.owner.tolist() == self.model


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_what_audit_finds() -> None:
    ledger = Ledger(4, SHIFT)
    ledger.owner[2] = USER
    with pytest.raises(FrameError, match="not free"):
        ledger.audit()
    ledger = Ledger(4, SHIFT)
    ledger._stack[0] = ledger._stack[1]
    with pytest.raises(FrameError, match="twice"):
        ledger.audit()
    ledger = Ledger(4, SHIFT)
    ledger.depth -= 1
    with pytest.raises(FrameError, match="lacks 1"):
        ledger.audit()


def test_frames_of_a_socket_that_ended_can_be_lent_at_once() -> None:
    """n_free_frames counts what a finalizer left a note about: a fill ring asks it first."""
    with UMEM(4, 4096) as umem:
        first = ReceiveAccount(umem.ledger, 1)
        assert FillQueue(RingMemory.plain(4, 8), first).fill_all(umem) == 4
        first.end()
        second = FillQueue(RingMemory.plain(4, 8), ReceiveAccount(umem.ledger, 2))
        assert second.fill_all(umem) == 4
        assert umem.audit()["rx"] == 4


def test_a_fill_ring_knows_its_umem() -> None:
    with UMEM(4, 4096) as umem, UMEM(4, 4096) as other:
        fill = FillQueue(RingMemory.plain(4, 8), ReceiveAccount(umem.ledger, 1))
        with pytest.raises(ArgumentError, match="another UMEM"):
            fill.fill_all(other)
        assert other.n_free_frames == 4
        assert fill.fill_all(umem) == 4


class Cut(BaseException):
    """An interrupt."""


def returned(umem: UMEM, n: int) -> tuple[SendAccount, CompletionQueue]:
    """A completion ring with `n` frames in it that were sent, and its owners."""
    account, memory = SendAccount(umem.ledger, 1), RingMemory.plain(8, 8)
    for at, address in enumerate(account.prepare(n, 0).tolist()):
        struct.pack_into("=Q", memory.bytes, 8 * at, address)
    account.sent()
    memory.producer[0] = n
    return account, CompletionQueue(memory, account)


def test_a_completion_ring_knows_its_umem() -> None:
    with UMEM(8, 4096) as umem, UMEM(8, 4096) as other:
        _, completion = returned(umem, 3)
        SendAccount(other.ledger, 1).prepare(8, 0)  # frames of the same numbers, sent by a socket of the same number
        with pytest.raises(ArgumentError, match="another UMEM"):
            completion.free_all(other)
        assert (other.n_free_frames, umem.n_free_frames) == (0, 5)
        assert completion.free_all(umem) == 3
        assert umem.audit()["free"] == 8


@pytest.mark.parametrize("afterwards", ["prepare", "given", "given_one", "reclaim"])
def test_an_interrupted_return_of_sent_frames_is_finished_by_the_next_call(
    afterwards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with UMEM(8, 4096) as umem:
        mine = umem.alloc_frames(2)
        account, completion = returned(umem, 3)

        def cut(*_: object) -> None:
            raise Cut

        with monkeypatch.context() as patch:
            patch.setattr(umem, "recycle", cut)
            with pytest.raises(Cut):
                completion.free_all(umem)
        assert umem.audit()["tx"] == 3
        calls: dict[str, Callable[[], object]] = {
            "prepare": lambda: account.prepare(2, 0),
            "given": lambda: account.given(mine),
            "given_one": lambda: account.given_one(int(mine[0])),
            "reclaim": lambda: account.reclaim(umem, addresses(), lambda: None),
        }
        calls[afterwards]()
        sent = {"prepare": 2, "given": 2, "given_one": 1, "reclaim": 0}[afterwards]
        assert umem.audit()["tx"] == sent, "frames were lost"


def test_nothing_is_posted_to_a_tx_ring() -> None:
    account = SendAccount(Ledger(4, SHIFT), 1)
    with pytest.raises(ArgumentError):
        account.post(None, 1, 0)
    with pytest.raises(ArgumentError):
        account.settle(0)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", [ReceiveAccount, SendAccount])
def test_a_ring_that_returns_a_frame_of_another_socket_is_not_believed(kind: Any, n: int) -> None:
    ledger = Ledger(FRAMES, SHIFT)
    mine, others = kind(ledger, 1), kind(ledger, 2)
    frames = ledger.alloc(n, USER)
    mine.given(frames)
    before = ledger.owner.tolist()
    with pytest.raises(FrameError, match=r"unexpectedly.*socket 1"):
        others.taken(frames) if n > 1 else others.taken_one(int(frames[0]))
    assert ledger.owner.tolist() == before
    mine.taken(frames)


def test_lent_at_is_the_time_of_the_last_loan() -> None:
    ledger = Ledger(4, SHIFT)
    account = ReceiveAccount(ledger, 1)
    mine = ledger.alloc(3, USER)
    account.given(mine[:2])
    account.given_one(int(mine[2]))
    times = ledger.posted_at[ledger.numbers(mine)]
    assert (times > 0).all()
    assert times[2] >= times[0] == times[1]
    assert (ledger.posted_at == 0).sum() == 1


def test_refusals_name_the_owner() -> None:
    assert describe_owner(owner_code(RX, 3)) == "the kernel, for receiving (socket 3 of this UMEM)"
    ledger = Ledger(4, SHIFT)
    SendAccount(ledger, 7).given(ledger.alloc(2, USER))
    for call in (lambda: ledger.free(addresses(1)), lambda: ledger.free_one(1 << SHIFT)):
        with pytest.raises(FrameError, match=r"0x800.*for sending \(socket 7"):
            call()
