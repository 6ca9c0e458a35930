# SPDX-License-Identifier: Apache-2.0
"""What users do next with a table: filter, group, join, sort, concatenate batches, write files, in each library."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.tables import T0, batch_of
from toolkit.capture.parquet import ParquetSink
from toolkit.packets.frames import udp_frame

pytestmark = pytest.mark.needs("pyarrow")

A, B, C, SIX = "10.0.0.1", "10.0.0.2", "10.9.0.3", "2001:db8::1"
BATCHES = ([A, B, A], [C, A, SIX, SIX])  # sources: the dictionaries of the two batches differ
ROWS = [*BATCHES[0], *BATCHES[1]]
COUNTS = {A: 3, B: 1, C: 1, SIX: 2}
OWNERS = {A: "alice", SIX: "bob"}


def frames(sources: list[str]) -> list[bytes]:
    return [udp_frame(b"x", source_ip=one, destination_ip=SIX if one == SIX else B) for one in sources]


def tables(addresses: Any = "text") -> list[Any]:
    return [batch_of(frames(sources)).to_arrow(addresses=addresses) for sources in BATCHES]


def whole(addresses: Any = "text") -> Any:
    import pyarrow as pa

    return pa.Table.from_batches(tables(addresses))


@pytest.mark.parametrize("addresses", ["text", "dictionary"])
def test_pyarrow_filters_and_counts(addresses: Any) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = whole(addresses)
    assert table.filter(pc.field("ip_src") == A).num_rows == 3
    assert table.filter(pc.field("ip_src").isin([A, SIX])).num_rows == 5
    counted = {one["values"]: one["counts"] for one in pc.value_counts(table["ip_src"].combine_chunks()).to_pylist()}
    assert counted == COUNTS
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    assert pa.ipc.open_stream(stream.getvalue()).read_all().equals(table)
    assert table.combine_chunks()["ip_src"].to_pylist() == ROWS


def test_pyarrow_groups_joins_sorts_and_searches_text() -> None:
    """None of this is possible in dictionary columns whose dictionaries differ: so text is what to_arrow() gives."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = whole()
    assert str(table.schema.field("ip_src").type) == "string"
    grouped = table.group_by("ip_src").aggregate([("length", "count")]).to_pylist()
    assert {one["ip_src"]: one["length_count"] for one in grouped} == COUNTS
    names = pa.table({"ip_src": list(OWNERS), "who": list(OWNERS.values())})
    joined = table.select(["ip_src", "length"]).join(names, "ip_src", join_type="inner")
    assert sorted(joined["who"].to_pylist()) == ["alice"] * 3 + ["bob"] * 2
    assert table.sort_by("ip_src")["ip_src"].to_pylist() == sorted(ROWS)
    assert table.filter(pc.starts_with(table["ip_src"], "10.0.")).num_rows == 4
    assert pc.count_distinct(table["ip_src"]).as_py() == 4
    assert pa.concat_tables([table.select(["ip_src"]), names.select(["ip_src"])]).num_rows == 9
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        for batch in tables():
            writer.write_batch(batch)
    assert pa.ipc.open_file(file.getvalue()).read_all().num_rows == 7


def test_dictionaries_of_several_batches_are_unified_for_groups() -> None:
    """As docs/how-to/files.md says it."""
    table = whole("dictionary").unify_dictionaries()
    grouped = table.group_by("ip_src").aggregate([("length", "count")]).to_pylist()
    assert {one["ip_src"]: one["length_count"] for one in grouped} == COUNTS


@pytest.mark.needs("polars")
def test_polars() -> None:
    import polars as pl

    parts = [pl.DataFrame(pl.from_arrow(table)) for table in tables()]
    frame = pl.concat(parts)
    assert dict(frame.group_by("ip_src").len().iter_rows()) == COUNTS
    assert frame.filter(pl.col("ip_src").str.starts_with("10.0.")).height == 4
    names = pl.DataFrame({"ip_src": list(OWNERS), "who": list(OWNERS.values())})
    assert frame.join(names, on="ip_src").height == 5
    categories = [pl.DataFrame(pl.from_arrow(table)) for table in tables("dictionary")]
    both = pl.concat(categories)
    assert both.filter(pl.col("ip_src") == A).height == 3
    assert both["ip_src"].cast(pl.String).to_list() == ROWS


@pytest.mark.needs("duckdb")
@pytest.mark.parametrize("addresses", ["text", "dictionary"])
def test_duckdb(addresses: Any) -> None:
    import duckdb
    import pyarrow as pa

    packets, names = whole(addresses), pa.table({"ip_src": list(OWNERS), "who": list(OWNERS.values())})
    engine = duckdb.connect()
    engine.register("packets", packets)
    engine.register("names", names)
    assert dict(engine.sql("SELECT ip_src, count(*) FROM packets GROUP BY ip_src").fetchall()) == COUNTS
    assert engine.sql("SELECT count(*) FROM packets WHERE ip_src LIKE '10.0.%'").fetchall() == [(4,)]
    assert engine.sql("SELECT count(*) FROM packets JOIN names USING (ip_src)").fetchall() == [(5,)]
    engine.execute("CREATE TABLE kept AS SELECT * FROM packets")
    engine.execute("INSERT INTO kept SELECT * FROM packets")
    assert engine.sql("SELECT count(DISTINCT ip_src) FROM kept").fetchall() == [(4,)]


@pytest.mark.needs("pandas")
@pytest.mark.parametrize("addresses", ["text", "dictionary"])
def test_pandas(addresses: Any) -> None:
    import pandas as pd

    own = pd.concat([batch_of(frames(sources)).to_pandas(addresses=addresses) for sources in BATCHES])
    for frame in (own, whole(addresses).to_pandas()):
        assert frame.groupby("ip_src", observed=True).size().to_dict() == COUNTS
        assert int(frame["ip_src"].str.startswith("10.0.").sum()) == 4
        names = pd.DataFrame({"ip_src": list(OWNERS), "who": list(OWNERS.values())})
        assert len(frame.merge(names, on="ip_src")) == 5
        assert (frame["ip_src"] == A).sum() == 3


@pytest.mark.parametrize("addresses", ["text", "dictionary"])
def test_the_files_of_a_dataset_are_one_table(tmp_path: Path, addresses: Any) -> None:
    """Each file, and each row group in it, has a dictionary of its own."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    hour = 3_600_000_000_000
    for turn, sources in enumerate(BATCHES):
        with ParquetSink(f"{tmp_path}/d/", addresses=addresses, rows_per_group=2) as sink:
            sink.write(batch_of(frames(sources), times=[T0 + turn * hour] * len(sources)))
    found = ds.dataset(tmp_path / "d", format="parquet", partitioning="hive", exclude_invalid_files=True)
    table = found.to_table(filter=pc.field("ip_src") == A)
    assert table.num_rows == 3
    table = found.to_table()
    assert str(table.schema.field("ip_src").type) == "string"
    grouped = table.group_by("ip_src").aggregate([("length", "count")]).to_pylist()
    assert {one["ip_src"]: one["length_count"] for one in grouped} == COUNTS
