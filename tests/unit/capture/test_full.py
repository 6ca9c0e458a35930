# SPDX-License-Identifier: Apache-2.0
"""A capture without room: what was written is whole, and what was not is counted."""

from __future__ import annotations

import errno
import gzip
import resource
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.captures import blocks_of, fill, packets_of, pcap_of, until_it_fails
from toolkit._base.access import Access
from toolkit.capture import Capture
from toolkit.capture.compression import compressor
from toolkit.capture.handler import Files
from toolkit.capture.pcapng import PcapngWriter
from toolkit.capture.records import About
from toolkit.capture.writer import Item, UnwrittenError
from toolkit.errors import SystemCallError


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file of this process may become larger than this."""
    limit = 100_001
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["a.pcapng", "a.pcap", "a.pcapng.gz"])
def test_a_full_disk_leaves_a_file_that_is_whole_and_says_what_is_missing(
    tmp_path: Path, small_files: int, name: str
) -> None:
    path = tmp_path / name
    capture = Capture(None, path)
    failure = until_it_fails(capture)
    assert failure.errno == errno.EFBIG
    assert "as large as it may be" in str(failure)
    with pytest.raises(SystemCallError):
        capture.close()
    reported = capture.statistics()
    assert path.stat().st_size <= small_files
    data = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    kept = len(pcap_of(path)) if name.endswith("pcap") else len(packets_of(data))
    assert kept == reported.written > 0
    assert reported.received == reported.written + reported.write_dropped
    if name == "a.pcapng":
        last = blocks_of(data)[-1]
        assert last.kind == 5
        assert struct.pack("=HHQ", 8, 8, kept) in last.body  # isb_usrdeliv
        assert struct.pack("=HHQ", 5, 8, reported.write_dropped) in last.body  # isb_ifdrop


def test_packets_of_a_full_disk_are_counted_to_the_last(tmp_path: Path, small_files: int) -> None:
    capture = Capture(None, tmp_path / "a.pcapng")
    until_it_fails(capture)
    before = capture.statistics()
    with pytest.raises(SystemCallError):
        fill(capture, 7)
    assert capture.statistics().write_dropped == before.write_dropped + 7
    with pytest.raises(SystemCallError):
        capture.close()


def test_a_file_whose_beginning_finds_no_room_is_not_left_behind(tmp_path: Path) -> None:
    code = f"""
    import resource, signal, sys
    from toolkit.capture import Capture
    from toolkit.errors import SystemCallError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
    try:
        Capture(None, {str(tmp_path / "a.pcapng")!r})
    except SystemCallError:
        sys.exit(0)
    sys.exit(1)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
    assert not list(tmp_path.iterdir())


def test_of_compressed_pieces_those_behind_the_one_that_failed_are_lost_too(tmp_path: Path, small_files: int) -> None:
    """Many pieces in one go, as when a disk was late: each is written or counted."""
    path = tmp_path / "a.pcapng.gz"
    files = Files(path, PcapngWriter(About()), compressor("gzip"), Access())
    piece = np.random.default_rng(1).integers(0, 256, 600_000, dtype=np.uint8)  # nothing to compress
    items = [Item(piece, piece.size, 100) for _ in range(20)]
    with pytest.raises(UnwrittenError) as failed:
        files.take(items)
    assert failed.value.lost == 2000
    files.abandon()


@pytest.mark.parametrize("name", ["a.pcapng", "a.pcap.gz", "a.parquet"])
def test_a_file_that_was_removed_while_it_was_written_is_reported(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    capture = Capture(None, path)
    fill(capture, 10)
    path.unlink()
    with pytest.raises(SystemCallError, match=f"{name} was lost: .*ENOENT.*removed it") as refused:
        capture.close()
    assert refused.value.errno == errno.ENOENT
    assert not path.exists()


def test_a_file_that_was_removed_does_not_end_a_rotation(tmp_path: Path) -> None:
    capture = Capture(None, tmp_path / "a.pcapng", rotate_bytes=1000)
    fill(capture, 2)
    (tmp_path / "a.pcapng").unlink()
    fill(capture, 200, first=2)
    with pytest.raises(SystemCallError, match=r"a\.pcapng\S* was lost"):
        capture.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    assert all(packets_of(file.read_bytes()) for file in files)
