# SPDX-License-Identifier: Apache-2.0
"""A capture into a pipe, whose reader may be slow, asleep, gone or not there."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from tests.helpers.captures import batch_of, blocks_of, fill, frames, packets_of, until_it_fails
from tests.helpers.wire import eventually
from toolkit.capture import Capture, Queueing
from toolkit.errors import SystemCallError, ToolkitError


def test_a_pipe_whose_reader_has_gone_is_reported(tmp_path: Path) -> None:
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


@pytest.mark.timing("a write() has a second at most")
def test_a_reader_that_sleeps_costs_packets_and_no_time(tmp_path: Path) -> None:
    """The rings do not wait for it; close() gives up on it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    capture = Capture(None, fifo, queueing=Queueing(limit=1 << 20, timeout=0.001, stalled=0.3))
    batch = batch_of(frames(1000))
    slowest = 0.0
    for _ in range(50):
        began = time.monotonic()
        capture.write(batch)
        slowest = max(slowest, time.monotonic() - began)
    reported = capture.statistics()
    assert reported.write_dropped >= 30_000
    assert reported.received == 50_000 == reported.written + reported.write_dropped
    assert slowest < 1.0
    with pytest.raises(ToolkitError, match=r"nothing moved|read the pipe"):
        capture.close()
    assert capture.statistics().written < reported.written  # what waited was given up, and is not called written
    assert capture.statistics().write_dropped == 50_000 - capture.statistics().written
    os.close(reader)  # the thread that was left behind ends of that
    eventually(lambda: all(one.name != "toolkit-capture" for one in threading.enumerate()))


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
    assert len(packets_of(b"".join(read))) == capture.statistics().written == 6000


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SystemCallError, match="no process reads this pipe"):
        Capture(None, tmp_path / "fifo")
