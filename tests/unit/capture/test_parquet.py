# SPDX-License-Identifier: Apache-2.0
"""ParquetSink without an interface: what was given can be read back, on every way out, a full disk among them."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.helpers.tables import ALL, NAT, T0, batch_of, expected
from toolkit.capture.parquet import ParquetSink
from toolkit.errors import ClosedError, SystemCallError

pytestmark = pytest.mark.needs("pyarrow")

HOUR = 3_600_000_000_000


def read(path: Path) -> Any:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    table.validate(full=True)
    return table


def metadata(path: Path) -> dict[str, str]:
    import pyarrow.parquet as pq

    reported = pq.read_metadata(path).metadata
    return {key.decode(): value.decode() for key, value in reported.items() if key != b"ARROW:schema"}


@pytest.mark.parametrize("addresses", ["text", "binary"])
@pytest.mark.parametrize("rows_per_group", [1, 10, 1 << 17])
def test_what_was_written_is_read_back(tmp_path: Path, addresses: Any, rows_per_group: int) -> None:
    path = tmp_path / "x.parquet"
    batch = batch_of(ALL)
    big = batch_of(ALL * 30)  # is not gathered with others
    with ParquetSink(f"{path}.big", addresses=addresses, rows_per_group=rows_per_group) as sink:
        sink.write(big)
    assert read(Path(f"{path}.big")).drop_columns(["time"]).to_pylist() == expected(big, addresses)
    with ParquetSink(path, addresses=addresses, rows_per_group=rows_per_group) as sink:
        sink.write(batch)
        sink.write(batch_of([]))
        sink.write(batch)
        assert sink.packets == 2 * len(ALL)
    assert sink.written == 2 * len(ALL)
    assert sink.bytes == path.stat().st_size
    table = read(path)
    assert table.column("time").cast("int64").to_pylist() == [at // 1000 for at in table.column("time_ns").to_pylist()]
    rows = table.drop_columns(["time"]).to_pylist()
    assert rows == expected(batch, addresses) * 2


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with ParquetSink(path, filter="udp port 53", interface="eth0", head=20) as sink:
        sink.write(batch_of(ALL[:5]))
        sink.close({"received": 7, "dropped": 2})
        sink.close()
    reported = metadata(path)
    assert reported["filter"] == "udp port 53"
    assert reported["interface"] == "eth0"
    assert (reported["received"], reported["dropped"], reported["packets"]) == ("7", "2", "5")
    assert read(path).column("head").to_pylist() == [packet[:20] for packet in ALL[:5]]
    with pytest.raises(ClosedError):
        sink.write(batch_of(ALL))


def test_an_empty_capture_is_a_table_too(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    ParquetSink(path).close()
    assert read(path).num_rows == 0
    assert "ip_src" in read(path).schema.names


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("precious")
    with pytest.raises(SystemCallError, match=r"x\.parquet.*there already.*`force=True`") as refused:
        ParquetSink(path)
    assert refused.value.errno == errno.EEXIST
    assert path.read_text() == "precious"
    with ParquetSink(path, force=True) as sink:
        sink.write(batch_of(ALL))
    assert read(path).num_rows == len(ALL)
    with pytest.raises(SystemCallError, match="directory does not exist"):
        ParquetSink(tmp_path / "none" / "x.parquet")


def test_a_dataset_has_files_by_hour(tmp_path: Path) -> None:
    root = tmp_path / "x.parquet"
    times = [T0, T0 + HOUR, T0, NAT, T0 + 24 * HOUR]
    with ParquetSink(f"{root}/", filter="udp") as sink:
        sink.write(batch_of(ALL[:5], times=times))
        sink.close({"received": 5, "dropped": 0})
    parts = sorted(str(path.parent.relative_to(root)) for path in root.rglob("*.parquet"))
    assert parts == [
        "date=2027-01-15/hour=8",
        "date=2027-01-15/hour=9",
        "date=2027-01-16/hour=8",
        "date=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__",
    ]
    read_back = [read(path).column("time_ns").to_pylist() for path in root.rglob("*.parquet")]
    assert sorted(read_back, key=str) == sorted([[T0, T0], [T0 + HOUR], [T0 + 24 * HOUR], [None]], key=str)
    assert all(metadata(path)["filter"] == "udp" for path in root.rglob("*.parquet"))
    (reported,) = root.glob("_capture-*.json")
    assert json.loads(reported.read_text()) == {"packets": 5, "received": 5, "dropped": 0}


def test_files_of_a_dataset_appear_whole_and_are_added_to(tmp_path: Path) -> None:
    with ParquetSink(tmp_path, seconds_per_file=0.0) as sink:
        sink.write(batch_of(ALL))
        (first,) = tmp_path.rglob("*.parquet")  # the time was over at once
        assert read(first).num_rows == len(ALL)
        assert sink.written == len(ALL)
    with ParquetSink(tmp_path) as sink:
        sink.write(batch_of(ALL))
        sink._writing._flush()
        assert len(list(tmp_path.rglob("*.parquet"))) == 1  # the other has no name yet
    assert sum(read(path).num_rows for path in tmp_path.rglob("*.parquet")) == 2 * len(ALL)
    assert not list(tmp_path.rglob(".*"))


def test_a_dataset_of_many_hours_needs_few_descriptors(tmp_path: Path) -> None:
    """A recording may hold months, and each file that is open takes descriptors."""
    hours = 150
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ParquetSink(f"{tmp_path}/d/") as sink:
        spare = os.open("/", os.O_PATH)  # the lowest number that is free
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + hours, limit[1]))
        try:
            for _ in range(2):  # the second time, most of the files of the first are closed already
                sink.write(batch_of(ALL[:1] * hours, times=[T0 + hour * HOUR for hour in range(hours)]))
                sink._writing._flush()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert sink.written == 2 * hours
    found = [(path.parent, read(path).num_rows) for path in tmp_path.rglob("*.parquet")]
    assert len({directory for directory, _ in found}) == hours
    assert sum(rows for _, rows in found) == 2 * hours
    assert sink.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))


def test_a_dataset_is_one_table_to_other_engines(tmp_path: Path) -> None:
    import duckdb
    import polars

    with ParquetSink(f"{tmp_path}/d/") as sink:
        for hour in range(3):
            sink.write(batch_of(ALL, times=[T0 + hour * HOUR] * len(ALL)))
    where = f"{tmp_path}/d/**/*.parquet"
    query = f"select hour, count(*), count(distinct ip_src) from read_parquet('{where}', hive_partitioning=true)"
    sources = len({row["ip_src"] for row in expected(batch_of(ALL), "text")} - {None})
    reported = duckdb.sql(query + " group by hour order by hour").fetchall()
    assert [(int(hour), n, found) for hour, n, found in reported] == [(hour, len(ALL), sources) for hour in (8, 9, 10)]
    frame = polars.scan_parquet(where, hive_partitioning=True).filter(polars.col("hour") == 9).collect()
    assert frame.height == len(ALL)
    assert frame["time_ns"].to_list() == [T0 + HOUR] * len(ALL)


def test_a_forgotten_sink_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    sink = ParquetSink(path)
    sink.write(batch_of(ALL))
    del sink
    gc.collect()
    assert read(path).num_rows == len(ALL)


CHILD = """
    import resource, signal, sys, os
    from tests.helpers.tables import ALL, batch_of
    from toolkit.capture.parquet import ParquetSink
"""


def child(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    text = textwrap.dedent(CHILD) + textwrap.dedent(code)
    return subprocess.run(
        # From 3.12 on Python warns where a process with threads forks (PyArrow has some).
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", text],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.parametrize("name", ["x.parquet", ""])
def test_the_end_of_the_interpreter_closes_it_and_a_fork_does_not(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    done = child(
        f"""
        sink = ParquetSink({str(path)!r})
        sink.write(batch_of(ALL))
        sink._writing._flush()
        pid = os.fork()
        if pid == 0:
            sys.exit()  # runs what is registered for the end, in the fork
        os.waitpid(pid, 0)
        sink.write(batch_of(ALL))
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    (only,) = tmp_path.rglob("*.parquet")
    assert read(only).num_rows == 2 * len(ALL)


def test_a_full_disk_leaves_a_readable_file_and_tells_the_loss(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    done = child(
        f"""
        sink = ParquetSink({str(path)!r}, rows_per_group=10_000, compression="none")
        batch = batch_of(ALL * 30)
        try:
            while True:
                sink.write(batch)
        except OSError as full:
            print(type(full).__name__, full.errno, full)
        try:
            sink.write(batch)
        except OSError as again:
            print(again.errno)
        sink.close({{"received": sink.packets, "dropped": 0}})
        print(sink.packets, sink.written)
        """,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000)),
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith(f"SystemCallError {errno.EFBIG}")
    assert "can be read" in first
    assert second == str(errno.EFBIG)
    packets, written = map(int, third.split())
    assert 0 < written < packets
    assert read(path).num_rows == written
    assert int(metadata(path)["received"]) == packets


def test_a_killed_writer_leaves_the_parts_that_were_whole(tmp_path: Path) -> None:
    done = child(
        f"""
        sink = ParquetSink({str(tmp_path)!r}, seconds_per_file=0.0)
        sink.write(batch_of(ALL))
        sink._writing.files._seconds = 1e9
        sink._writing.files._until = 1e99
        sink.write(batch_of(ALL))
        sink._writing._flush()
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert done.returncode == -signal.SIGKILL
    assert [read(path).num_rows for path in tmp_path.rglob("*.parquet")] == [len(ALL)]
