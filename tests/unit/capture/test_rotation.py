# SPDX-License-Identifier: Apache-2.0
"""The files that a capture makes one after the other: when the next begins, and what it is called."""

from __future__ import annotations

import contextlib
import struct
import time
from pathlib import Path

import pytest

from tests.helpers.captures import batch_of, fill, frames, numbers, pcap_of
from toolkit.capture import Capture
from toolkit.capture.rotation import Names, Rotation
from toolkit.errors import ArgumentError, SystemCallError

RECORD = 28 + 60 + 16  # bytes of a packet of 60 bytes in pcapng


def test_the_next_file_begins_when_one_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with Capture(None, path, rotate_bytes=10_000) as capture:
        for first in range(0, 400, 100):
            fill(capture, 100, first)
    files = [path, *(tmp_path / f"a.pcapng{i}" for i in range(1, 5))]
    assert sorted(tmp_path.iterdir()) == sorted(files)[: capture.statistics().files]
    assert [number for one in files[: capture.statistics().files] for number in numbers(one)] == list(range(400))
    for one in files[: capture.statistics().files - 1]:
        # As tcpdump has it: larger by the last packet; and our figures at the end.
        assert 10_000 < one.stat().st_size <= 10_000 + RECORD + 200
    assert capture.statistics().file_bytes == sum(one.stat().st_size for one in tmp_path.iterdir())


def test_a_quiet_capture_does_not_rotate_its_packets_away(tmp_path: Path) -> None:
    """Figures alone make no file larger, and no next one."""
    path = tmp_path / "a.pcapng"
    with Capture(None, path, rotate_bytes=100, rotate_files=2) as capture:  # less than what a file begins with
        fill(capture, 1)
        capture._next_note = 0.0
        capture.tick()
        size = capture.statistics().file_bytes
        for _ in range(20):
            capture._next_note = 0.0
            capture.tick()
        assert capture.statistics().files == 1
        fill(capture, 1, 1)
    assert [numbers(tmp_path / f"a.pcapng{i}") for i in range(2)] == [[0], [1]]
    assert (tmp_path / "a.pcapng0").stat().st_size < size + 500


def test_a_time_that_the_name_does_not_tell_apart_costs_no_packets(tmp_path: Path) -> None:
    with Capture(None, tmp_path / "a-%Y.pcapng", rotate_seconds=0.05) as capture:
        for i in range(4):
            fill(capture, 1, i)
            time.sleep(0.06)
    assert sorted(number for one in tmp_path.iterdir() for number in numbers(one)) == list(range(4))


def test_a_number_of_files_makes_a_ring(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    with Capture(None, path, rotate_bytes=1_000, rotate_files=11) as capture:
        fill(capture, 1000)
    assert sorted(one.name for one in tmp_path.iterdir()) == [f"a.pcap{i:02d}" for i in range(11)]
    kept = [struct.unpack("!I", data[:4])[0] for one in tmp_path.iterdir() for _, _, data in pcap_of(one)]
    assert sorted(kept) == list(range(min(kept), 1000))  # the last ones, without a gap
    assert len(kept) == pytest.approx(11 * 13, abs=14)


def test_rotation_by_time_ends_after_the_last_file(tmp_path: Path) -> None:
    with Capture(None, tmp_path / "%s.pcapng", rotate_seconds=1.1, rotate_files=2) as capture:
        fill(capture, 3)
        deadline = time.monotonic() + 20
        while not capture.finished and time.monotonic() < deadline:
            capture.tick()
            time.sleep(0.02)
        assert capture.finished
        assert capture.write(batch_of(frames(5))) == 0
        assert capture.statistics().unwanted == 5
    files = sorted(tmp_path.iterdir())
    assert [len(numbers(one)) for one in files] == [3, 0]
    assert 1 <= int(files[1].stem) - int(files[0].stem) <= 10


def test_names_are_those_of_tcpdump() -> None:
    def names(path: str, rotation: Rotation, count: int) -> list[str]:
        made = Names(Path(path), rotation)
        return [made.first().name, *(made.by_size().name for _ in range(count))]

    assert names("x", Rotation(size=1), 2) == ["x", "x1", "x2"]
    assert names("x.pcapng", Rotation(size=1, files=2), 3) == ["x.pcapng0", "x.pcapng1", "x.pcapng0", "x.pcapng1"]
    assert names("x.pcap.gz", Rotation(size=1, files=100), 1) == ["x.pcap00.gz", "x.pcap01.gz"]
    assert names("%H.pcap", Rotation(size=1), 1) == ["%H.pcap", "%H.pcap1"]  # a time is put in with -G only
    timed = Names(Path("%Y.pcap"), Rotation(size=1, seconds=5))
    assert [timed.first().name, timed.by_size().name] == [time.strftime("%Y.pcap"), time.strftime("%Y.pcap1")]
    assert timed.by_time() == Path(time.strftime("%Y.pcap2"))  # the year is the same still: nothing is written over
    timed = Names(Path("%s.pcap"), Rotation(size=1, seconds=5))
    assert timed.first() != timed.by_size()
    time.sleep(1.01)
    following = timed.by_time()
    assert following is not None
    assert following.stem.isdecimal()
    assert following.suffix == ".pcap"  # another time: the numbers begin anew


def test_files_after_the_one_that_failed_are_counted_as_lost(tmp_path: Path) -> None:
    """The receiving thread is some files ahead of the one that writes."""
    path, late = tmp_path / "a.pcapng", tmp_path / "a.pcapng3"
    capture = Capture(None, path, rotate_bytes=5_000)
    late.write_bytes(b"somebody else's")
    with contextlib.suppress(SystemCallError):  # it may know by now
        capture.write(batch_of(frames(2000)))  # many files at once
    with pytest.raises(SystemCallError, match="is there already"):
        capture.close()
    figures = capture.statistics()
    files = [path, tmp_path / "a.pcapng1", tmp_path / "a.pcapng2"]
    assert [number for one in files for number in numbers(one)] == list(range(figures.written))
    assert figures.received == 2000 == figures.written + figures.write_dropped
    assert figures.file_bytes == sum(one.stat().st_size for one in files)
    assert late.read_bytes() == b"somebody else's"


@pytest.mark.parametrize("name", ["a-%D.pcapng", "a-%x.pcapng"])
def test_a_time_that_makes_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"which is none.*%Y%m%d"):
        Capture(None, tmp_path / name, rotate_seconds=60)
    assert not list(tmp_path.iterdir())
