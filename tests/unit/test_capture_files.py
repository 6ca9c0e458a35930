# SPDX-License-Identifier: Apache-2.0
"""Files of a capture: rotation, compression, and bad days. Whatever happens, what is there can be read."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_support import batch_of, blocks_of, frames, packets_of, pcap_of

from toolkit.batch import Batch
from toolkit.capture import Capture, Queueing
from toolkit.capture.naming import Names, Rotation
from toolkit.capture.output import Output
from toolkit.errors import ArgumentError, ClosedError, PrivilegeError, SystemCallError, ToolkitError

RECORD = 28 + 60 + 16  # bytes of a packet of 60 bytes in pcapng


def numbers(path: Path) -> list[int]:
    return [struct.unpack("!I", data[:4])[0] for _, _, data in packets_of(path)]


def fill(capture: Capture, count: int, first: int = 0) -> None:
    capture.write(batch_of(frames(count, first=first)))


# --- rotation ---------------------------------------------------------------------------------------------------------


def test_the_next_file_begins_when_one_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with Capture(None, path, rotate_bytes=10_000) as capture:
        for first in range(0, 400, 100):
            fill(capture, 100, first)
    files = [path, *(tmp_path / f"a.pcapng{i}" for i in range(1, 5))]
    assert sorted(tmp_path.iterdir()) == sorted(files)[: capture.statistics.files]
    assert [number for one in files[: capture.statistics.files] for number in numbers(one)] == list(range(400))
    for one in files[: capture.statistics.files - 1]:
        # As tcpdump has it: larger by the last packet; and our figures at the end.
        assert 10_000 < one.stat().st_size <= 10_000 + RECORD + 200
    assert capture.statistics.file_bytes == sum(one.stat().st_size for one in tmp_path.iterdir())


def test_a_quiet_capture_does_not_rotate_its_packets_away(tmp_path: Path) -> None:
    """Figures alone make no file larger, and no next one."""
    path = tmp_path / "a.pcapng"
    with Capture(None, path, rotate_bytes=100, rotate_files=2) as capture:  # less than what a file begins with
        fill(capture, 1)
        capture._next_note = 0.0
        capture.tick()
        size = capture.statistics.file_bytes
        for _ in range(20):
            capture._next_note = 0.0
            capture.tick()
        assert capture.statistics.files == 1
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
        assert capture.statistics.unwanted == 5
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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rotate_files": 3}, "without a size or a time"),
        ({"rotate_seconds": 3}, "holds no time"),
        ({"rotate_bytes": 0}, "more than 0"),
        ({"compress": "lz4"}, "'gzip' or 'zstd'"),
        ({"rotate_bytes": "many"}, "whole number"),
        ({"rotate_seconds": float("nan")}, "more than 0"),
        ({"snaplen": 1.5}, "whole number"),
        ({"snaplen": 1 << 40}, "from 1 to"),
        ({"format": "text"}, "one of pcapng"),
        ({"format": "parquet", "compress": "gzip"}, "compresses by itself"),
        ({"queueing": Queueing(limit=0)}, "at least"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ArgumentError, match=expected):
        Capture(None, tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


# --- what exists already ----------------------------------------------------------------------------------------------


def test_a_file_that_exists_is_written_over_with_force_only(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(b"x" * 100_000)
    with pytest.raises(SystemCallError, match=r"is there already.*--force") as refused:
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


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
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
    assert len(data) > 4 * path.stat().st_size == 4 * capture.statistics.file_bytes


def test_a_compressed_capture_can_be_read_while_it_grows(tmp_path: Path) -> None:
    """So it can after kill -9: what is there is whole members."""
    path = tmp_path / "a.pcapng.gz"
    with Capture(None, path) as capture:
        fill(capture, 10)
        deadline = time.monotonic() + 10
        while len(packets_of(gzip.decompress(path.read_bytes()))) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# --- bad days ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file of this process may become larger than this."""
    limit = 100_001
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def until_it_fails(capture: Capture, count: int = 100) -> SystemCallError:
    for i in range(100_000):
        try:
            fill(capture, count, i * count)
        except SystemCallError as failure:
            return failure
        time.sleep(0.001)
    raise AssertionError("it did not fail")


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
    told = capture.statistics
    assert path.stat().st_size <= small_files
    data = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    kept = len(pcap_of(path)) if name.endswith("pcap") else len(packets_of(data))
    assert kept == told.written > 0
    assert told.received == told.written + told.write_dropped
    if name == "a.pcapng":
        last = blocks_of(data)[-1]
        assert last.kind == 5
        assert struct.pack("=HHQ", 8, 8, kept) in last.body  # isb_usrdeliv
        assert struct.pack("=HHQ", 5, 8, told.write_dropped) in last.body  # isb_ifdrop


def test_packets_of_a_full_disk_are_counted_to_the_last(tmp_path: Path, small_files: int) -> None:
    capture = Capture(None, tmp_path / "a.pcapng")
    until_it_fails(capture)
    before = capture.statistics
    with pytest.raises(SystemCallError):
        fill(capture, 7)
    assert capture.statistics.write_dropped == before.write_dropped + 7
    with pytest.raises(SystemCallError):
        capture.close()


def test_files_after_the_one_that_failed_are_counted_as_lost(tmp_path: Path) -> None:
    """The receiving thread is some files ahead of the one that writes."""
    path, late = tmp_path / "a.pcapng", tmp_path / "a.pcapng3"
    capture = Capture(None, path, rotate_bytes=5_000)
    late.write_bytes(b"somebody else's")
    with contextlib.suppress(SystemCallError):  # it may know by now
        capture.write(batch_of(frames(2000)))  # many files at once
    with pytest.raises(SystemCallError, match="is there already"):
        capture.close()
    figures = capture.statistics
    files = [path, tmp_path / "a.pcapng1", tmp_path / "a.pcapng2"]
    assert [number for one in files for number in numbers(one)] == list(range(figures.written))
    assert figures.received == 2000 == figures.written + figures.write_dropped
    assert figures.file_bytes == sum(one.stat().st_size for one in files)
    assert late.read_bytes() == b"somebody else's"


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


def test_a_pipe_whose_reader_has_gone_is_told(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    capture = Capture(None, fifo)
    os.close(reader)
    failure = until_it_fails(capture)
    assert failure.errno == errno.EPIPE
    assert "read the pipe has ended" in str(failure)
    with pytest.raises(SystemCallError):
        capture.close()


def test_who_reads_a_pipe_sees_packets_as_they_come(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with Capture(None, fifo) as capture:
        data = os.read(reader, 65536)
        assert len(blocks_of(data)) == 2  # what it is, before the first packet
        for i in range(3):
            fill(capture, 1, i)
            assert len(packets_of(os.read(reader, 65536))) == 1  # without anything else that pushes
    os.close(reader)


def test_a_reader_that_sleeps_costs_packets_and_no_time(tmp_path: Path) -> None:
    """The rings do not wait for it; close() gives up on it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    capture = Capture(None, fifo, queueing=Queueing(limit=1 << 20, patience=0.001, stalled=0.3))
    batch = batch_of(frames(1000))
    slowest = 0.0
    for _ in range(50):
        began = time.monotonic()
        capture.write(batch)
        slowest = max(slowest, time.monotonic() - began)
    told = capture.statistics
    assert told.write_dropped >= 30_000
    assert told.received == 50_000 == told.written + told.write_dropped
    assert slowest < 1.0
    with pytest.raises(ToolkitError, match=r"nothing moved|read the pipe"):
        capture.close()
    assert capture.statistics.written < told.written  # what waited was given up, and is not called written
    assert capture.statistics.write_dropped == 50_000 - capture.statistics.written
    os.close(reader)  # the thread that was left behind ends of that
    deadline = time.monotonic() + 5
    while any(one.name == "toolkit-capture" for one in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_reader_that_is_slow_gets_everything(tmp_path: Path) -> None:
    """However long it takes in all: something moves. And the pipe may not block by itself, as some parents leave it."""
    reader, writer = os.pipe()
    read: list[bytes] = []

    def drain() -> None:
        while data := os.read(reader, 1 << 16):
            read.append(data)
            time.sleep(0.02)

    thread = threading.Thread(target=drain)
    thread.start()
    os.set_blocking(writer, False)
    saved = os.dup(1)
    os.dup2(writer, 1)
    try:
        capture = Capture(None, "-", queueing=Queueing(stalled=0.8))
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(writer)
    assert capture.write(batch_of(frames(6000, 1400))) == 6000  # some 130 reads
    capture.close()
    thread.join(20)
    os.close(reader)
    assert len(packets_of(b"".join(read))) == capture.statistics.written == 6000


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SystemCallError, match="nobody reads this pipe"):
        Capture(None, tmp_path / "fifo")


def test_interrupts_upset_no_balance(tmp_path: Path) -> None:
    """Ctrl-C as in a notebook, at any moment of write() and close(): what is counted as written is in the file."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    batch, interrupted = batch_of(frames(1000, 600)), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(40):
            path, whole = tmp_path / f"{turn}.pcapng", 0
            capture = Capture(None, path, queueing=Queueing(limit=1 << 20, patience=0.001))
            signal.setitimer(signal.ITIMER_REAL, 0.001 + turn * 0.0003)
            try:
                with capture:
                    for _ in range(50):  # no more: where an interrupt is lost, the disk must not fill up
                        capture.write(batch)
                        whole += 1
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            figures = capture.statistics
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
    assert capture.statistics.written == 1
    assert "closed" in repr(capture)


def test_a_forgotten_capture_is_complete(tmp_path: Path) -> None:
    code = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from capture_support import batch_of, frames
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
    child = os.fork()
    if not child:
        status = 1
        try:
            fill(capture, 1)
        except ClosedError:
            status = 0
        capture.close()
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    fill(capture, 1, 1)
    capture.close()
    assert numbers(path) == [0, 1]


def test_killed_in_the_middle_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    code = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from capture_support import batch_of, frames
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


# --- past the page cache ----------------------------------------------------------------------------------------------


def test_large_pieces_are_the_same_bytes_whichever_way_they_take(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    memory = random.integers(0, 256, 4 << 20, dtype=np.uint8)
    path = tmp_path / "a.pcap"
    expected: list[bytes] = []
    with Capture(None, path, queueing=Queueing(limit=16 << 20, patience=30.0)) as capture:
        for turn in range(60):
            count = int(random.integers(1, 4000))
            lengths = random.integers(1, 1500, count) if turn % 2 else np.full(count, random.integers(1, 1500))
            descs = np.empty((count, 2), dtype=np.uint64)
            descs[:, 0], descs[:, 1] = random.integers(0, memory.size - 1500, count), lengths
            assert capture.write(Batch(None, descs, memory=memory, utc_ns=np.full(count, turn))) == count
            expected += [memory[at : at + size].tobytes() for at, size in descs.astype(np.int64).tolist()]
    found = pcap_of(path)
    assert [data for _, _, data in found] == expected


def test_what_lies_in_memory_as_in_the_file_goes_to_the_disk_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file system can; else the page cache takes it, and nobody notices."""
    import mmap

    from toolkit.capture import direct

    ways: list[bool] = []
    choose = direct.Direct._choose

    def note(self: direct.Direct) -> bool:
        ways.append(choose(self))
        return ways[-1]

    monkeypatch.setattr(direct.Direct, "_choose", note)
    memory = np.frombuffer(mmap.mmap(-1, 8 << 20), dtype=np.uint8)
    memory[:] = np.arange(memory.size, dtype=np.uint32).view(np.uint8)[: memory.size]
    output = Output(tmp_path / "x")
    output.write([b"12345"])
    at = 5
    for size in (3 << 20, 1 << 20, (1 << 20) + 7):
        output.write([memory[at : at + 1000], memory[at + 1000 : at + size]])  # joined, they are one
        at += size
    output.close()
    assert (tmp_path / "x").read_bytes() == b"12345" + memory[5:at].tobytes()
    assert len(ways) == 3


def test_the_slower_way_to_the_disk_is_tried_more_and_more_rarely(tmp_path: Path) -> None:
    from toolkit.capture import direct

    with open(tmp_path / "x", "wb") as file:
        ways = direct.Direct(file.fileno())
        ways._cost = [1.0, 0.1]  # through the page cache, past it
        if ways._choose() is False:
            pytest.skip("this file system knows no O_DIRECT")
        tries = [at for at in range(50_000) if not ways._choose()]
        assert 10 <= len(tries) <= 25
        ways._cost = [0.1, 1.0]  # the disk has changed: the other way is taken at once, and this one tried soon
        chosen = [ways._choose() for _ in range(100)]
        assert chosen.count(True) == 1
        assert not chosen[0]
        ways.close()


def test_a_file_system_that_refuses_late_is_served_the_usual_way(tmp_path: Path) -> None:
    from toolkit.capture.direct import BLOCK, Direct

    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    way = Direct(fd)
    way._direct = os.open(tmp_path / "x", os.O_RDONLY)  # to which nobody can write
    way._cost = [1.0, 0.5]
    data = np.full(2 * BLOCK, 7, dtype=np.uint8)
    assert way.write(data, BLOCK) == 2 * BLOCK
    assert way._direct == -1  # and it is not tried again
    assert (tmp_path / "x").read_bytes() == bytes(BLOCK) + data.tobytes()
    way.close()
    os.close(fd)


def test_what_waits_lies_in_memory_as_in_the_file_and_never_upon_other() -> None:
    from toolkit.capture.direct import BLOCK
    from toolkit.capture.output import address
    from toolkit.capture.waiting import Waiting
    from toolkit.capture.writer import Item, Writer

    free = threading.Event()
    seen: list[bytes] = []

    class Slow:
        def take(self, items: list[Item]) -> None:
            free.wait(10)
            seen.extend(item.payload.tobytes() for item in items)

        def patience(self) -> None:
            return None

        def idle(self) -> None:
            pass

        def progress(self) -> int:
            return 0

    writer = Writer(Slow(), limit=1 << 20, patience=0.0)
    waiting = Waiting(writer, 1 << 20)
    random = np.random.default_rng(3)
    expected: list[bytes] = []
    position = refused = 0
    for turn in range(2000):
        size = int(random.integers(1, 50_000))
        memory = waiting.reserve(size, position)
        if memory is None:
            refused += 1
            free.set()  # the thread goes on, beside us
            time.sleep(0.001)
            continue
        assert address(memory) % BLOCK == position % BLOCK
        memory[:] = turn % 251
        writer.put(memory, waiting.reserved, 1)
        expected.append(bytes([turn % 251]) * size)
        position += size
        if turn % 100 == 0:
            free.clear()
    free.set()
    assert writer.close(10)
    assert seen == expected
    assert refused
    assert waiting.reserve(1 << 21, 0) is None
