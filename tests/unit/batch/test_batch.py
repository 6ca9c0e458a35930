# SPDX-License-Identifier: Apache-2.0
"""Batch: arrays that are copies, views that end with the loan, times that are the packet's own."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from toolkit.abi.xsk_meta import NO_RULE, XSK_META, XSK_META_MAGIC, XSK_META_SIZE
from toolkit.batch.batch import Batch
from toolkit.errors import StaleBatchError
from toolkit.umem.umem import UMEM

FRAME = 2048
LENGTHS = (60, 1, 0, 1500, 64)


def loan(lengths: tuple[int, ...] = LENGTHS, *, borrowed: bool = True) -> tuple[UMEM, Batch]:
    """Packets of the given lengths, each in a frame of its own; packet i is full of bytes i + 1."""
    umem = UMEM(16, FRAME, poison=True)
    frames = umem.alloc_frames(len(lengths))
    descs = np.zeros((len(lengths), 2), dtype=np.uint64)
    descs[:, 0] = frames + np.uint64(256)
    descs[:, 1] = np.array(lengths, dtype=np.uint64) | np.uint64(1 << 32)
    assert umem.memory is not None
    for i, (address, length) in enumerate(zip(descs[:, 0].tolist(), lengths, strict=True)):
        umem.memory[address : address + length] = i + 1
        umem.memory[address + length : address + length + 8] = 0xEE  # after the packet
    return umem, Batch(umem, descs, queue=3, borrowed=borrowed)


def stamp(
    umem: UMEM, batch: Batch, times: list[int], magic: list[int] | int = XSK_META_MAGIC, length: int = 60, rule: int = 0
) -> None:
    """What the XDP program writes in front of each packet."""
    assert umem.memory is not None
    meta = np.zeros(len(batch), dtype=XSK_META)
    meta["time"], meta["magic"], meta["length"], meta["rule"] = times, magic, length, rule
    for address, one in zip(batch.addresses.tolist(), meta, strict=True):
        umem.memory[address - XSK_META_SIZE : address] = np.frombuffer(one.tobytes(), np.uint8)


def test_arrays() -> None:
    umem, batch = loan()
    assert (len(batch), bool(batch), batch.queue) == (5, True, 3)
    assert batch.lengths.tolist() == list(LENGTHS)
    assert (batch.lengths.dtype, batch.options.dtype) == (np.int64, np.uint32)
    assert batch.options.tolist() == [1] * 5
    assert batch.addresses.dtype == np.uint64
    assert (batch.addresses % FRAME == 256).all()
    assert repr(batch) == "<Batch of 5 packets, 1625 bytes, from queue 3, borrowed>"
    assert umem.audit()["user"] == 5


ARRAYS: dict[str, Callable[[Batch], Any]] = {
    "lengths": lambda b: b.lengths,
    "addresses": lambda b: b.addresses,
    "options": lambda b: b.options,
    "arrival_ns": lambda b: b.arrival_ns,
    "wire_lengths": lambda b: b.wire_lengths,
    "rule_numbers": lambda b: b.rule_numbers,
    "timestamps": lambda b: b.timestamps,
    "head": lambda b: b.head(8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_copies(name: str) -> None:
    umem, batch = loan()
    array, again = ARRAYS[name](batch), ARRAYS[name](batch)
    assert not np.shares_memory(array, again)
    assert umem.memory is not None
    assert not np.shares_memory(array, umem.memory)
    before = array.tobytes()
    again[:] = np.zeros(1, again.dtype)
    assert ARRAYS[name](batch).tobytes() == before
    umem.memory[:] = 0x77
    batch.release()
    assert array.tobytes() == before


def test_packets_by_number() -> None:
    _, batch = loan()
    for i, length in enumerate(LENGTHS):
        for packet in (batch.packet(i), batch[i], batch[i - 5]):
            assert bytes(packet) == bytes([i + 1]) * length
            assert packet.readonly
    assert [len(packet) for packet in batch] == list(LENGTHS)
    for i in (5, -6, 1 << 40):
        with pytest.raises(IndexError, match="of a Batch of 5"):
            batch.packet(i)


def test_head_is_zero_after_a_packet_s_end() -> None:
    _, batch = loan()
    head = batch.head(64)
    assert (head.shape, head.dtype) == ((5, 64), np.uint8)
    for i, length in enumerate(LENGTHS):
        assert head[i].tolist() == [i + 1] * min(length, 64) + [0] * (64 - min(length, 64))
    assert batch.head(0).shape == (5, 0)


@pytest.mark.parametrize("umem", [None, UMEM(2, FRAME)])
def test_an_empty_batch(umem: UMEM | None) -> None:
    batch = Batch(umem, np.empty((0, 2), np.uint64), borrowed=True, memory=None if umem else np.empty(0, np.uint8))
    assert (len(batch), bool(batch), list(batch), repr(batch)) == (0, False, [], "<Batch, empty>")
    for array in ARRAYS.values():
        assert len(array(batch)) == 0
    assert batch.timestamps.dtype == np.dtype("datetime64[ns]")
    assert len(batch.copy()) == len(pickle.loads(pickle.dumps(batch))) == 0
    with pytest.raises(IndexError):
        batch.packet(0)
    batch.release()
    assert not batch.stale, "nothing was lent"


# --- the loan ---------------------------------------------------------------------------------------------------------

AFTERWARDS: dict[str, Callable[[Batch], Any]] = ARRAYS | {
    "packet": lambda b: b.packet(0),
    "item": lambda b: b[0],
    "iter": lambda b: list(b),
    "decode": lambda b: b.decode(),
    "copy": lambda b: b.copy(),
    "pickle": lambda b: pickle.dumps(b),
}


@pytest.mark.parametrize("how", ["release", "with", "invalidate", "umem closed"])
@pytest.mark.parametrize("name", AFTERWARDS)
@pytest.mark.parametrize("used_before", [False, True])
def test_a_stale_batch_says_so(name: str, how: str, used_before: bool) -> None:
    umem, batch = loan()
    if used_before:
        AFTERWARDS[name](batch)
    if how == "release":
        batch.release()
    elif how == "with":
        with batch as same:
            assert same is batch
    elif how == "invalidate":
        batch.invalidate()
    else:
        umem.close()
    with pytest.raises(StaleBatchError, match=r"batch\.copy"):
        AFTERWARDS[name](batch)
    assert len(batch) == 5, "known all the same"


def test_release_gives_the_frames_back_once() -> None:
    umem, batch = loan()
    packet = batch.packet(0)
    batch.release()
    assert umem.audit()["free"] == 16
    assert bytes(packet[:4]) == b"\xde" * 4, "poisoned: the view was for the loan"
    frames = umem.alloc_frames(16)
    batch.release()
    batch.__exit__()
    assert umem.audit()["user"] == len(frames)
    assert batch.stale
    assert not batch.unsettled
    assert "stale" in repr(batch)


def test_invalidate_gives_nothing_back() -> None:
    umem, batch = loan()
    batch.invalidate()
    batch.release()
    assert (batch.stale, umem.audit()["user"]) == (True, 5)


def test_release_after_the_umem_was_closed() -> None:
    umem, batch = loan()
    umem.close()
    batch.release()
    assert batch.stale


def test_a_batch_that_borrows_nothing_keeps_its_frames() -> None:
    umem, batch = loan(borrowed=False)
    batch.release()
    batch.invalidate()
    assert (batch.stale, umem.audit()["user"], batch.lengths.sum()) == (False, 5, 1625)


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "pickle", "copy of a copy", "pickle of a copy"])
@pytest.mark.parametrize("lengths", [LENGTHS, (0, 0), (1,), (1792,) * 16])
def test_a_copy_is_good_for_ever(how: str, lengths: tuple[int, ...]) -> None:
    umem, batch = loan(lengths)
    now = time.monotonic_ns()
    stamp(umem, batch, [now] * len(lengths))
    head, times = batch.head(1792), batch.timestamps
    kept = batch.copy() if how != "pickle" else pickle.loads(pickle.dumps(batch))
    batch.release()
    umem.alloc_frames(16)
    umem.close()
    if how == "copy of a copy":
        kept = kept.copy()
    elif how == "pickle of a copy":
        kept = pickle.loads(pickle.dumps(kept))
    assert (len(kept), kept.queue, kept.stale) == (len(lengths), 3, False)
    assert [bytes(packet) for packet in kept] == [bytes([i + 1]) * n for i, n in enumerate(lengths)]
    assert kept.lengths.tolist() == list(lengths)
    assert kept.options.tolist() == [1] * len(lengths)
    assert np.array_equal(kept.head(1792), head)
    assert np.abs(kept.timestamps - times).max() < np.timedelta64(1, "ms")
    kept.release()
    with kept:
        pass
    assert kept.packet(-1).readonly
    assert ("a copy" in repr(kept)) is bool(len(kept))


# --- times ------------------------------------------------------------------------------------------------------------


def test_times_are_utc() -> None:
    umem, batch = loan((60, 60))
    now, utc = time.monotonic_ns(), time.time_ns()
    stamp(umem, batch, [now, now - 1_000_000_000])
    times = batch.timestamps
    assert times.dtype == np.dtype("datetime64[ns]")
    assert np.abs(times.astype(np.int64) - [utc, utc - 1_000_000_000]).max() < 50_000_000
    assert batch.arrival_ns.tolist() == [now, now - 1_000_000_000]


def test_a_time_counts_only_where_it_can_be_the_packet_s() -> None:
    umem, batch = loan((60,) * 6)
    now = time.monotonic_ns()
    numbers = umem.ledger.numbers(batch.addresses)
    umem.ledger.posted_at[numbers] = now - 1000
    #        good, wrong magic, earlier than the loan, at its moment, in the future, no time at all
    stamp(
        umem,
        batch,
        [now - 500, now - 500, now - 1001, now - 1000, now + 10**12, 0],
        [XSK_META_MAGIC, XSK_META_MAGIC + 1, *[XSK_META_MAGIC] * 4],
    )
    assert batch.arrival_ns.tolist() == [now - 500, 0, 0, now - 1000, 0, 0]
    assert np.isnat(batch.timestamps).tolist() == [False, True, True, False, True, True]


def test_a_time_that_does_not_fit_64_signed_bits_is_none() -> None:
    umem, batch = loan((60,))
    assert umem.memory is not None
    at = int(batch.addresses[0])
    start = at - XSK_META_SIZE
    umem.memory[start : start + 8] = 0xFF
    umem.memory[start + 8 : start + 16] = np.frombuffer(np.array([XSK_META_MAGIC, 0], "u4").tobytes(), np.uint8)
    assert np.isnat(batch.timestamps).all()


def test_lengths_on_the_wire_and_rules_count_where_the_time_does() -> None:
    umem, batch = loan((60,) * 3)
    now = time.monotonic_ns()
    umem.ledger.posted_at[umem.ledger.numbers(batch.addresses)] = now - 1000
    stamp(umem, batch, [now - 500, now - 500, now - 1001], [XSK_META_MAGIC, 1, XSK_META_MAGIC], length=1500, rule=7)
    assert batch.wire_lengths.tolist() == [1500, 60, 60]
    assert batch.rule_numbers.tolist() == [7, NO_RULE, NO_RULE]
    assert (batch.wire_lengths.dtype, batch.rule_numbers.dtype) == (np.int64, np.uint32)
    for kept in (batch.copy(), pickle.loads(pickle.dumps(batch)), pickle.loads(pickle.dumps(batch.copy()))):
        assert kept.wire_lengths.tolist() == [1500, 60, 60]
        assert kept.rule_numbers.tolist() == [7, NO_RULE, NO_RULE]


def test_times_are_read_once() -> None:
    umem, batch = loan((60,))
    now = time.monotonic_ns()
    stamp(umem, batch, [now])
    assert batch.arrival_ns.tolist() == [now]
    stamp(umem, batch, [now + 5])
    assert batch.arrival_ns.tolist() == [now]


def test_over_memory_of_one_s_own() -> None:
    """As from a file: no UMEM, no loan, times as given."""
    memory = np.arange(100, dtype=np.uint8)
    descs = np.array([[10, 5], [90, 10]], dtype=np.uint64)
    batch = Batch(None, descs, memory=memory, arrival_ns=np.array([0, 7], np.int64))
    assert bytes(batch.packet(0)) == bytes(range(10, 15))
    assert bytes(batch[-1]) == bytes(range(90, 100))
    assert np.isnat(batch.timestamps).tolist() == [True, False]
    assert np.isnat(Batch(None, descs, memory=memory).timestamps).all()
    assert batch.wire_lengths.tolist() == [5, 10]
    assert batch.rule_numbers.tolist() == [NO_RULE] * 2
    given = np.array([1500, 10], np.uint32), np.array([1, 0], np.uint32)
    batch = Batch(None, descs, memory=memory, wire_lengths=given[0], rule_numbers=given[1])
    assert (batch.wire_lengths.tolist(), batch.rule_numbers.tolist()) == ([1500, 10], [1, 0])
    batch.release()
    assert not batch.stale
