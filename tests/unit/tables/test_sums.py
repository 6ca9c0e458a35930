# SPDX-License-Identifier: Apache-2.0
"""Sums and differences of a table's columns are right in every engine: past 4 GB, and below 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.tables import ALL, batch_of
from toolkit.capture.parquet import ParquetSink
from toolkit.flows import Flows
from toolkit.tables.schema import MACS, NUMBERS, PACKET

pytestmark = pytest.mark.needs("pyarrow")

# Wireless drivers, say, and whoever wrote a recording may claim 4 GB for a packet: three of those are past 32 bits.
WIRE = np.array([2**32 - 1, 2**32 - 1, 14, 2**32 - 1], dtype=np.uint32)
SUM = 3 * (2**32 - 1) + 14
PACKETS = ALL[:4]
LEAST = min(map(len, PACKETS)) - (2**32 - 1)  # bytes kept less bytes on the wire
# Bytes, and what is counted.
ADDED = ("length", "wire_length", "ip_len", "udp_len", "payload_len", "payload_offset", "tcp_window")


def given() -> Any:
    return batch_of(PACKETS, wire_lengths=WIRE)


@pytest.mark.parametrize("addresses", ["text", "binary"])
def test_every_number_is_signed_and_holds_its_differences(addresses: Any) -> None:
    import pyarrow as pa

    schema = batch_of([]).to_arrow(addresses=addresses).schema
    numbers = [field for field in schema if pa.types.is_integer(field.type)]
    assert {field.name for field in numbers} >= {*NUMBERS, *PACKET} - {"time"}
    assert [field.name for field in numbers if not pa.types.is_signed_integer(field.type)] == []
    assert {str(schema.field(name).type) for name in ADDED} == {"int64"}
    if addresses == "binary":
        assert {str(schema.field(name).type) for name in (*MACS, "ip_src", "ip_dst")} == {"int64"}


def test_sums_in_arrow_and_numpy() -> None:
    import pyarrow.compute as pc

    batch = given()
    table = batch.to_arrow()
    assert pc.sum(table["wire_length"]).as_py() == SUM == int(batch.wire_lengths.sum())
    assert pc.min(pc.subtract(table["length"], table["wire_length"])).as_py() == LEAST
    assert (batch.lengths - batch.wire_lengths).tolist() == [
        len(one) - int(wire) for one, wire in zip(PACKETS, WIRE, strict=True)
    ]
    assert np.diff(batch.wire_lengths).tolist() == [0, 14 - (2**32 - 1), 2**32 - 1 - 14]
    assert (batch.lengths - 2000).max() < 0


@pytest.mark.needs("pandas")
def test_sums_in_pandas() -> None:
    frame = given().to_pandas()
    assert frame["wire_length"].sum() == SUM
    assert (frame["length"] - frame["wire_length"]).min() == LEAST
    assert frame["wire_length"].diff().min() == 14 - (2**32 - 1)
    differences = {name: (frame[name] - frame[name].max() - 1).dropna() for name in NUMBERS}
    assert [name for name, difference in differences.items() if (difference >= 0).any()] == []
    columns = given().decode()
    ports = columns["src_port"].astype(object) - columns["dst_port"]
    reported = (frame["src_port"] - frame["dst_port"]).fillna(0).tolist()
    assert reported == ports.tolist()
    assert min(reported) < 0, "the packets have such a pair of ports"


@pytest.fixture(params=["a file", "a dataset"])
def parquet(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What a glob finds the file by."""
    path = f"{tmp_path}/x.parquet" if request.param == "a file" else f"{tmp_path}/ds/"
    with ParquetSink(path) as sink:
        sink.write(given())
    return path if request.param == "a file" else f"{path}**/*.parquet"


@pytest.mark.needs("polars")
def test_sums_in_polars(parquet: str) -> None:
    import polars as pl

    for frame in (pl.from_arrow(given().to_arrow()), pl.read_parquet(parquet)):
        assert isinstance(frame, pl.DataFrame)
        assert frame["wire_length"].sum() == SUM
        assert frame.select(pl.col("wire_length").sum()).item() == SUM
        assert frame.select((pl.col("length") - pl.col("wire_length")).min()).item() == LEAST
        assert frame.select((pl.col("src_port") - pl.col("dst_port")).min()).item() < 0


@pytest.mark.needs("duckdb")
def test_sums_in_duckdb(parquet: str) -> None:
    import duckdb

    question = (
        "SELECT sum(wire_length), min(length - wire_length), min(src_port - dst_port) "
        f"FROM read_parquet('{parquet}', hive_partitioning = false)"
    )
    ((total, least, ports),) = duckdb.sql(question).fetchall()
    assert (total, least) == (SUM, LEAST)
    assert ports < 0


def test_flows_too() -> None:
    flows = Flows(bidirectional=True)
    flows.add(given())
    table = flows.to_arrow()
    types = {field.name: str(field.type) for field in table.schema}
    assert types["bytes"] == types["packets"] == types["back_bytes"] == types["back_packets"] == "int64"
    assert [kind for kind in types.values() if kind.startswith("uint")] == []
    assert sum(table["bytes"].to_pylist()) == SUM == flows.bytes
