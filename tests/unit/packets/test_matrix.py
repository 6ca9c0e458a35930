# SPDX-License-Identifier: Apache-2.0
"""Packets in every form that send() takes, as rows of one matrix; and what is refused, by name."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether

from tests.helpers.decoding import lay_out
from toolkit.batch.batch import Batch
from toolkit.errors import ArgumentError
from toolkit.packets.matrix import as_matrix

FORMS: list[Callable[[bytes], Any]] = [
    bytes,
    bytearray,
    memoryview,
    lambda packet: np.frombuffer(packet, dtype=np.uint8),
    lambda packet: array.array("B", packet),
    lambda packet: memoryview(b"?" + packet + b"?")[1:-1],
]


def check(matrix: np.ndarray, lengths: np.ndarray, packets: list[bytes]) -> None:
    width = max(map(len, packets), default=0)
    assert matrix.shape == (len(packets), width)
    assert matrix.dtype == np.uint8
    assert matrix.flags.c_contiguous
    assert lengths.dtype == np.uint32
    assert lengths.tolist() == [len(packet) for packet in packets]
    assert [row.tobytes() for row in matrix] == [packet.ljust(width, b"\0") for packet in packets]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.sampled_from(FORMS)), max_size=40))
def test_bytes_like_objects_of_every_kind_and_length(packets: list[tuple[bytes, Callable[[bytes], Any]]]) -> None:
    given_packets = [form(packet) for packet, form in packets]
    for container in (list, tuple, iter):
        matrix, lengths = as_matrix(container(given_packets))
        check(matrix, lengths, [packet for packet, _ in packets])
        assert matrix.flags.writeable, "a copy is the caller's own"


def test_the_lists_own_bytes_stay_as_they_are() -> None:
    packet = bytearray(b"original")
    matrix, _ = as_matrix([packet])
    matrix[:] = 0
    assert packet == b"original"


def test_a_contiguous_matrix_is_not_copied() -> None:
    given_matrix = np.arange(12, dtype=np.uint8).reshape(3, 4)
    matrix, lengths = as_matrix(given_matrix)
    assert np.shares_memory(matrix, given_matrix)
    assert lengths.tolist() == [4, 4, 4]
    assert lengths.dtype == np.uint32


def test_a_matrix_with_lengths_and_one_that_is_not_contiguous() -> None:
    wide = np.arange(24, dtype=np.uint8).reshape(3, 8)
    matrix, lengths = as_matrix(wide[:, 1:5], [1, 4, 3])
    assert matrix.flags.c_contiguous
    assert (matrix == wide[:, 1:5]).all()
    assert lengths.tolist() == [1, 4, 3]
    assert lengths.dtype == np.uint32


def test_a_batch() -> None:
    packets = [b"x" * 60, b"yy" * 50, b"z"]
    memory, offsets, lengths = lay_out(packets)
    descs = np.zeros((3, 2), dtype=np.uint64)
    descs[:, 0], descs[:, 1] = offsets, lengths
    check(*as_matrix(Batch(None, descs, queue=0, memory=memory)), packets)


def test_a_batch_with_an_empty_packet() -> None:
    descs = np.array([[0, 5], [5, 0], [5, 2]], dtype=np.uint64)
    with pytest.raises(ArgumentError, match="packet 1 of 3 is empty"):
        as_matrix(Batch(None, descs, queue=0, memory=np.zeros(7, dtype=np.uint8)))


def test_nothing() -> None:
    for nothing in ([], (), np.zeros((0, 64), dtype=np.uint8), Batch(None, np.zeros((0, 2), np.uint64), queue=0)):
        matrix, lengths = as_matrix(nothing)
        assert len(matrix) == len(lengths) == 0


U8 = np.zeros((2, 60), dtype=np.uint8)
REFUSED = {
    "empty packet": ([b"a", b""], None, "packet 1 of 2 is empty"),
    "only empty packets": ([b""], None, "packet 0 of 1 is empty"),
    "text": ([b"a", "b"], None, "packet 1 of 2 is not bytes-like but of type str"),
    "numbers": ([1, 2], None, "packet 0 of 2 is not bytes-like but of type int"),
    "none": ([b"a", None], None, "packet 1 of 2 .* NoneType"),
    "scapy": ([Ether()], None, r"packet 0 of 1 .* Ether. Next step: bytes\(packet\)"),
    "scapy, alone": (Ether(), None, r"Next step: bytes\(packet\)"),
    "words": ([b"a", np.zeros(4, dtype=np.uint16)], None, "packet 1 of 2 is an array of shape .4,. and format 'H'"),
    "rows": ([np.zeros((2, 4), dtype=np.uint8)], None, "packet 0 of 1 is an array of shape .2, 4."),
    "every other byte": ([memoryview(b"abcdef")[::2]], None, "packet 0 of 1 .* lie together"),
    "one packet": (b"packet", None, r"Next step: put it into a list, \[packet\]"),
    "text for all": ("packets", None, "packets cannot be a str"),
    "nothing for all": (None, None, "packets cannot be a NoneType"),
    "lengths of a list": ([b"a"], [1], "lengths are for a matrix"),
    "one row": (np.zeros(60, dtype=np.uint8), None, r"packets\[numpy.newaxis\]"),
    "three dimensions": (np.zeros((2, 2, 2), dtype=np.uint8), None, "shape .2, 2, 2."),
    "wide type": (np.zeros((2, 60)), None, "an array of float64, not of uint8"),
    "signed bytes": (np.zeros((2, 60), dtype=np.int8), None, "an array of int8"),
    "no width": (np.zeros((2, 0), dtype=np.uint8), None, "one byte at least"),
    "a length too many": (U8, [60, 60, 60], r"shape \(3,\) .* each packet, shape \(2,\)"),
    "one length": (U8, 60, r"lengths cannot be 60\. .* shape \(2,\)"),
    "length of parts": (U8, [60.0, 59.5], "integer for each packet"),
    "length 0": (U8, [60, 0], "packet 1 cannot have 0 bytes"),
    "negative length": (U8, [-1, 60], "packet 0 cannot have -1 bytes"),
    "length past the row": (U8, [60, 61], "packet 1 cannot have 61 bytes.* from 1 to 60"),
    "length past 32 bits": (U8, [60, 2**32 + 1], "packet 1 cannot have 4294967297 bytes"),
}


@pytest.mark.parametrize(("packets", "lengths", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(packets: Any, lengths: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        as_matrix(packets, lengths)


@pytest.mark.parametrize(
    ("packets", "lengths"), [([b"a" * 9, b"b" * 11], None), (U8, [10, 11]), (U8[:, :11], None)], ids=str
)
def test_longest_is_held_before_memory_is_taken(packets: Any, lengths: Any) -> None:
    assert len(as_matrix(packets, lengths, longest=11)[0]) == 2
    with pytest.raises(
        ArgumentError, match=r"packet . of . has 11 bytes and does not fit a frame of 10.*Nothing was sent.*Next step"
    ):
        as_matrix(packets, lengths, longest=10)
