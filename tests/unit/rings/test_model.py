# SPDX-License-Identifier: Apache-2.0
"""The four rings against libxdp's own functions and a plain model: over a million random operations, and hypothesis."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.helpers.rings_oracle import STANDS, U32, ConsumerTrio, ProducerTrio
from toolkit.rings import CompletionQueue, FillQueue, RingMemory, RXQueue, TXQueue

SIZES = (1, 2, 4, 8, 16, 32, 64)
CONSUMERS, PRODUCERS = (RXQueue, CompletionQueue), (TXQueue, FillQueue)
OPERATIONS = 90_000  # of each of the 12 combinations below: 1,080,000 in all
LIFE = 1_500  # operations of one ring before the next is made


def test_there_are_a_million_operations() -> None:
    assert OPERATIONS * len(STANDS) * len(CONSUMERS + PRODUCERS) >= 1_000_000


# --- a fast random driver ---------------------------------------------------------------------------------------------


def some_start(rng: random.Random) -> int:
    """Near zero, shortly before the indices wrap, or anywhere."""
    return rng.choice((rng.randrange(4), (1 << 32) - 1 - rng.randrange(200), rng.getrandbits(32)))


def some_count(rng: random.Random, most: int) -> int:
    """Often the extremes."""
    return rng.choice((0, 1, most, rng.randint(0, most))) if most else 0


class Driver:
    """Draws operations. Its text is the last one, for a failure."""

    def __init__(self, rng: random.Random, kind: Any, stand: str) -> None:
        self.rng, self.kind, self.stand = rng, kind, stand
        self.last = ""

    def entries(self, n: int) -> list[bytes]:
        width = 8 if self.kind in (CompletionQueue, FillQueue) else 16
        raw = self.rng.randbytes(n * width)
        return [raw[at : at + width] for at in range(0, n * width, width)]

    def life(self, operations: int) -> None:
        rng = self.rng
        size, start = rng.choice(SIZES), some_start(rng)
        trio = (ConsumerTrio if self.kind in CONSUMERS else ProducerTrio)(self.kind, size, start, self.stand)
        step: Any = self.consumer_step if self.kind in CONSUMERS else self.producer_step
        for number in range(operations):
            draw = rng.random()
            self.last = f"size {size}, start {start:#x}, operation {number}, draw {draw}"
            step(trio, draw)
            trio.check()

    def consumer_step(self, trio: ConsumerTrio, draw: float) -> None:
        rng, size = self.rng, trio.size
        if draw < 0.3:
            trio.kernel_produces(self.entries(some_count(rng, size)))
        elif draw < 0.5:
            trio.peek(rng.choice((None, some_count(rng, size + 1))))
        elif draw < 0.75:
            trio.release(some_count(rng, trio.unreleased))
        elif draw < 0.85:
            trio.cancel(some_count(rng, trio.unreleased))
        elif draw < 0.95:
            trio.take(rng.choice((None, some_count(rng, size + 1))))
        else:
            trio.available()

    def producer_step(self, trio: ProducerTrio, draw: float) -> None:
        rng, size = self.rng, trio.size
        if draw < 0.25:
            trio.kernel_consumes(some_count(rng, size))
        elif draw < 0.5:
            trio.reserve(self.entries(some_count(rng, size + 1)), batch=draw < 0.4)
        elif draw < 0.7:
            trio.submit(some_count(rng, trio.unpublished))
        elif draw < 0.75:
            trio.unreserve(some_count(rng, trio.unpublished))
        elif draw < 0.8:
            trio.notify()
        elif draw < 0.93:
            if trio.unpublished == 0:
                trio.put(self.entries(some_count(rng, size + 1)))
        elif draw < 0.98:
            trio.free(some_count(rng, size + 1))
        else:
            trio.kernel_asks(draw < 0.99)


@pytest.mark.parametrize("stand", STANDS)
@pytest.mark.parametrize("kind", CONSUMERS + PRODUCERS)
def test_random_operations(kind: Any, stand: str) -> None:
    seed = int(os.environ.get("TOOLKIT_TEST_SEED") or random.SystemRandom().getrandbits(32))
    driver = Driver(random.Random(seed), kind, stand)
    try:
        for _ in range(OPERATIONS // LIFE):
            driver.life(LIFE)
    except Exception as failed:
        raise AssertionError(f"TOOLKIT_TEST_SEED={seed} repeats it: {driver.last}") from failed


# --- hypothesis: fewer operations, and the shortest that fail ---------------------------------------------------------

starts = st.one_of(st.integers(0, 3), st.integers((1 << 32) - 140, (1 << 32) - 1), st.integers(0, U32))
sizes, stands, counts = st.sampled_from(SIZES), st.sampled_from(STANDS), st.integers(0, 66)
some_bytes = st.lists(st.binary(min_size=16, max_size=16), max_size=66)


class ConsumerMachine(RuleBasedStateMachine):
    """RX and COMPLETION rings."""

    @initialize(kind=st.sampled_from(CONSUMERS), size=sizes, start=starts, stand=stands)
    def make(self, kind: Any, size: int, start: int, stand: str) -> None:
        self.trio = ConsumerTrio(kind, size, start, stand)

    @rule(entries=some_bytes)
    def kernel_produces(self, entries: list[bytes]) -> None:
        self.trio.kernel_produces([entry[: self.trio.entry_bytes] for entry in entries])

    @rule(limit=st.none() | counts)
    def peek(self, limit: int | None) -> None:
        self.trio.peek(limit)

    @rule(limit=st.none() | counts)
    def take(self, limit: int | None) -> None:
        self.trio.take(limit)

    @rule()
    def available(self) -> None:
        self.trio.available()

    @precondition(lambda self: self.trio.unreleased)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.trio.release(data.draw(st.integers(0, self.trio.unreleased)))

    @precondition(lambda self: self.trio.unreleased)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.trio.cancel(data.draw(st.integers(0, self.trio.unreleased)))

    @rule(too_many=st.integers(1, U32))
    def misuse(self, too_many: int) -> None:
        for call in (self.trio.ours.release, self.trio.ours.cancel):
            for n in (self.trio.unreleased + too_many, -too_many):
                with pytest.raises(ValueError, match="cannot"):
                    call(n)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "trio"):
            self.trio.check()


class ProducerMachine(RuleBasedStateMachine):
    """TX and FILL rings."""

    @initialize(kind=st.sampled_from(PRODUCERS), size=sizes, start=starts, stand=stands)
    def make(self, kind: Any, size: int, start: int, stand: str) -> None:
        self.trio = ProducerTrio(kind, size, start, stand)

    @rule(n=counts)
    def kernel_consumes(self, n: int) -> None:
        self.trio.kernel_consumes(n)

    @rule(entries=some_bytes, batch=st.booleans())
    def reserve(self, entries: list[bytes], batch: bool) -> None:
        self.trio.reserve([entry[: self.trio.entry_bytes] for entry in entries], batch=batch)

    @precondition(lambda self: self.trio.unpublished)
    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        self.trio.submit(data.draw(st.integers(0, self.trio.unpublished)))

    @precondition(lambda self: self.trio.unpublished)
    @rule(data=st.data())
    def unreserve(self, data: st.DataObject) -> None:
        self.trio.unreserve(data.draw(st.integers(0, self.trio.unpublished)))

    @rule()
    def notify(self) -> None:
        self.trio.notify()

    @precondition(lambda self: not self.trio.unpublished)
    @rule(entries=some_bytes)
    def put(self, entries: list[bytes]) -> None:
        self.trio.put([entry[: self.trio.entry_bytes] for entry in entries])

    @rule(wanted=counts)
    def free(self, wanted: int) -> None:
        self.trio.free(wanted)

    @rule(wakeup=st.booleans())
    def kernel_asks(self, wakeup: bool) -> None:
        self.trio.kernel_asks(wakeup)

    @rule(too_many=st.integers(1, U32))
    def misuse(self, too_many: int) -> None:
        for call in (self.trio.ours.submit, self.trio.ours.unreserve):
            for n in (self.trio.unpublished + too_many, -too_many):
                with pytest.raises(ValueError, match="cannot"):
                    call(n)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "trio"):
            self.trio.check()


TestConsumerMachine = ConsumerMachine.TestCase
TestProducerMachine = ProducerMachine.TestCase
TestConsumerMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestProducerMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


# --- what the comparison does not show --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, U32 - 2])
def test_the_producer_is_read_again_only_when_the_cache_is_empty(start: int) -> None:
    memory = RingMemory.plain(8, 16, start=start)
    rx = RXQueue(memory)
    memory.producer[0] = (start + 3) & U32
    assert rx.peek(1) == (1, start)
    memory.producer[0] = (start + 5) & U32
    assert rx.peek() == (2, (start + 1) & U32), "two were known"
    assert rx.peek() == (2, (start + 3) & U32)
    assert rx.peek() == (0, (start + 5) & U32)


@pytest.mark.parametrize("atomic", [False, True])
def test_what_a_ring_hands_out_are_copies(atomic: bool) -> None:
    memory = RingMemory.plain(4, 16, start=U32, atomic=atomic)
    rx = RXQueue(memory)
    assert memory.entries is not None
    memory.entries[:] = 7
    memory.producer[0] = 3
    one, some = rx.get(U32), rx.get_batch(U32, 3)
    taken = rx.take(2)
    memory.entries[:] = 9
    assert one.addr == 7
    assert some["addr"].tolist() == [7, 7, 7]
    assert (taken == 7).all()


def test_tx_takes_descriptors_as_records_and_as_words() -> None:
    records = np.array([(1 << 40, 60, 1), (4096, 1500, 0)], dtype=[("addr", "<u8"), ("len", "<u4"), ("options", "<u4")])
    words = np.array([[1 << 40, 60 | 1 << 32], [4096, 1500]], dtype=np.uint64)
    both = []
    for descs in (records, words, np.asfortranarray(words), np.repeat(records, 2)[::2]):
        memory = RingMemory.plain(2, 16, start=U32)
        tx = TXQueue(memory)
        assert tx.put(descs) == 2
        both.append(memory.bytes.tobytes())
        assert tx.get(U32) == (1 << 40, 60, 1)
        assert tx.get(0) == (4096, 1500, 0)
    assert len(set(both)) == 1
