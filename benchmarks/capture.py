# SPDX-License-Identifier: Apache-2.0
"""Write packets to a file with `xsk capture`, tcpdump and dumpcap. The rate is that of the file's growth."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.consumer import ROOT, Counts, PeerError
from benchmarks.isolation import Cores, child_prefix, cpu_ns, undisturbed
from toolkit.lab import Lab

__all__ = ["PACKETS", "SETTLE", "WRITERS", "FileWriter", "disk_alone", "start_writer", "target_directory"]

_START = 15.0  # seconds within which a program must create its file
SETTLE = 1.3  # seconds: libpcap returns a part of its buffer when it is full, or after a second
PACKETS = 3_000_000  # that a run may write, more or less
_DISK_PIECE = 4 << 20  # bytes
_ROOM = 6 << 30  # bytes that must be free where the files go

# Programs by name: the command, and the bytes that its file needs for a packet, in addition to the packet's own.
WRITERS: dict[str, tuple[Callable[[str, Path], Sequence[str]], int]] = {
    "toolkit": (
        lambda interface, file: [
            *(sys.executable, "-m", "toolkit.cli", "capture", interface, "udp", "-w", str(file), "--json", "--force")
        ],
        28 + 16,  # pcapng, with the options of each packet
    ),
    # A buffer as large as the toolkit's largest; no name look-ups, no change of user.
    "tcpdump": (
        lambda interface, file: [
            *("tcpdump", "-i", interface, "-n", "-B", "262144", "-Z", "root", "-w", str(file), "udp")
        ],
        16,
    ),
    "dumpcap": (
        lambda interface, file: ["dumpcap", "-i", interface, "-q", "-P", "-B", "256", "-w", str(file), "-f", "udp"],
        16,
    ),
}


def target_directory() -> Path:
    """Return the directory of the files: that for temporary files, which is on a disk nearly everywhere."""
    return Path(tempfile.gettempdir())


def disk_alone(where: Cores, size: int) -> tuple[float, float, float]:
    """Write a file past the page cache, with the packets of a run: no program can capture more than this for long.

    Returns packets/s, seconds, CPU seconds a second.
    """
    total = PACKETS * (size + 28 + 16)
    with (
        tempfile.NamedTemporaryFile(prefix="xsk-bench-", dir=target_directory()) as file,
        contextlib.closing(mmap.mmap(-1, _DISK_PIECE)) as piece,
        undisturbed(where.consumer),
    ):
        piece.write(bytes(range(256)) * (_DISK_PIECE // 256))
        fd = os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY | os.O_DIRECT)
        try:
            began, used, written = time.perf_counter(), time.process_time(), 0
            while written < total:
                written += os.write(fd, piece)
            elapsed, used = time.perf_counter() - began, time.process_time() - used
        finally:
            os.close(fd)
    return PACKETS / elapsed * written / total, elapsed, used / elapsed


class FileWriter:
    """A program that captures on the lab's near end into a file of its own."""

    def __init__(self, name: str, lab: Lab, where: Cores, size: int) -> None:
        """Start the program. size: bytes of every packet."""
        self.name = name
        command, beside = WRITERS[name]
        padding = -size % 4 if beside == 28 + 16 else 0  # pcapng's blocks are of whole words
        self._record = size + padding + beside
        self._directory = tempfile.TemporaryDirectory(prefix="xsk-bench-", dir=target_directory())
        self._file = Path(self._directory.name) / ("x.pcapng" if beside > 16 else "x.pcap")
        if shutil.disk_usage(self._directory.name).free < _ROOM:
            self._directory.cleanup()
            raise PeerError(f"there is no room for {_ROOM >> 30} GB in {target_directory()}")
        try:
            self._child: subprocess.Popen[bytes] = lab.netns.popen(
                [*child_prefix(where.consumer), *command(lab.interface, self._file)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
            )
            self._await_file()
        except BaseException:
            self.close()
            raise

    def _await_file(self) -> None:
        deadline = time.monotonic() + _START
        while not (self._file.exists() and (self._file.stat().st_size or self.name in ("tcpdump", "dumpcap"))):
            if self._child.poll() is not None:
                raise PeerError(f"{self.name} ended with status {self._child.returncode}")
            if time.monotonic() > deadline:
                raise PeerError(f"{self.name} has not begun its file within {_START:.0f} s")
            time.sleep(0.02)
        time.sleep(0.3)  # it creates the file before it is ready

    def start(self) -> None:
        """Do nothing: it is capturing already."""

    def counts(self) -> Counts:
        """Return how many packets its file has, by its size; the file's header is too short to matter."""
        return Counts(self._file.stat().st_size // self._record)

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU used so far, by all threads."""
        return cpu_ns(self._child.pid)

    def close(self) -> None:
        """End it and remove its file. Repeatable."""
        child: subprocess.Popen[bytes] | None = getattr(self, "_child", None)
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        with contextlib.suppress(OSError):
            self._directory.cleanup()


def start_writer(name: str, where: Cores, size: int) -> Callable[[Lab], FileWriter]:
    """Return the function that starts one of the WRITERS."""
    return lambda lab: FileWriter(name, lab, where, size)
