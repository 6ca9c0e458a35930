# SPDX-License-Identifier: Apache-2.0
"""Files written by root in directories of others: nothing outside is touched, whatever a name means by then."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import toolkit
from tests.helpers import ROOT
from tests.helpers.captures import batch_of, fill, frames, numbers
from toolkit._base.access import Access, access_of
from toolkit._base.careful import Folder, own_descriptor, replace_text
from toolkit.capture import Capture
from toolkit.errors import ArgumentError, SystemCallError

pytestmark = pytest.mark.timing("it counts what a race yields, and that depends on who runs when")

NOBODY = 65534
NAMES = ["a.pcapng", "a.pcap", "a.pcapng.gz", "a.parquet"]


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A file that nobody may touch."""
    path = tmp_path / "precious"
    path.write_bytes(b"do not touch\n")
    path.chmod(0o600)
    before = path.stat()
    yield path
    after = path.stat()
    assert path.read_bytes() == b"do not touch\n"
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of somebody else's."""
    path = tmp_path / "theirs"
    path.mkdir()
    os.chown(path, NOBODY, -1)
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("force", [False, True])
def test_a_symbolic_link_is_never_written_through(tmp_path: Path, precious: Path, name: str, force: bool) -> None:
    (tmp_path / name).symlink_to(precious)
    with pytest.raises(SystemCallError, match=r"symbolic link.*name the place") as refused:
        Capture(None, tmp_path / name, force=force)
    assert refused.value.errno == errno.ELOOP
    assert (tmp_path / name).is_symlink()


@pytest.mark.parametrize("name", NAMES)
def test_force_replaces_a_file_and_leaves_what_else_refers_to_it(tmp_path: Path, precious: Path, name: str) -> None:
    os.link(precious, tmp_path / name)
    links = len(list(tmp_path.iterdir()))
    with Capture(None, tmp_path / name, force=True) as capture:
        fill(capture, 3)
    assert (tmp_path / name).stat().st_ino != precious.stat().st_ino
    assert len(list(tmp_path.iterdir())) == links  # no draft is left


@pytest.mark.parametrize("kind", ["symlink", "other file", "hard link"])
def test_a_rotation_replaces_only_what_the_capture_made(tmp_path: Path, precious: Path, kind: str) -> None:
    base = tmp_path / "ring.pcap"
    first = tmp_path / "ring.pcap0"
    capture = Capture(None, base, rotate_bytes=1000, rotate_files=2)
    fill(capture, 2)
    while not first.exists():
        time.sleep(0.001)
    first.unlink()
    if kind == "symlink":
        first.symlink_to(precious)
    elif kind == "hard link":
        os.link(precious, first)
    else:
        first.write_bytes(b"theirs")
    with contextlib.suppress(SystemCallError):
        for turn in range(200):
            fill(capture, 20, first=turn * 20)
    with pytest.raises(SystemCallError, match=r"ring\.pcap0") as refused:
        capture.close()
    assert refused.value.errno in (errno.ELOOP, errno.EEXIST)
    if kind == "other file":
        assert first.read_bytes() == b"theirs"


def test_a_ring_goes_on_over_its_own_files_and_over_missing_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "ring.pcapng0", tmp_path / "ring.pcapng1"
    with Capture(None, tmp_path / "ring.pcapng", rotate_bytes=2000, rotate_files=3) as capture:
        fill(capture, 25)
        while not second.exists():
            time.sleep(0.001)
        first.unlink()  # complete, and somebody fetched it
        last, deadline = 24, time.monotonic() + 20
        while capture.statistics().files <= 20 and time.monotonic() < deadline:
            fill(capture, 10, first=last + 1)
            last += 10
        made = capture.statistics()
    assert made.files > 20
    assert made.lost == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ring.pcapng0", "ring.pcapng1", "ring.pcapng2"]
    kept = sorted(number for path in tmp_path.iterdir() for number in numbers(path))
    assert kept[-1] == last


def test_a_rotation_stays_in_the_directory_that_was_opened(tmp_path: Path) -> None:
    place, moved, other = tmp_path / "place", tmp_path / "moved", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    with Capture(None, place / "x.pcap", rotate_bytes=1000) as capture:
        fill(capture, 2)
        place.rename(moved)
        place.symlink_to(other)
        fill(capture, 200)
    assert not list(other.iterdir())
    assert len(list(moved.iterdir())) > 2


def exchanging(first: Callable[[], None], second: Callable[[], None]) -> tuple[threading.Event, threading.Thread]:
    """A thread that does one and the other in turn until the event."""
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            first()
            second()

    thread = threading.Thread(target=run)
    thread.start()
    return end, thread


@pytest.mark.parametrize("force", [False, True])
def test_a_fifo_exchanged_for_a_link_and_back_is_no_way_to_a_file(tmp_path: Path, precious: Path, force: bool) -> None:
    """The name changes all the time between the look and the open."""
    name, fifo, link = tmp_path / "x.pcap", tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def put(what: Path) -> None:
        draft = tmp_path / "draft"
        if what is fifo:
            os.link(fifo, draft)
        else:
            draft.symlink_to(precious)
        os.replace(draft, name)

    put(link)
    end, thread = exchanging(lambda: put(fifo), lambda: put(link))
    came, refused = 0, 0
    try:
        for _ in range(1500):
            try:
                with Capture(None, name, format="pcap", force=force):
                    came += 1
            except SystemCallError:
                refused += 1
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 1 << 16)
    finally:
        end.set()
        thread.join()
        os.close(reader)
    assert came
    assert refused


def test_a_block_device_is_refused_and_so_is_a_link_to_one(tmp_path: Path) -> None:
    device = tmp_path / "disk"
    try:
        os.mknod(device, 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    except PermissionError as refused:  # without root, and in many containers with it
        pytest.skip(f"no block devices can be made here: {refused}")
    with pytest.raises(SystemCallError, match="block device"):
        Capture(None, device, force=True)
    (tmp_path / "link").symlink_to(device)
    with pytest.raises(SystemCallError, match="symbolic link"):
        Capture(None, tmp_path / "link", force=True)


@pytest.mark.needs_root("chown")
def test_anothers_fifo_gets_no_packets_and_our_own_does(tmp_path: Path, theirs: Path) -> None:
    os.mkfifo(theirs / "x.pcap", 0o666)
    reader = os.open(theirs / "x.pcap", os.O_RDONLY | os.O_NONBLOCK)
    os.chown(theirs / "x.pcap", NOBODY, -1)
    with pytest.raises(SystemCallError, match=f"FIFO of user {NOBODY}"):
        Capture(None, theirs / "x.pcap")
    os.chown(theirs / "x.pcap", 0, -1)
    with Capture(None, theirs / "x.pcap") as capture:
        fill(capture, 1)
    assert len(os.read(reader, 1 << 16)) == 24 + 16 + 60
    os.close(reader)


@pytest.mark.needs_root("chown")
@pytest.mark.parametrize("name", ["x.pcap", "x.parquet", "set/"])
def test_a_path_through_anothers_link_is_refused(
    tmp_path: Path, theirs: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (theirs / "way").symlink_to(inside)
    os.lchown(theirs / "way", NOBODY, -1)
    with pytest.raises(SystemCallError, match=f"way in it is a symbolic link of user {NOBODY}'s|user {NOBODY}") as no:
        Capture(None, f"{theirs}/way/{name}")
    assert no.value.errno == errno.ELOOP
    assert not list(inside.iterdir())
    monkeypatch.setenv("SUDO_UID", str(NOBODY))  # who became root by sudo may lead us where they like
    Capture(None, f"{theirs}/way/{name}").close()
    assert list(inside.iterdir())


def test_our_own_links_on_the_way_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "absolute").symlink_to(tmp_path / "a")
    (tmp_path / "relative").symlink_to("./absolute/../a")
    (tmp_path / "round").symlink_to("round")
    monkeypatch.chdir(tmp_path)
    for place in (f"{tmp_path}/relative/b", "absolute/b", "relative/b/../b", f"/proc/self/root{tmp_path}/a/b"):
        Capture(None, f"{place}/x.pcap", force=True).close()
        assert (tmp_path / "a" / "b" / "x.pcap").exists()
        (tmp_path / "a" / "b" / "x.pcap").unlink()
    with pytest.raises(SystemCallError, match="ELOOP"):
        Capture(None, "round/x.pcap")


def test_a_dataset_goes_through_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "date=2023-11-14").symlink_to(outside)
    capture = Capture(None, f"{tmp_path}/set/")
    capture.write(batch_of(frames(3)))
    with pytest.raises(SystemCallError, match=r"date=2023-11-14.*symbolic link") as refused:
        capture.close()
    assert refused.value.errno == errno.ELOOP
    assert not list(outside.iterdir())


def test_what_is_removed_after_a_failure_is_our_own_file(tmp_path: Path, precious: Path) -> None:
    with Folder(tmp_path) as folder:
        fd = folder.create("x", Access())
        (tmp_path / "x").unlink()
        os.link(precious, tmp_path / "x")
        folder.remove("x", fd)
        assert (tmp_path / "x").exists()
        assert not folder.rename("x", "y", fd)
        os.close(fd)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("where", ["pipe", "file"])
def test_descriptors_that_are_open_already_have_names(tmp_path: Path, name: str, where: str) -> None:
    code = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.helpers.captures import fill
    from toolkit.capture import Capture
    with Capture(None, {name!r}, format="pcap") as capture:
        fill(capture, 2)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    if where == "pipe":
        data = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    else:
        with open(tmp_path / "out", "wb") as out:
            subprocess.run(command, stdout=out, check=True, timeout=60)
        data = (tmp_path / "out").read_bytes()
    assert len(data) == 24 + 2 * (16 + 60)
    assert own_descriptor("/dev/null") is None


def test_what_is_no_file_takes_packets(tmp_path: Path) -> None:
    with Capture(None, "/dev/null", format="pcap") as capture:
        fill(capture, 5)
        assert capture.statistics().written == 5
    with pytest.raises(SystemCallError, match="ENOSPC"):
        Capture(None, "/dev/full", format="pcap")


def test_text_is_replaced_whole_or_not_at_all(tmp_path: Path, precious: Path) -> None:
    os.link(precious, tmp_path / "note")
    replace_text(tmp_path / "note", "new", Access(0o644))
    assert (tmp_path / "note").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "note").stat().st_mode) == 0o644
    (tmp_path / "link").symlink_to(precious)
    with pytest.raises(SystemCallError, match="symbolic link"):
        replace_text(tmp_path / "link", "new", Access())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "note", "precious"]


def test_groups_and_modes_that_make_no_sense_are_refused() -> None:
    for mode in (640, 0, 0o700, 0o066, -1, True):
        with pytest.raises(ArgumentError, match="mode cannot be"):
            access_of(mode, None)
    for group in ("no-such-group", -1, 1 << 32, "", 1.5):
        with pytest.raises(ArgumentError, match=r"group|whole number"):
            access_of(None, group)
    assert access_of(0o644, "root") == Access(0o644, 0)
    assert access_of(None, "0").bits == 0o640


def test_no_other_module_makes_or_removes_files_by_name() -> None:
    """But for the cache of programs, which holds its own directory, and those of root in /run and the BPF one."""
    words = ("O_CREAT", "write_text(", "write_bytes(", "mkdir(", "unlink(", "os.replace(", "os.rename(", "makedirs(")
    root = Path(toolkit.__file__).parent
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if any(
            word in path.read_text(encoding="utf-8").replace("formatter.write_text(", "") for word in words
        )  # of click
    }
    assert found == {"_base/cache.py", "_base/careful.py", "_base/records.py", "program/pins.py"}
