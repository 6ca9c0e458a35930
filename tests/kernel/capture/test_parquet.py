# SPDX-License-Identifier: Apache-2.0
"""Real packets as tables: from an interface to Arrow, pandas and Parquet, and into the engines that read those."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import Wire, drain, eventually, run_child, udp_frame
from toolkit.capture.parquet import ParquetSink
from toolkit.lab import Lab

pytestmark = pytest.mark.needs("bcc", "pyarrow")

FRAMES = [udp_frame(bytes(number % 90), source_port=2000 + number % 7, port=9000) for number in range(500)]


def capture(lab: Lab, wire: Wire, sink: ParquetSink) -> tuple[int, int]:
    """Send FRAMES while a sink is fed; the times before and after, ns since 1970."""
    with toolkit.open(lab.interface, netns=lab.netns, filter="udp port 9000") as near:
        before = time.time_ns()
        wire.send(FRAMES)
        got = 0

        def more() -> bool:
            nonlocal got
            batch = near.receive(timeout=0.1)
            got += len(batch)
            sink.write(batch)
            return got >= len(FRAMES)

        assert eventually(more, 10)
        after = time.time_ns()
        sink.close({"received": got, "dropped": near.statistics().dropped})
    return before, after


def test_a_capture_is_a_table_to_every_engine(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    sink = ParquetSink(f"{tmp_path}/x.parquet/", filter="udp port 9000", interface=lab.interface)
    before, after = capture(lab, wire, sink)
    assert sink.written == len(FRAMES)
    parts = list((tmp_path / "x.parquet").rglob("*.parquet"))
    reported = pq.read_metadata(parts[0]).metadata
    assert (reported[b"filter"], reported[b"interface"]) == (b"udp port 9000", lab.interface.encode())
    table = pq.read_table(tmp_path / "x.parquet")
    assert sorted(table.column("length").to_pylist()) == sorted(map(len, FRAMES))
    assert set(table.column("ip_src").to_pylist()) == {"10.11.0.2"}
    slack = 1_000_000_000  # the clock's step is another test's matter
    assert all(before - slack <= at <= after + slack for at in table.column("time_ns").to_pylist())


@pytest.mark.needs("duckdb", "polars")
def test_duckdb_and_polars_count_the_same(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    capture(lab, wire, ParquetSink(tmp_path))
    wanted: dict[str, list[int]] = {}
    for number, frame in enumerate(FRAMES):
        row = wanted.setdefault(str(2000 + number % 7), [0, 0])
        row[0] += 1
        row[1] += len(frame)
    # In a process of their own: they keep descriptors open for as long as it lives.
    reported = json.loads(run_child(ENGINES.replace("WHERE", f"{tmp_path}/**/*.parquet")))
    assert reported["duckdb"] == reported["polars"] == wanted
    assert {"date", "hour"} <= set(reported["columns"])


ENGINES = """
    import json
    import duckdb
    import polars

    query = "select src_port, count(*), sum(length) from read_parquet(?, hive_partitioning=true) group by src_port"
    rows = duckdb.execute(query, ["WHERE"]).fetchall()
    frame = polars.read_parquet("WHERE", hive_partitioning=True)
    sums = frame.group_by("src_port").agg(polars.len(), polars.col("length").sum()).rows()
    print(json.dumps({
        "duckdb": {port: (packets, int(octets)) for port, packets, octets in rows},
        "polars": {port: (packets, octets) for port, packets, octets in sums},
        "columns": frame.columns,
    }))
"""


@pytest.mark.needs("pandas")
def test_a_live_batch_becomes_tables_that_outlive_it(lab: Lab, wire: Wire) -> None:
    with toolkit.open(lab.interface, netns=lab.netns, filter="udp port 9000") as near:
        wire.send(FRAMES[:20])
        batch = near.receive(timeout=5)
        while len(batch) < 2:  # the first look may have come early
            batch = near.receive(timeout=5)
        lengths = batch.lengths.tolist()
        table, frame = batch.to_arrow(head=14), batch.to_pandas(["time", "length", "dst_port"])
        batch.release()
        drain(near.receive)
    assert table.column("length").to_pylist() == frame["length"].tolist() == lengths
    assert {packet[12:14] for packet in table.column("head").to_pylist()} == {b"\x08\0"}
    assert set(frame["dst_port"]) == {9000}
    assert frame["time"].notna().all()


@pytest.mark.parametrize("make", [toolkit.open, toolkit.tee])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_flows_count_what_receive_returns(lab: Lab, wire: Wire, make: Any, bidirectional: bool) -> None:
    with make(lab.interface, netns=lab.netns, filter="udp port 9000") as near:
        flows = near.flows(bidirectional=bidirectional)
        ports = near.flows(group="port")
        wire.send(FRAMES)

        def received() -> bool:
            near.receive(timeout=0.1)
            return flows.packets >= len(FRAMES)

        assert eventually(received, 10)
        assert sorted(flow.source_port or 0 for flow in flows.top()) == list(range(2000, 2007))
        assert flows.bytes == sum(map(len, FRAMES))
        assert [(str(port), port.packets) for port in ports.top()] == [
            (f"{number}/UDP", sum(2000 + at % 7 == number for at in range(len(FRAMES))))
            for number in (port.destination_port for port in ports.top())
        ]
        del ports
        wire.send(FRAMES[:1])
        assert eventually(lambda: near.receive(timeout=0.1) or flows.packets > len(FRAMES), 10)
        assert len(near._flows) == 1  # nobody holds the other any more
