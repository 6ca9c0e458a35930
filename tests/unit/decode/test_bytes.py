# SPDX-License-Identifier: Apache-2.0
"""Any bytes at all: the columns are those of a plain decoder, and nothing from outside of a packet gets into them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.decode_reference import NAMES, reference
from tests.helpers.decoding import decode_packets, lay_out, rows
from toolkit.decode import decode, head

number16 = st.integers(0, 0xFFFF).map(lambda value: value.to_bytes(2, "big"))
octet = st.integers(0, 255).map(lambda value: bytes([value]))


@st.composite
def extension(draw: st.DrawFn) -> tuple[int, bytes, int]:
    """(protocol number, header without its first byte, how long it says to be)."""
    kind = draw(st.sampled_from([0, 43, 44, 51, 60]))
    size = draw(st.sampled_from([0, 0, 1, 2, 31, 255]))
    says = (size + 1) * 8 if kind not in (44, 51) else 8 if kind == 44 else (size + 2) * 4
    body = draw(st.binary(min_size=6, max_size=6))
    if kind == 44 and draw(st.booleans()):
        body = b"\0" + bytes([draw(st.integers(0, 7))]) + body[2:]  # a first fragment
    return kind, bytes([size]) + body + bytes(says - 8), says


@st.composite
def transport(draw: st.DrawFn) -> tuple[int, bytes]:
    protocol = draw(st.sampled_from([1, 6, 6, 17, 17, 17, 58, 132, 136, 47, 47, 0, 44, 51, 59]))
    body = draw(st.binary(max_size=48))
    if protocol == 6 and draw(st.booleans()):
        body = draw(st.binary(min_size=12, max_size=12)) + bytes([draw(st.integers(4, 8)) << 4]) + bytes(7) + body
    if protocol == 17 and draw(st.booleans()):
        body = draw(st.binary(min_size=4, max_size=4)) + (len(body) + 8).to_bytes(2, "big") + b"\0\0" + body
    if protocol == 17 and draw(st.booleans()):
        port = draw(st.sampled_from([4789, 8472, 4790])).to_bytes(2, "big")
        body = (
            b"\xc0\0"
            + port
            + (len(body) + 8).to_bytes(2, "big")
            + b"\0\0"
            + draw(st.sampled_from([b"\x08", b""]))
            + body
        )
    if protocol == 47 and draw(st.booleans()):
        flags = draw(st.sampled_from([0, 0x80, 0x20, 0x10, 0xA0, 0xB0, 0x30, 0x70, 0x40]))
        body = bytes([flags, draw(st.sampled_from([0, 0, 1, 0x81, 0x80, 2]))]) + body
    if protocol in (1, 58):
        body = draw(st.sampled_from([b"\0", b"\x08", b"\x0d", b"\x03", b"\x80", b"\x81", b"\x87"])) + body
    return protocol, body


@st.composite
def near_packet(draw: st.DrawFn) -> bytes:
    """A packet that is right in most places, then cut and scratched."""
    protocol, body = draw(transport())
    declared = draw(st.sampled_from([0, 0, 0, 1, 9, -1, -9, None]))  # how wrong the length is; None: it is 0
    kind = draw(st.sampled_from([0x0800, 0x0800, 0x86DD, 0x86DD, 0x0806, 0x8100, 0x0026]))
    if kind == 0x0800:
        options = draw(st.sampled_from([-1, 0, 0, 0, 1, 10]))
        total = 20 + max(options, 0) * 4 + len(body)
        total = 0 if declared is None else max(total + declared, 0)
        fragment = draw(st.sampled_from([0, 0x4000, 0x2000, 1, 0x3FFF])).to_bytes(2, "big")
        rest = octet.map(lambda value: value + bytes([protocol]) + b"\xab\xcd")
        first = bytes([draw(st.sampled_from([0x40, 0x40, 0x40, 0x60])) | 5 + options]) + draw(octet)
        ip = first + total.to_bytes(2, "big") + draw(number16) + fragment + draw(rest)
        body = ip + draw(st.binary(min_size=8, max_size=8)) + bytes(max(options, 0) * 4) + body
    elif kind == 0x86DD:
        chain = draw(st.lists(extension(), max_size=10))
        kinds = [number for number, _, _ in chain] + [protocol]
        raw = b"".join(bytes([after]) + header for (_, header, _), after in zip(chain, kinds[1:], strict=True))
        total = 0 if declared is None else max(len(raw) + len(body) + declared, 0)
        first = draw(st.sampled_from([b"\x60", b"\x6f", b"\x45"])) + draw(st.binary(min_size=3, max_size=3))
        ip = first + total.to_bytes(2, "big") + bytes([kinds[0]]) + draw(octet)
        body = ip + draw(st.binary(min_size=32, max_size=32)) + raw + body
    elif kind == 0x0806:
        body = draw(st.sampled_from([b"\0\1\x08\0\6\4", b"\0\6\x08\0\6\4", b"\0\1\x86\xdd\6\x10"])) + body
    tags = b"".join(
        tpid + draw(number16)
        for tpid in draw(st.lists(st.sampled_from([b"\x81\0", b"\x88\xa8", b"\x91\0"]), max_size=3))
    )
    packet = draw(st.binary(min_size=12, max_size=12)) + tags + kind.to_bytes(2, "big") + body
    if draw(st.integers(0, 3)) == 0:
        packet = packet[: draw(st.integers(0, len(packet)))]
    if packet and draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(packet) - 1))
        packet = packet[:at] + draw(octet) + packet[at + 1 :]
    return packet + bytes(draw(st.sampled_from([0, 0, 6, 18])))


any_packet = st.one_of(near_packet(), near_packet(), near_packet(), st.binary(max_size=120))
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
