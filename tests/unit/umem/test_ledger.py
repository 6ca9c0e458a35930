# SPDX-License-Identifier: Apache-2.0
"""The ledger and its accounts against a plain model: whatever is asked for, each frame is in exactly one place."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from toolkit.abi.if_xdp import XDPDesc
from toolkit.errors import ArgumentError, FrameError
from toolkit.rings import RingMemory
from toolkit.umem.descriptor_check import tx_limits
from toolkit.umem.ledger import FREE, RECEIVED, RETIRED, RETURNED, RX, TX, USER, Ledger, describe_owner, owner_code
from toolkit.umem.receiving import OwnedFill, ReceiveAccount
from toolkit.umem.sending import OwnedCompletion, OwnedTX, SendAccount
from toolkit.umem.transfer import Account
from toolkit.umem.umem import UMEM

FRAMES, SHIFT = 8, 11


def addresses(*numbers: int, offset: int = 0) -> Any:
    return np.array(numbers, dtype=np.uint64) * np.uint64(1 << SHIFT) + np.uint64(offset)


class Index:
    """A ring, as far as a transfer needs it."""

    def __init__(self) -> None:
        self.now = self.rewound = 0

    def position(self) -> int:
        return self.now

    def rewind(self, index: int) -> None:
        self.rewound = index


def moved(account: Account, frames: Any, now: int, was: int | None, tried: str = "cannot post") -> None:
    """A transfer from its begin to its end."""
    ring = Index()
    account.begin(ring, ring.position, frames, now, was, tried)
    account.end()


def moved_one(ledger: Ledger, address: int, now: int, was: int | None, tried: str = "cannot post") -> None:
    """The same for one frame."""
    with ledger.lock:
        ledger.claim_one(address, was, tried)
        ledger.set_one(address, now)


class LedgerMachine(RuleBasedStateMachine):
    """Two sockets with accounts of both directions, and a user, on one ledger of 8 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(FRAMES, SHIFT)
        self.receive = {holder: ReceiveAccount(self.ledger, holder) for holder in (1, 2)}
        self.send = {holder: SendAccount(self.ledger, holder) for holder in (1, 2)}
        self.model = [owner_code(FREE)] * FRAMES
        self.batches: list[tuple[int, list[int]]] = []

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
        call = functools.partial(moved, account, addresses(*numbers), after, None)
        if len(numbers) == 1:
            call = functools.partial(moved_one, self.ledger, int(addresses(*numbers)[0]), after, None)
        self.expect(call, numbers, self.ours(), after)

    @rule(data=st.data(), holder=holders, direction=st.sampled_from((RX, TX)))
    def taken(self, data: st.DataObject, holder: int, direction: int) -> None:
        """By its own holder only: a descriptor of another socket's frame is the kernel's error, or an attack."""
        numbers = self.pick(data, {owner_code(direction, 1), owner_code(direction, 2)})
        account: Any = (self.receive if direction == RX else self.send)[holder]
        after = owner_code(RECEIVED if direction == RX else USER, holder)
        given = addresses(*numbers, offset=256)
        was = owner_code(direction, holder)
        call = functools.partial(moved, account, given, after, was)
        if len(numbers) == 1:
            call = functools.partial(moved_one, self.ledger, int(given[0]), after, was)
        self.expect(call, numbers, {was}, after)

    @rule(data=st.data(), holder=holders)
    def borrowed(self, data: st.DataObject, holder: int) -> None:
        """A Batch of frames that are remembered as a whole: theirs from here on, whoever asks."""
        posted = [number for number, owner in enumerate(self.model) if owner == owner_code(RX, holder)]
        if posted:
            numbers = data.draw(st.lists(st.sampled_from(posted), min_size=1, unique=True))
            key = holder << 32 | len(self.batches)
            self.ledger.borrowed[key] = owner_code(RECEIVED, holder), addresses(*numbers)
            self.batches.append((key, numbers))
            for number in numbers:
                self.model[number] = owner_code(RECEIVED, holder)

    @precondition(lambda self: self.batches)
    @rule()
    def given_back(self) -> None:
        """As long as nobody asked, they are the kernel's again at once."""
        key, numbers = self.batches[-1]
        kept = key in self.ledger.borrowed
        assert self.ledger.withdraw(key) is kept
        self.batches[-1] = key, []
        for number in numbers if kept else []:
            self.model[number] = owner_code(RX, key >> 32)

    @rule()
    def audited(self) -> None:
        """audit() is exact, and the owner array after it."""
        audit = self.ledger.audit()
        kinds = ("free", "user", "rx", "received", "tx", "retired")
        assert [audit[kind] for kind in kinds] == [sum(o & 7 == i for o in self.model) for i in range(len(kinds))]
        assert self.ledger.owner.tolist() == self.model

    @rule(holder=holders, retire=st.booleans())
    def a_socket_ends(self, holder: int, retire: bool) -> None:
        """From a finalizer as well: with the lock held by whoever was interrupted."""
        with self.ledger.lock:
            self.receive[holder].close()
            self.send[holder].close(retire=retire)
        # USER of a socket: what its completion ring returned and nobody freed.
        after = {RX: FREE, RECEIVED: FREE, USER: FREE, TX: RETIRED if retire else FREE}
        self.model = [after.get(owner & 7, owner) if owner >> 3 == holder else owner for owner in self.model]

    @invariant()
    def agree(self) -> None:
        assert self.ledger.count_free() == self.model.count(FREE)

    def teardown(self) -> None:
        self.audited()


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


def test_frames_of_a_socket_that_ended_can_be_posted_at_once() -> None:
    """n_free_frames counts what a finalizer left a note about: a fill ring asks it first."""
    with UMEM(4, 4096) as umem:
        first = ReceiveAccount(umem.ledger, 1)
        assert OwnedFill(RingMemory.plain(4, 8), first).fill_all(umem) == 4
        first.close()
        second = OwnedFill(RingMemory.plain(4, 8), ReceiveAccount(umem.ledger, 2))
        assert second.fill_all(umem) == 4
        assert umem.audit()["rx"] == 4


def test_a_fill_ring_knows_its_umem() -> None:
    with UMEM(4, 4096) as umem, UMEM(4, 4096) as other:
        fill = OwnedFill(RingMemory.plain(4, 8), ReceiveAccount(umem.ledger, 1))
        with pytest.raises(ArgumentError, match="another UMEM"):
            fill.fill_all(other)
        assert other.n_free_frames == 4
        assert fill.fill_all(umem) == 4


class Cut(BaseException):
    """An interrupt."""


def sending(account: SendAccount, n: int) -> list[int]:
    """The addresses of `n` free frames, put into a TX ring."""
    put: list[int] = []

    def write(frames: Any) -> Any:
        put.extend(frames.tolist())
        return np.stack([frames, np.full(n, 60, np.uint64)], axis=1)

    OwnedTX(RingMemory.plain(8, 16), account, tx_limits(4096, False, 0)).put_free(n, write)
    return put


def returned(umem: UMEM, n: int) -> tuple[SendAccount, OwnedCompletion]:
    """A completion ring with `n` frames in it that were sent, and its account."""
    account, memory = SendAccount(umem.ledger, 1), RingMemory.plain(8, 8)
    for at, address in enumerate(sending(account, n)):
        struct.pack_into("=Q", memory.bytes, 8 * at, address)
    memory.producer[0] = n
    return account, OwnedCompletion(memory, account)


def test_a_completion_ring_knows_its_umem() -> None:
    with UMEM(8, 4096) as umem, UMEM(8, 4096) as other:
        _, completion = returned(umem, 3)
        sending(SendAccount(other.ledger, 1), 8)  # frames of the same numbers, sent by a socket of the same number
        with pytest.raises(ArgumentError, match="another UMEM"):
            completion.free_all(other)
        assert (other.n_free_frames, umem.n_free_frames) == (0, 5)
        assert completion.free_all(umem) == 3
        assert umem.audit()["free"] == 8


@pytest.mark.parametrize("afterwards", ["put_free", "put", "put_one", "free_all"])
def test_an_interrupted_return_of_sent_frames_is_finished_by_the_next_call(
    afterwards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with UMEM(8, 4096) as umem:
        mine = umem.alloc_frames(2)
        account, completion = returned(umem, 3)
        descs = np.stack([mine, np.full(2, 60, np.uint64)], axis=1)
        tx = OwnedTX(RingMemory.plain(8, 16), account, tx_limits(4096, False, 0))

        def cut(*_: object) -> None:
            raise Cut

        with monkeypatch.context() as patch:
            patch.setattr(umem.ledger, "push", cut)
            with pytest.raises(Cut):
                completion.free_all(umem)
        assert umem.audit()["tx"] == 3
        calls: dict[str, Callable[[], object]] = {
            "put_free": lambda: sending(account, 2),
            "put": lambda: tx.put(descs),
            "put_one": lambda: tx.put_one(XDPDesc(int(mine[0]), 60)),
            "free_all": lambda: completion.free_all(umem),
        }
        calls[afterwards]()
        sent = {"put_free": 2, "put": 2, "put_one": 1, "free_all": 0}[afterwards]
        assert umem.audit()["tx"] == sent, "frames were lost"


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("index_moved", [False, True])
def test_one_rule_settles_a_transfer(index_moved: bool, free: bool) -> None:
    """Cut short at any step: the new owner's if the index has moved past it, else the old one's."""
    for owners_changed in (True,) if index_moved else (False, True):
        ledger = Ledger(FRAMES, SHIFT)
        account, ring = ReceiveAccount(ledger, 1), Index()
        frames = ledger.top(3) if free else ledger.alloc(3, USER)
        if owners_changed:
            if free:
                account.begin_free(ring, ring.position, 3, account.posted)
            else:
                account.begin(ring, ring.position, frames, account.posted, None, "cannot post")
        else:
            was = FREE if free else USER
            account.transfer = ring, ring.position, 0, frames, was, account.posted
        ring.rewound = -1
        ring.now = int(index_moved)
        for _ in range(2):
            account.settle()
            expected = account.posted if index_moved else FREE if free else USER
            assert (ledger.owner[ledger.numbers(frames)] == expected).all()
            assert ledger.audit()["rx"] == (3 if index_moved else 0)
        assert ring.rewound == (-1 if index_moved else 0), "the ring goes on where it was"


@pytest.mark.parametrize("n", [1, 3])
def test_a_ring_that_returns_a_frame_of_another_socket_is_not_believed(n: int) -> None:
    ledger = Ledger(FRAMES, SHIFT)
    mine, others = ReceiveAccount(ledger, 1), ReceiveAccount(ledger, 2)
    frames = ledger.alloc(n, USER)
    moved(mine, frames, mine.posted, None)
    before = ledger.owner.tolist()
    call = functools.partial(moved, others, frames, others.received, others.posted, RETURNED)
    if n == 1:
        call = functools.partial(moved_one, ledger, int(frames[0]), others.received, others.posted, RETURNED)
    with pytest.raises(FrameError, match=r"unexpectedly.*socket 1"):
        call()
    assert ledger.owner.tolist() == before
    moved(mine, frames, mine.received, mine.posted, RETURNED)


def test_refusals_name_the_owner() -> None:
    assert describe_owner(owner_code(RX, 3)) == "the kernel, for receiving (socket 3 of this UMEM)"
    ledger = Ledger(4, SHIFT)
    account = SendAccount(ledger, 7)
    moved(account, ledger.alloc(2, USER), account.sending, None)
    for call in (lambda: ledger.free(addresses(1)), lambda: ledger.free_one(1 << SHIFT)):
        with pytest.raises(FrameError, match=r"0x800.*for sending \(socket 7"):
            call()
