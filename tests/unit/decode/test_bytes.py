# SPDX-License-Identifier: Apache-2.0
"""Any bytes at all: the columns are those of a plain decoder, and nothing from outside of a packet gets into them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.any_packets import any_packet
from tests.helpers.decode_reference import NAMES, reference
from tests.helpers.decoding import decode_packets, lay_out, rows
from toolkit.decode import decode, head

batches = st.lists(any_packet, max_size=12)


@given(batches, st.sampled_from([0, 1, 64]), st.sampled_from([0, 5, 64]))
def test_columns_are_those_of_the_plain_decoder(packets: list[bytes], gap: int, tail: int) -> None:
    columns = decode_packets(packets, gap=gap, tail=tail)
    assert columns.keys() == NAMES
    assert rows(columns) == [reference(packet) for packet in packets]


@given(batches)
def test_what_surrounds_a_packet_never_shows(packets: list[bytes]) -> None:
    one, other = (decode_packets(packets, seed=seed).to_dict() for seed in (1, 2))
    for name, column in one.items():
        assert np.array_equal(column, other[name]), name
    memory, offsets, lengths = lay_out(packets, seed=1)
    again = decode(memory[: int(offsets[-1] + lengths[-1])] if packets else memory, offsets, lengths)
    assert rows(again) == rows(decode(memory, offsets, lengths))


@given(batches)
def test_a_packet_says_the_same_alone_and_in_company(packets: list[bytes]) -> None:
    together = rows(decode_packets(packets))
    assert [rows(decode_packets([packet]))[0] for packet in packets] == together


@given(batches, st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_a_choice_of_columns_is_the_same_columns(packets: list[bytes], names: list[str]) -> None:
    everything = decode_packets(packets)
    chosen = decode(*lay_out(packets), columns=names)
    assert chosen.keys() == names
    for name in reversed(names):  # in another order than they were computed in
        assert np.array_equal(chosen[name], everything[name]), name
        assert chosen[name].dtype == everything[name].dtype


@given(batches, st.sampled_from([0, 1, 14, 64, 200, 300]), st.sampled_from([0, 3, 64]))
def test_head_is_the_first_bytes_then_zeros(packets: list[bytes], n: int, tail: int) -> None:
    memory, offsets, lengths = lay_out(packets, tail=tail)
    found = head(memory, offsets, lengths, n)
    assert found.shape == (len(packets), n)
    assert found.dtype == np.uint8
    assert [bytes(line) for line in found] == [packet[:n].ljust(n, b"\0") for packet in packets]


@pytest.mark.parametrize("count", [0, 1])
def test_dtypes_do_not_depend_on_what_is_in_a_batch(count: int) -> None:
    columns = decode_packets([b"\xff" * 60] * count)
    full = decode_packets([bytes(12) + b"\x08\0" + b"E\0\0\x1c" + bytes(5) + b"\x11" + bytes(30), b""])
    for name in NAMES:
        assert columns[name].dtype == full[name].dtype, name
        assert columns[name].shape == (count, *full[name].shape[1:])
        assert columns[name].dtype.isnative
