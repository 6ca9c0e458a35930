# SPDX-License-Identifier: Apache-2.0
"""EditableBatch: what an edit function may do to packets, and that nothing it does reaches out of their frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.batch.editable import EditableBatch
from toolkit.errors import ArgumentError, StaleBatchError
from toolkit.umem.umem import UMEM

FRAME = 2048
FRAMES = 8
PATTERN = (np.arange(FRAMES * FRAME) % 251).astype(np.uint8)


@pytest.fixture
def umem() -> Iterator[UMEM]:
    with UMEM(FRAMES, FRAME) as made:
        memory(made)[:] = PATTERN
        yield made


def memory(umem: UMEM) -> np.ndarray:
    assert umem.memory is not None
    return umem.memory


def batch_of(umem: UMEM, *packets: tuple[int, int]) -> tuple[EditableBatch, np.ndarray]:
    """A batch of packets (address, length), and the descriptors it stands on."""
    descs = np.array(packets, dtype=np.uint64).reshape(-1, 2)
    return EditableBatch(umem, descs), descs


def test_put_head_writes_the_first_bytes_of_each_packet_and_no_others(umem: UMEM) -> None:
    batch, _ = batch_of(umem, (256, 60), (FRAME * 3 + 300, 14), (FRAME * 8 - 20, 20))
    heads = np.arange(42, dtype=np.uint8).reshape(3, 14)
    batch.put_head(heads)
    expected = PATTERN.copy()
    for start, head in zip((256, FRAME * 3 + 300, FRAME * 8 - 20), heads, strict=True):
        expected[start : start + 14] = head
    assert (memory(umem) == expected).all()
    assert (batch.head(14) == heads).all()


def test_put_head_of_some_rows(umem: UMEM) -> None:
    batch, _ = batch_of(umem, (256, 60), (FRAME + 256, 10), (2 * FRAME + 256, 60))
    heads = np.full((2, 20), 7, dtype=np.uint8)
    batch.put_head(heads, np.array([2, 0]))
    assert (batch.head(20)[[0, 2]] == 7).all()
    assert (memory(umem)[FRAME : 2 * FRAME] == PATTERN[FRAME : 2 * FRAME]).all()
    batch.put_head(heads[:1] + 1, np.array([False, False, True]))
    assert [row[0] for row in batch.head(1)[[0, 2]]] == [7, 8]


def test_put_head_takes_slices_of_other_arrays(umem: UMEM) -> None:
    batch, _ = batch_of(umem, (256, 60), (FRAME + 256, 60))
    wide = np.arange(48, dtype=np.uint8).reshape(2, 24)
    batch.put_head(wide[:, ::2])
    assert (batch.head(12) == wide[:, ::2]).all()


@pytest.mark.parametrize(
    "heads",
    [
        np.zeros((2, 15), np.uint8),  # longer than the second packet
        np.zeros((3, 4), np.uint8),  # a row too many
        np.zeros((2, 4), np.uint16),
        np.zeros(8, np.uint8),
        [[1, 2], [3, 4]],
        None,
    ],
)
def test_put_head_refuses_and_changes_nothing(umem: UMEM, heads: np.ndarray) -> None:
    batch, _ = batch_of(umem, (256, 60), (FRAME + 256, 14))
    with pytest.raises(ArgumentError):
        batch.put_head(heads)
    assert (memory(umem) == PATTERN).all()


@pytest.mark.parametrize("rows", [[0, 99], [-100], [0.5], [True, False]])
def test_put_head_of_rows_that_are_not_there(umem: UMEM, rows: list[object]) -> None:
    batch, _ = batch_of(umem, (256, 60))
    before = batch.head(60)
    with pytest.raises(ArgumentError, match="rows name packets that are not there"):
        batch.put_head(np.zeros((len(rows), 4), np.uint8), np.array(rows))
    assert (batch.head(60) == before).all()


def test_nothing_of_nothing(umem: UMEM) -> None:
    batch, _ = batch_of(umem)
    batch.put_head(np.zeros((0, 12), np.uint8))
    batch.put_head(batch.head(12))
    batch.grow_front(4)
    batch.set_lengths([])
    one, descs = batch_of(umem, (256, 60))
    one.put_head(np.zeros((1, 0), np.uint8))
    one.grow_front(0)
    assert descs.tolist() == [[256, 60]]
    assert (memory(umem) == PATTERN).all()


def test_growing_and_cutting_moves_the_start(umem: UMEM) -> None:
    batch, descs = batch_of(umem, (256, 60), (FRAME + 300, 14))
    batch.grow_front(4)
    assert descs.tolist() == [[252, 64], [FRAME + 296, 18]]
    assert batch.lengths.tolist() == [64, 18]
    assert bytes(batch.packet(1)) == PATTERN[FRAME + 296 : FRAME + 314].tobytes()
    batch.grow_front(-4)
    assert descs.tolist() == [[256, 60], [FRAME + 300, 14]]
    with pytest.raises(ArgumentError, match="leave 14 bytes"):
        batch.grow_front(-1)
    assert descs.tolist() == [[256, 60], [FRAME + 300, 14]]


def test_a_packet_does_not_grow_out_of_its_frame(umem: UMEM) -> None:
    batch, descs = batch_of(umem, (256, 60), (FRAME + 3, 60))
    for count in (4, 65, -65):
        with pytest.raises(ArgumentError):
            batch.grow_front(count)
    with pytest.raises(ArgumentError, match="out of its frame"):
        batch.set_lengths([FRAME - 255, 60])
    assert descs.tolist() == [[256, 60], [FRAME + 3, 60]]
    batch.set_lengths([FRAME - 256, 14])
    batch.grow_front(3)
    assert descs.tolist() == [[253, FRAME - 253], [FRAME, 17]]


def test_set_lengths_keeps_the_options_of_the_descriptor(umem: UMEM) -> None:
    batch, descs = batch_of(umem, (256, 60 | 1 << 32))
    batch.set_lengths(np.array([100], np.uint16))
    assert descs.tolist() == [[256, 100 | 1 << 32]]
    assert batch.options.tolist() == [1]


@pytest.mark.parametrize("lengths", [[60], [60, 60, 60], [[60, 60]], [60, 13], [60, -1], [60, 0], 60])
def test_set_lengths_refuses(umem: UMEM, lengths: list[int]) -> None:
    batch, descs = batch_of(umem, (256, 60), (FRAME + 256, 60))
    with pytest.raises(ArgumentError):
        batch.set_lengths(lengths)
    assert descs.tolist() == [[256, 60], [FRAME + 256, 60]]


def test_writable_is_the_packet_and_no_more(umem: UMEM) -> None:
    batch, _ = batch_of(umem, (256, 60), (FRAME * 8 - 20, 20))
    view = batch.writable(1)
    assert len(view) == 20
    view[:] = bytes(20)
    expected = PATTERN.copy()
    expected[-20:] = 0
    assert (memory(umem) == expected).all()
    assert len(batch.writable(-2)) == 60
    for beyond in (2, -3):
        with pytest.raises(IndexError):
            batch.writable(beyond)
    view.release()


def test_after_the_call_it_is_stale(umem: UMEM) -> None:
    batch, _ = batch_of(umem, (256, 60))
    batch.expire()
    for call in (
        lambda: batch.put_head(np.zeros((1, 4), np.uint8)),
        lambda: batch.writable(0),
        lambda: batch.grow_front(1),
        lambda: batch.set_lengths([60]),
        lambda: batch.lengths,
        lambda: batch.packet(0),
    ):
        with pytest.raises(StaleBatchError):
            call()
    assert len(batch) == 1


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(14, 1700)), min_size=1, max_size=FRAMES),
    st.lists(
        st.one_of(
            st.tuples(st.just("grow"), st.integers(-70, 70)),
            st.tuples(st.just("length"), st.integers(-3, 2100)),
        ),
        max_size=6,
    ),
)
def test_no_sequence_of_edits_leaves_the_frame(packets: list[tuple[int, int]], edits: list[tuple[str, int]]) -> None:
    """Each edit is done to all packets or to none, and whatever was done, a packet stays whole in its frame."""
    with UMEM(FRAMES, FRAME) as umem:
        batch, descs = batch_of(umem, *((i * FRAME + start, length) for i, (start, length) in enumerate(packets)))
        for kind, number in edits:
            before = descs.copy()
            try:
                batch.grow_front(number) if kind == "grow" else batch.set_lengths([number] * len(batch))
            except ArgumentError:
                assert (descs == before).all()
            else:
                change = descs.astype(np.int64) - before.astype(np.int64)
                if kind == "grow":
                    assert (change == [-number, number]).all()
                else:
                    assert (change[:, 0] == 0).all()
                    assert (descs[:, 1] == number).all()
            starts, lengths = descs[:, 0].astype(np.int64), descs[:, 1].astype(np.int64)
            assert (starts // FRAME == np.arange(len(packets))).all()
            assert (starts % FRAME + lengths <= FRAME).all()
            assert (lengths >= 14).all()
