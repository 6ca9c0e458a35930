# SPDX-License-Identifier: Apache-2.0
"""Addresses are written once for each distinct one, and stand in every row all the same: few, many, mixed, missing."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tables import ALL, batch_of, expected
from toolkit.capture.parquet import ParquetSink
from toolkit.packets.frames import udp_frame

pytestmark = pytest.mark.needs("pyarrow")

NAMES = ("eth_dst", "eth_src", "ip_src", "ip_dst", "arp_sender_mac", "arp_sender_ip", "arp_target_mac", "arp_target_ip")


def frame(source: str, target: str, mac: int = 1) -> bytes:
    return b"\2" + mac.to_bytes(5, "big") + udp_frame(b"x", source_ip=source, destination_ip=target)[6:]


def ip4(number: int) -> str:
    return str(ipaddress.IPv4Address(number))


def ip6(number: int) -> str:
    return str(ipaddress.IPv6Address(number))


KINDS = {
    "one": [frame("10.0.0.1", "10.0.0.2")] * 300,
    "all distinct": [frame(ip4(0x0A000000 + n), ip4(0xC0A80000 + 7 * n), n) for n in range(3000)],
    "IPv6": [frame(ip6((0xFE80 << 112) + n % 3), ip6(n << 64 | 1)) for n in range(200)],
    "IPv4-mapped": [frame(ip6(0xFFFF << 32 | n % 5), ip6(0xFFFF << 32 | 0x01020304)) for n in range(50)],
    "all distinct IPv6": [frame(ip6((0x2001 << 112) + n * 65537), ip6((0x2001 << 112) + n)) for n in range(500)],
    "mixed": [
        *[frame(ip4(0x0A000000 + n % 7), ip4(9)) for n in range(40)],
        *[frame(ip6(n % 7), ip6(0xFFFF << 32 | 9)) for n in range(40)],
        *ALL,
    ],
    "mixed, all distinct": [
        frame(ip6((0x2001 << 112) + n), ip6(n << 40)) if n % 3 else frame(ip4(0x0A000000 + n), ip4(n), n)
        for n in range(600)
    ],
    "none": [b"", bytes(13), bytes(60)],
    "empty": [],
}


def columns(table: Any) -> dict[str, list[str | None]]:
    table.validate(full=True)
    return {name: table.column(name).to_pylist() for name in NAMES}


@pytest.mark.parametrize("addresses", ["text", "dictionary"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_has_its_address(kind: str, addresses: Any) -> None:
    batch = batch_of(KINDS[kind])
    wanted = expected(batch, "text")
    assert columns(batch.to_arrow(addresses=addresses)) == {name: [row[name] for row in wanted] for name in NAMES}


@pytest.mark.needs("pandas")
@pytest.mark.parametrize("addresses", ["text", "dictionary"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_pandas_too(kind: str, addresses: Any) -> None:
    import pandas as pd

    batch = batch_of(KINDS[kind])
    frame = batch.to_pandas(NAMES, addresses=addresses)
    reported = {name: [None if pd.isna(value) else value for value in frame[name]] for name in NAMES}
    wanted = expected(batch, "text")
    assert reported == {name: [row[name] for row in wanted] for name in NAMES}


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_file_too(kind: str, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    batch = batch_of(KINDS[kind])
    with ParquetSink(tmp_path / "x.parquet", rows_per_group=700) as sink:
        sink.write(batch)
        sink.write(batch)
    wanted = expected(batch, "text") * 2
    table = pq.read_table(tmp_path / "x.parquet")
    assert columns(table) == {name: [row[name] for row in wanted] for name in NAMES}
    assert {str(table.schema.field(name).type) for name in NAMES} == {"string"}, "as text, whoever reads it"


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 2**32 - 1)), max_size=60))
def test_any_mix_of_few_and_many(drawn: list[tuple[bool, int, int]]) -> None:
    packets = [frame(ip6(few << 90), ip6(many)) if six else frame(ip4(few), ip4(many)) for six, few, many in drawn]
    batch = batch_of(packets)
    wanted = {name: [row[name] for row in expected(batch, "text")] for name in NAMES}
    assert columns(batch.to_arrow()) == columns(batch.to_arrow(addresses="dictionary")) == wanted


def test_a_dictionary_has_each_address_once_and_no_others() -> None:
    table = batch_of(KINDS["mixed"]).to_arrow(addresses="dictionary")
    for name in NAMES:
        column = table.column(name)
        kept = column.dictionary.to_pylist()
        assert sorted(kept) == sorted({value for value in column.to_pylist() if value is not None})
