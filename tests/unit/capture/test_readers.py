# SPDX-License-Identifier: Apache-2.0
"""Who may read what was captured: its owner, whatever the umask, and who was named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.captures import batch_of, fill, frames
from toolkit.capture import Capture
from toolkit.errors import ArgumentError

NAMES = ["a.pcapng", "a.pcap", "a.pcapng.zst", "a.pcap.gz", "a.parquet", "set/", "set.parquet/"]
GROUP = 65534


@pytest.fixture(params=[0, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the caller's shell takes away."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def captured(tmp_path: Path, name: str, **options: Any) -> list[os.stat_result]:
    """Write some packets; what was made for them."""
    with Capture(None, f"{tmp_path}/{name}", **options) as capture:
        for turn in range(5):
            fill(capture, 20, first=turn * 20)
    return [path.stat() for path in tmp_path.rglob("*")]


def bits(status: os.stat_result) -> int:
    """The permissions."""
    return stat.S_IMODE(status.st_mode)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_owner_reads_whatever_the_umask(tmp_path: Path, umask: None, name: str) -> None:
    found = captured(tmp_path, name)
    assert {bits(one) for one in found if stat.S_ISREG(one.st_mode)} == {0o600}
    directories = [bits(one) for one in found if stat.S_ISDIR(one.st_mode)]
    assert directories == ([0o700] * 3 if name.endswith("/") else [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mode", "expected", "directory"), [(None, 0o640, 0o750), (0o664, 0o664, 0o775)])
@pytest.mark.needs_root("chown")
def test_a_group_reads_where_one_was_named(
    tmp_path: Path, umask: None, name: str, mode: int | None, expected: int, directory: int
) -> None:
    found = captured(tmp_path, name, mode=mode, group=GROUP)
    assert {one.st_gid for one in found} == {GROUP}
    assert {bits(one) for one in found if stat.S_ISREG(one.st_mode)} == {expected}
    assert {bits(one) for one in found if stat.S_ISDIR(one.st_mode)} <= {directory}


@pytest.mark.parametrize("options", [{"rotate_bytes": 2000}, {"rotate_bytes": 2000, "rotate_files": 2}])
def test_so_are_all_files_of_a_rotation(tmp_path: Path, umask: None, options: dict[str, int]) -> None:
    found = captured(tmp_path, "a.pcap", mode=0o644, **options)
    assert len(found) > 1
    assert {bits(one) for one in found} == {0o644}


def test_a_file_that_was_there_with_more_rights_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(b"")
    path.chmod(0o666)
    reader = os.open(path, os.O_RDONLY)  # of somebody who waits
    assert [bits(one) for one in captured(tmp_path, "a.pcap", force=True)] == [0o600]
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_directories_that_were_there_stay_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set").chmod(0o755)
    captured(tmp_path, "set/")
    assert bits((tmp_path / "set").stat()) == 0o755


def test_what_makes_no_sense_is_refused_before_there_is_a_file(tmp_path: Path) -> None:
    for options in ({"mode": 640}, {"mode": 0o755}, {"group": "no-such-group"}):
        with pytest.raises(ArgumentError):
            Capture(None, tmp_path / "a.pcap", **options)
    assert not list(tmp_path.iterdir())


# --- a slash at the end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["/", "//", "/."])
def test_a_slash_at_the_end_means_a_dataset(tmp_path: Path, end: str) -> None:
    with Capture(None, f"{tmp_path}/ds{end}") as capture:
        assert capture.format == "parquet"
        capture.write(batch_of(frames(3)))
    parts = list((tmp_path / "ds").rglob("*.parquet"))
    assert len(parts) == 1
    assert parts[0].parent.name.startswith("hour=")


@pytest.mark.parametrize(
    ("name", "options"),
    [("ds/", {"format": "pcap"}), ("ds/", {"format": "pcapng"}), ("x.pcap/", {}), ("ds/", {"compress": "gzip"})],
)
def test_a_directory_is_no_place_for_what_is_one_file(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="directory"):
        Capture(None, f"{tmp_path}/{name}", **options)
    assert not list(tmp_path.iterdir())
