# SPDX-License-Identifier: Apache-2.0
"""Files of a capture: what exists already, compression, and its end. Whatever happens, what is there can be read."""

from __future__ import annotations

import errno
import gzip
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.helpers.captures import batch_of, fill, frames, numbers, packets_of
from tests.helpers.forks import in_child
from toolkit.capture import Capture, Queueing
from toolkit.errors import ArgumentError, ClosedError, PrivilegeError, SystemCallError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rotate_files": 3}, "without a size or a time"),
        ({"rotate_seconds": 3}, "holds no time"),
        ({"rotate_bytes": 0}, "from 1 on"),
        ({"compress": "lz4"}, '"gzip" or "zstd"'),
        ({"rotate_bytes": "many"}, "whole number"),
        ({"rotate_seconds": float("nan")}, "number of seconds"),
        ({"snaplen": 1.5}, "whole number"),
        ({"snaplen": 1 << 40}, "from 1 to"),
        ({"format": "text"}, '"pcapng", "pcap" or'),
        ({"format": "parquet", "compress": "gzip"}, "compresses by itself"),
        ({"queueing": Queueing(limit=0)}, "1,048,576"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ArgumentError, match=expected):
        Capture(None, tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.csv", "x.JSON.gz"])
def test_a_name_that_asks_for_another_kind_of_table_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"not as \.(csv|json).*x\.parquet"):
        Capture(None, tmp_path / name)
    assert not list(tmp_path.iterdir())
    Capture(None, tmp_path / name, format="pcapng").close()  # who insists


# --- what exists already ----------------------------------------------------------------------------------------------


def test_a_file_that_exists_is_written_over_with_force_only(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(b"x" * 100_000)
    with pytest.raises(SystemCallError, match=r"is there already.*`force=True`") as refused:
        Capture(None, path)
    assert refused.value.errno == errno.EEXIST
    assert path.stat().st_size == 100_000
    with Capture(None, path, force=True) as capture:
        fill(capture, 2)
    assert numbers(path) == [0, 1]


def test_a_rotation_does_not_come_upon_a_foreign_file_later(tmp_path: Path) -> None:
    (tmp_path / "a.pcap7").write_bytes(b"precious")
    (tmp_path / "a.pcapng").write_bytes(b"another name")
    for options in ({}, {"rotate_files": 9}):
        with pytest.raises(SystemCallError, match=r"a\.pcap7"):
            Capture(None, tmp_path / "a.pcap", rotate_bytes=1000, **options)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.pcap7", "a.pcapng"]


def test_an_unwritable_place_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SystemCallError, match="directory does not exist"):
        Capture(None, tmp_path / "no" / "a.pcapng")
    with pytest.raises(SystemCallError, match="is a directory"):
        Capture(None, tmp_path)
    with pytest.raises(SystemCallError) as refused:
        Capture(None, "/proc/a.pcapng")
    assert isinstance(refused.value, PrivilegeError | SystemCallError)


# --- compression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "command"),
    [("gz", ["gzip", "-dc"]), pytest.param("zst", ["zstd", "-dc"], marks=pytest.mark.needs("zstd", "zstandard"))],
)
def test_a_compressed_capture_decompresses_to_a_capture(tmp_path: Path, suffix: str, command: list[str]) -> None:
    path = tmp_path / f"a.pcapng.{suffix}"
    with Capture(None, path) as capture:
        for first in range(0, 40_000, 1000):
            fill(capture, 1000, first)
    data = subprocess.run([*command, path], capture_output=True, check=True).stdout
    assert len(packets_of(data)) == 40_000
    assert len(data) > 4 * path.stat().st_size == 4 * capture.statistics().file_bytes


def test_a_compressed_capture_can_be_read_while_it_grows(tmp_path: Path) -> None:
    """So it can after kill -9: what is there is whole members."""
    path = tmp_path / "a.pcapng.gz"
    with Capture(None, path) as capture:
        fill(capture, 10)
        deadline = time.monotonic() + 10
        while len(packets_of(gzip.decompress(path.read_bytes()))) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_interrupts_upset_no_balance(tmp_path: Path) -> None:
    """Ctrl-C as in a notebook, at any moment of write() and close(): what is counted as written is in the file."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    batch, interrupted = batch_of(frames(1000, 600)), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(40):
            path, whole = tmp_path / f"{turn}.pcapng", 0
            capture = Capture(None, path, queueing=Queueing(limit=1 << 20, timeout=0.001))
            signal.setitimer(signal.ITIMER_REAL, 0.001 + turn * 0.0003)
            try:
                with capture:
                    for _ in range(50):  # no more: where an interrupt is lost, the disk must not fill up
                        capture.write(batch)
                        whole += 1
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            figures = capture.statistics()
            assert figures.received - 1000 * whole in (0, 1000)
            assert figures.received == figures.written + figures.write_dropped
            assert len(packets_of(path)) == figures.written
            path.unlink()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 20


def test_after_close_nothing_is_taken(tmp_path: Path) -> None:
    with Capture(None, tmp_path / "a.pcapng") as capture:
        fill(capture, 1)
    capture.close()
    with pytest.raises(ClosedError):
        fill(capture, 1)
    assert capture.statistics().written == 1
    assert "closed" in repr(capture)


def test_a_forgotten_capture_is_complete(tmp_path: Path) -> None:
    code = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.helpers.captures import batch_of, frames
    from toolkit.capture import Capture
    capture = Capture(None, {str(tmp_path / "a.pcapng")!r})
    capture.write(batch_of(frames(5)))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
    assert numbers(tmp_path / "a.pcapng") == list(range(5))


def test_a_forked_child_leaves_the_capture_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    capture = Capture(None, path)
    fill(capture, 1)

    def work() -> None:
        with pytest.raises(ClosedError):
            fill(capture, 1)
        capture.close()

    assert in_child(work) == 0
    fill(capture, 1, 1)
    capture.close()
    assert numbers(path) == [0, 1]


def test_killed_in_the_middle_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    code = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.helpers.captures import batch_of, frames
    from toolkit.capture import Capture
    capture = Capture(None, {str(path)!r})
    batch = batch_of(frames(2000, 1400))
    for _ in range(500):
        capture.write(batch)
        print("another", flush=True)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(20):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    import toolkit

    with toolkit.read(path) as recorded:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a cut end, which may be
            assert sum(len(batch) for batch in recorded) > 0
