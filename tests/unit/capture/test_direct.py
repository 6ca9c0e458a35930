# SPDX-License-Identifier: Apache-2.0
"""What a capture writes past the page cache, and the memory in which packets wait for it."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers.captures import large_pieces, pcap_of
from toolkit.batch.batch import Batch
from toolkit.capture import Capture, Queueing, direct
from toolkit.capture.output import Output
from toolkit.capture.writer import Item, Writer
from toolkit.errors import SystemCallError

pytestmark = pytest.mark.timing("a disk, which others use as well, has to keep its speed")


def test_large_pieces_are_the_same_bytes_whichever_way_they_take(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    memory = random.integers(0, 256, 4 << 20, dtype=np.uint8)
    path = tmp_path / "a.pcap"
    expected: list[bytes] = []
    with Capture(None, path, queueing=Queueing(limit=16 << 20, timeout=30.0)) as capture:
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
    assert len(ways) >= 3


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A file whose two ways cost what a test says."""
    with open(tmp_path / "x", "wb") as file:
        ways = direct.Direct(file.fileno())
        disk = Disk(ways)
        monkeypatch.setattr(direct.time, "monotonic", lambda: disk.now)
        if not ways._choose():
            pytest.skip("the file system of the temporary directory knows no O_DIRECT")
        yield disk
        ways.close(0)


class Disk:
    """What pieces cost, and how time goes by while they are written."""

    def __init__(self, ways: direct.Direct) -> None:
        self.ways = ways
        self.now = 0.0  # s
        self.cost = {False: 0.0, True: 0.0}  # ms a piece: through the page cache, past it

    def write(self, pieces: int) -> list[bool]:
        """Which way each of them took."""
        taken = []
        for _ in range(pieces):
            past = self.ways._choose()
            self.now += self.cost[past] / 1000
            self.ways._note(past, self.cost[past])
            taken.append(past)
        return taken


def test_the_quicker_way_to_the_disk_is_taken_and_the_other_tried_more_and_more_rarely(disk: Disk) -> None:
    disk.cost = {False: 2.5, True: 0.5}
    taken = disk.write(20_000)  # 10 s
    assert 8 <= taken.count(False) <= 16
    assert taken[-3000:].count(False) <= 1  # every two seconds at last
    disk.cost = {False: 0.1, True: 0.5}  # memory has become cheap
    assert disk.write(4100)[-1] is False  # by the next try
    assert disk.write(500).count(True) <= 2


def test_a_stall_does_not_turn_a_capture_away_from_the_quicker_way(disk: Disk) -> None:
    disk.cost = {False: 0.15, True: 0.7}
    disk.write(1000)
    for _ in range(10):
        disk.cost[False] = 20.0
        disk.write(1)
        disk.cost[False] = 0.15
        assert disk.write(30)[2:].count(True) <= 2
    disk.cost[False] = 20.0  # but this is how it is from now on
    taken = disk.write(200)
    assert taken.index(True) < 10
    assert taken[20:].count(False) <= 8


def allocated(path: Path) -> int:
    """Bytes that a file has on the disk."""
    return path.stat().st_blocks * 512


def test_blocks_are_taken_ahead_behind_the_end_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    output = Output(path)
    expected = large_pieces(output, 5)
    if not output._direct or not output._direct._ahead._able:
        pytest.skip("the file system of the temporary directory takes no blocks ahead")
    assert path.stat().st_size == len(expected)  # for whoever reads it meanwhile
    assert allocated(path) >= len(expected) + (1 << 20)
    output.write([b"the end"])
    output.close()
    assert path.read_bytes() == expected + b"the end"
    assert allocated(path) <= len(expected) + (64 << 10)


def test_few_packets_take_nothing_ahead(tmp_path: Path) -> None:
    output = Output(tmp_path / "x")
    for _ in range(100):
        output.write([bytes(1000)])
    assert allocated(tmp_path / "x") <= 200_000
    output.close()


def test_a_forked_child_leaves_the_blocks_to_the_parent(tmp_path: Path) -> None:
    path = tmp_path / "x"
    output = Output(path)
    expected = large_pieces(output, 4)
    output.abandon()
    assert path.read_bytes() == expected
    assert allocated(path) >= len(expected) + (2 << 20) or not output._direct or not output._direct._ahead._able


@pytest.mark.parametrize("size", [0, 5 << 20])
def test_what_somebody_else_made_of_the_file_stays(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    output = Output(path)
    expected = large_pieces(output, 4)
    os.truncate(path, size)  # emptied, or longer than we left it
    output.close()
    assert path.read_bytes() == (expected + bytes(1 << 20))[:size]
    assert allocated(path) <= size


@pytest.mark.parametrize("limit", [1 << 60, 1 << 80])
def test_memory_that_is_not_to_be_had_is_refused_before_there_is_a_file(tmp_path: Path, limit: int) -> None:
    with pytest.raises(SystemCallError, match=rf"{limit} bytes of memory .* .*`Queueing") as refused:
        Capture(None, tmp_path / "a.pcapng", queueing=Queueing(limit=limit))
    assert refused.value.errno == errno.ENOMEM
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("nsenter")  # that is, util-linux: unshare
@pytest.mark.needs_root("sys_admin")
def test_a_disk_without_room_ahead_is_filled_to_its_end(tmp_path: Path) -> None:
    """On a file system of 8 MB, in a mount namespace that nobody else sees."""
    code = f"""
    import sys
    from pathlib import Path
    from toolkit.capture.output import Output
    sys.path.insert(0, {str(ROOT)!r})
    from tests.helpers.captures import large_pieces
    path = Path({str(tmp_path / "small" / "x")!r})
    output = Output(path)
    try:
        large_pieces(output, 20)
    except OSError as full:
        print(full.errno, output.size, path.stat().st_size)
    """
    small = tmp_path / "small"
    small.mkdir()
    script = f'mount -t tmpfs -o size=8m none {small} && exec "$0" -c "$1"'
    command = ["unshare", "-m", "sh", "-c", script, sys.executable, textwrap.dedent(code)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    number, written, size = map(int, ran.stdout.split())
    assert number == errno.ENOSPC
    assert written == size == 8 << 20


class Paced:
    """A disk of so many bytes/s, which stands still when told to."""

    def __init__(self, rate: float) -> None:
        self.rate, self.stall = rate, 0.0

    def take(self, items: list[Item]) -> None:
        stall, self.stall = self.stall, 0.0
        time.sleep(sum(item.size for item in items) / self.rate + stall)

    def timeout(self) -> None:
        return None

    def idle(self) -> None:
        pass

    def progress(self) -> int:
        return 0


def test_no_more_waits_than_a_disk_writes_in_a_second() -> None:
    """Which is what a capture that is killed loses."""
    disk = Paced(40e6)
    writer = Writer(disk, limit=256 << 20, timeout=0.01)
    ends, most = time.monotonic() + 3, 0
    while time.monotonic() < ends:
        if writer.room(1 << 20):
            writer.put(None, 1 << 20, 1)
        if time.monotonic() > ends - 1:
            most = max(most, writer.waiting)
    disk.rate = 1e12
    assert writer.close(10)
    assert 20e6 < most < 50e6


def test_a_disk_that_stands_still_for_a_moment_is_given_room() -> None:
    disk = Paced(2e9)
    writer = Writer(disk, limit=64 << 20, timeout=0.0)
    for _ in range(500):
        assert writer.room(1 << 20)
        writer.put(None, 1 << 20, 1)
        time.sleep(0.002)
    disk.stall = 0.15
    for turn in range(20):
        writer.put(None, 1 << 20, 1)
        time.sleep(0.02)
        assert writer.room(40 << 20), turn
    assert writer.close(10)


def test_a_file_system_that_refuses_late_is_served_the_usual_way(tmp_path: Path) -> None:
    from toolkit.capture.direct import BLOCK, Direct

    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    way = Direct(fd)
    way._direct = os.open(tmp_path / "x", os.O_RDONLY)  # to which nobody can write
    way._cost, way._next = [1.0, 0.5], float("inf")
    data = np.full(2 * BLOCK, 7, dtype=np.uint8)
    assert way.write(data, BLOCK) == 2 * BLOCK
    assert way._direct == -1  # and it is not tried again
    assert (tmp_path / "x").read_bytes() == bytes(BLOCK) + data.tobytes()
    way.close(3 * BLOCK)
    os.close(fd)


def test_what_waits_lies_in_memory_as_in_the_file_and_never_upon_other() -> None:
    from toolkit.capture.buffer import Waiting, memory_for
    from toolkit.capture.direct import BLOCK
    from toolkit.capture.output import address

    free = threading.Event()
    seen: list[bytes] = []

    class Slow(Paced):
        def take(self, items: list[Item]) -> None:
            free.wait(10)
            seen.extend(item.payload.tobytes() for item in items)

    writer = Writer(Slow(0), limit=1 << 20, timeout=0.0)
    waiting = Waiting(writer, memory_for(1 << 20))
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
