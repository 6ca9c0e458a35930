# SPDX-License-Identifier: Apache-2.0
"""Packets as Arrow and pandas tables: every value is that of the decoded columns, in types that other engines have."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.any_packets import any_packet
from tests.helpers.tables import ALL, NAT, T0, batch_of, expected, hextets
from toolkit.decode.protocol_columns import FIELDS
from toolkit.errors import ArgumentError, LibraryError
from toolkit.tables.address_text import ip4_text, ip6_text, ip_text, mac_text
from toolkit.tables.schema import IP, MACS, NUMBERS, WHOLE


def arrow_rows(table: Any) -> list[dict[str, Any]]:
    table.validate(full=True)
    times = table.column("time").cast("int64").to_pylist()
    lists = {name: table.column(name).to_pylist() for name in table.schema.names if name != "time"}
    return [{"time_ns": at} | {name: values[row] for name, values in lists.items()} for row, at in enumerate(times)]


def test_every_column_has_a_place_in_the_tables() -> None:
    assert sorted(FIELDS) == sorted({*NUMBERS, *MACS, *IP, "ip6_src", "ip6_dst", "length", "truncated", "valid"})
    assert set(WHOLE) >= {"length", "truncated", "valid"}


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("addresses", ["text", "dictionary", "binary"])
def test_arrow_holds_what_the_columns_say(addresses: Any) -> None:
    batch = batch_of(ALL)
    table = batch.to_arrow(addresses=addresses)
    assert arrow_rows(table) == expected(batch, addresses)
    assert str(table.schema.field("time").type) == "timestamp[ns, tz=UTC]"
    assert str(table.schema.field("src_port").type) == "int32"


@pytest.mark.needs("pyarrow")
@given(st.lists(any_packet, max_size=8), st.sampled_from(["text", "dictionary", "binary"]))
def test_arrow_holds_what_the_columns_say_of_any_bytes(packets: list[bytes], addresses: Any) -> None:
    batch = batch_of(packets)
    assert arrow_rows(batch.to_arrow(addresses=addresses)) == expected(batch, addresses)


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("addresses", ["text", "dictionary", "binary"])
def test_all_batches_have_one_schema(addresses: Any) -> None:
    schema = batch_of([]).to_arrow(addresses=addresses, head=4).schema
    for packets in ([b""], ALL, ALL[:1], [ALL[-1]]):
        assert batch_of(packets).to_arrow(addresses=addresses, head=4).schema == schema


@pytest.mark.needs("pyarrow")
def test_times_rules_and_heads() -> None:
    batch = batch_of(ALL[:3], times=[T0, NAT, 0], rule_numbers=np.array([0, 2**32 - 1, 5], dtype=np.uint32))
    table = batch.to_arrow(["head", "rule", "time"], head=60)
    assert table.schema.names == ["head", "rule", "time"]
    assert table.column("time").cast("int64").to_pylist() == [T0, None, 0]
    assert table.column("rule").to_pylist() == [0, None, 5]
    assert table.column("head").to_pylist() == [packet[:60] for packet in ALL[:3]]


@pytest.mark.needs("pyarrow")
def test_a_table_outlives_its_packets() -> None:
    batch = batch_of(ALL)
    table = batch.to_arrow(head=64)
    known = table.to_pylist()
    assert batch._memory is not None
    batch._memory[:] = 0xEE
    del batch
    assert table.to_pylist() == known


@pytest.mark.needs("pyarrow")
def test_what_is_not_there_is_refused_by_name() -> None:
    batch = batch_of(ALL[:1])
    with pytest.raises(ArgumentError, match=r"'sport'.*src_port"):
        batch.to_arrow(["sport"])
    with pytest.raises(ArgumentError, match=r"'head'.*head="):
        batch.to_arrow(["head"])
    with pytest.raises(ArgumentError, match='"text", "dictionary" or "binary"'):
        batch.to_arrow(addresses="hex")
    with pytest.raises(ArgumentError, match="head cannot be -1"):
        batch.to_arrow(head=-1)


@pytest.mark.needs("pandas")
@pytest.mark.parametrize("addresses", ["text", "dictionary", "binary"])
def test_pandas_holds_the_same(addresses: Any) -> None:
    import pandas as pd

    batch = batch_of(ALL)
    frame = batch.to_pandas(addresses=addresses, head=9)
    assert frame["time"].tolist() == [pd.Timestamp(T0 + 1001 * row, unit="ns", tz="UTC") for row in range(len(ALL))]
    assert frame.pop("head").tolist() == [packet[:9] for packet in ALL]
    reported = [
        {name: None if value is None or pd.isna(value) else value for name, value in row.items() if name != "time"}
        for row in frame.to_dict("records")
    ]
    assert reported == [{key: row[key] for key in row if key != "time_ns"} for row in expected(batch, addresses)]
    assert str(frame["src_port"].dtype) == "Int32"
    empty = batch_of([]).to_pandas(addresses=addresses).dtypes
    assert {name: str(dtype) for name, dtype in empty.items()} == {
        name: str(dtype) for name, dtype in frame.dtypes.items()
    }


@pytest.mark.needs("pandas")
def test_decoded_columns_become_tables_too() -> None:
    columns = batch_of(ALL).decode(["ip_src", "ip6_src", "ip_version", "eth_src"])
    assert list(columns.to_pandas().columns) == ["ip_src", "ip_version", "eth_src"]
    assert list(columns.to_pandas(addresses="binary").columns) == ["ip_src", "ip6_src", "ip_version", "eth_src"]


@pytest.mark.parametrize(("package", "method"), [("pyarrow", "to_arrow"), ("pandas", "to_pandas")])
def test_a_missing_package_is_named(package: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LibraryError, match="pip install"):
        getattr(batch_of(ALL[:1]), method)()


ip4s = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([-1, 0, 2**32 - 1, 0x0A000001]))
ip6s = st.lists(st.sampled_from([0, 0, 0, 1, 0xF, 0x10, 0xFF, 0x100, 0xFFF, 0x1000, 0xFFFF]), min_size=8, max_size=8)


TURNS = st.sampled_from([1, 40])  # few are written one by one, many as arrays


@given(st.lists(st.tuples(ip4s, ip6s, st.booleans()), max_size=20), TURNS)
def test_addresses_are_written_as_the_standard_library_does(
    drawn: list[tuple[int, list[int], bool]], turns: int
) -> None:
    cases = drawn * turns
    ip4 = np.array([case[0] for case in cases], dtype=np.int64)
    ip6 = np.array([case[1] for case in cases], dtype=">u2").reshape(-1, 8).view(np.uint8).reshape(-1, 16)
    is6 = np.array([case[2] for case in cases], dtype=np.bool_)
    text4 = [str(ipaddress.IPv4Address(int(one))) if one >= 0 else "" for one in ip4]
    text6 = [hextets(one.tobytes()) for one in ip6]
    assert ip4_text(ip4).strings() == text4
    assert ip6_text(ip6).strings() == text6
    assert ip_text(ip4, ip6, is6).strings() == [
        six if which else four for four, six, which in zip(text4, text6, is6, strict=True)
    ]


@given(st.lists(st.one_of(st.integers(0, 2**48 - 1), st.just(-1)), max_size=20), TURNS)
def test_ethernet_addresses_are_written(drawn: list[int], turns: int) -> None:
    cases = drawn * turns
    wanted = [case.to_bytes(6, "big").hex(":") if case >= 0 else "" for case in cases]
    assert mac_text(np.array(cases, dtype=np.int64)).strings() == wanted


@pytest.mark.needs("pandas")
def test_one_name_is_a_column_not_its_letters() -> None:
    batch = batch_of([bytes(60), bytes(90)])
    assert batch.decode("ip_src").keys() == ["ip_src"]
    assert batch.to_pandas("length").columns.tolist() == ["length"]


@pytest.mark.needs("pandas")
@pytest.mark.parametrize("odd", [1.5, "8", None, True])
def test_a_head_is_n_whole_bytes(odd: Any) -> None:
    batch = batch_of([bytes(60), bytes(90)])
    with pytest.raises(ArgumentError, match="whole number"):
        batch.head(odd)
    with pytest.raises(ArgumentError, match="whole number"):
        batch.to_pandas(head=odd)
