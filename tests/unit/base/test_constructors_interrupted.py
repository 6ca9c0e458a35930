# SPDX-License-Identifier: Apache-2.0
"""KeyboardInterrupt at every line of what opens files, threads and memory: nothing is left, and a retry works."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolkit
from tests.helpers.captures import batch_of, fill, frames
from tests.helpers.interrupts import Interrupt, at_every_line, at_times_of_chance, every_line
from toolkit.capture import Capture
from toolkit.capture.parquet import ParquetSink


@pytest.fixture(autouse=True)
def unclosed_files_are_python_s() -> Iterator[None]:
    """Python says so where an interrupt makes it close a file by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


@pytest.mark.parametrize("name", ["a.pcapng", "a.pcap.gz", "a.parquet", "set/"])
def test_capture(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.rstrip("/")

    def make() -> Capture:
        assert path.is_dir() or not path.exists(), "what is left blocks a retry"
        return Capture(None, f"{tmp_path}/{name}")

    def close(capture: Capture) -> None:
        capture.close()
        if path.is_file():
            path.unlink()

    assert at_every_line(make, close) > 50


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("name", ["a.parquet", "set/"])
def test_parquet_sink(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.rstrip("/")

    def make() -> ParquetSink:
        assert path.is_dir() or not path.exists(), "what is left blocks a retry"
        return ParquetSink(f"{tmp_path}/{name}")

    def close(sink: ParquetSink) -> None:
        sink.close()
        if path.is_file():
            path.unlink()

    assert at_every_line(make, close) > 20


@pytest.mark.needs("pyarrow")
def test_parquet_sink_is_whole_though_its_end_is_interrupted(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    def end(k: int) -> bool:
        path = tmp_path / f"{k}.parquet"
        sink = ParquetSink(path)
        sink.write(batch_of(frames(3)))
        hit = Interrupt(k).run(sink.close)
        sink.close()
        assert pq.ParquetFile(path).metadata.num_rows == 3
        return hit

    assert every_line(end) > 5


@pytest.mark.parametrize("force", [False, True])
def test_capture_at_times_of_chance(tmp_path: Path, force: bool) -> None:
    numbers = itertools.count()
    hits = at_times_of_chance(
        lambda: Capture(None, tmp_path / f"{0 if force else next(numbers)}.pcap", force=force),
        Capture.close,
        tries=400,
    )
    assert hits > 20


def test_umem() -> None:
    assert at_every_line(lambda: toolkit.UMEM(64, 2048), toolkit.UMEM.close) > 10


@pytest.mark.parametrize("suffix", ["pcapng", "pcap.gz", "pcapng.zst"])
def test_read(tmp_path: Path, suffix: str) -> None:
    with Capture(None, tmp_path / f"a.{suffix}") as capture:
        fill(capture, 10)
    assert at_every_line(lambda: toolkit.read(tmp_path / f"a.{suffix}"), lambda recorded: recorded.close()) > 20


def test_read_of_a_pipe_is_interrupted_at_once(tmp_path: Path) -> None:
    """Nobody has written anything yet: who waits for it can be told to stop."""
    read, write = os.pipe()
    former = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt), contextlib.closing(os.fdopen(read, "rb", buffering=0)) as file:
            toolkit.read(file)
    finally:
        signal.signal(signal.SIGALRM, former)
        os.close(write)
