# SPDX-License-Identifier: Apache-2.0
"""PacketFiles: write packets to files, with a format, a rotation and a Writer; records stay whole on a full disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from toolkit._base.access import Access
from toolkit.capture.buffer import Waiting, memory_for
from toolkit.capture.compression import Compressor
from toolkit.capture.handler import Files, FormatWriter
from toolkit.capture.options import Queueing
from toolkit.capture.output import check_target
from toolkit.capture.pack import Bytes
from toolkit.capture.records import Counts, Packets
from toolkit.capture.rotation import Names, Rotation
from toolkit.capture.writer import Writer
from toolkit.errors import ToolkitError, write_error

__all__ = ["PacketFiles", "check_files"]

_PIECE = 4 << 20  # most bytes of records that are encoded at a time


class PacketFiles:
    """Files of packets. One thread calls the methods; the Writer's thread writes the files."""

    def __init__(
        self,
        path: Path | None,
        make: FormatWriter,
        *,
        rotation: Rotation,
        compressor: Compressor | None,
        force: bool,
        access: Access,
        queueing: Queueing,
        counts: Callable[[], Counts],
    ) -> None:
        """Create the first file. path: None for standard output. make: the format. force: replace existing files.

        access: who may read the files. counts: returns the counts, called when a file ends.
        SystemCallError when the file cannot be created; ArgumentError for a rotation that is not possible.
        """
        check_files(path, rotation, force=force)
        self.format = make
        self._rotation = rotation
        self._counts = counts
        self._names = None if path is None else Names(path, rotation)
        self._path = None if self._names is None else self._names.first()  # of the current file
        room = queueing.room
        memory = memory_for(room)  # before there is a file, or a thread
        self._files = Files(self._path, make, compressor, access, force=force)
        try:
            self._files.begin()
            self._writer = Writer(self._files, limit=room, timeout=queueing.timeout)
        except BaseException:
            self._files.discard()
            raise
        self._waiting = Waiting(self._writer, memory)
        self._stalled = queueing.stalled
        self._piece = min(_PIECE, room // 4)
        self._size = len(make.preamble())  # of the current file, before compression
        self._began = time.time_ns()  # of the current file
        self._next = time.monotonic() + (rotation.seconds or 0)
        self._before = Counts()  # the counts when the current file began
        self._noted = Counts()  # the counts at the last note()
        self._empty = True  # whether the current file has no packets yet
        self.finished = False  # whether the last of rotate_files is complete
        self.refused = 0  # packets that found no room
        self.pending = 0  # packets in write() that are not yet counted

    # --- for the receiving thread -------------------------------------------------------------------------------------

    def write(self, packets: Packets) -> int:
        """Queue packets for writing; return how many found room. Raises the first failure of the writing thread."""
        self.pending = len(packets)
        try:
            self.check()
            self.tick()
            return self._write(packets)
        finally:
            self.pending = 0

    def _write(self, packets: Packets) -> int:
        taken = begin = 0
        while begin < len(packets) and not self.finished:
            self._rotate_by_size()
            piece = packets.slice(begin, begin + max(self._fitting(packets, begin), 1))
            begin += len(piece)
            data = self.format.encode(piece, self._reserve)
            if data is not None:
                self._writer.put(data, self._waiting.reserved, len(piece))
                self._size += data.size
                self._empty = False
                taken += len(piece)
            else:
                self.refused += len(piece)
            self.pending -= len(piece)
        return taken

    def tick(self) -> None:
        """Begin the next file if it is time. A file that is too large ends at the next packet, as in tcpdump."""
        if self._rotation.seconds and not self.finished and time.monotonic() >= self._next:
            # At multiples of rotate_seconds from the start; missed ones are skipped.
            missed = max(time.monotonic() - self._next, 0) // self._rotation.seconds
            self._next += (missed + 1) * self._rotation.seconds
            assert self._names is not None
            following = self._names.by_time()
            if following is None:
                self.finished = True
            elif following != self._path:
                self._rotate(following)

    def note(self) -> None:
        """Write the present counts, if the format has a place for them and they have changed."""
        counts = self._counts()
        if counts != self._noted:
            self._noted = counts
            self._offer(self._statistics(counts))

    def check(self) -> None:
        """Raise the first failure of the writing thread."""
        if self._writer.error is not None:
            raise self._writer.error

    @property
    def packets(self) -> int:
        """Packets that found room, without those that were lost because writing failed."""
        return self._writer.written

    @property
    def written(self) -> int:
        """Bytes written in all files, after compression; including files that were replaced since."""
        return self._files.written

    @property
    def made(self) -> int:
        """Files that were begun."""
        return self._files.made

    def close(self) -> None:
        """Write what waits, then the last counts. Raises the first failure, when the files are complete."""
        gone = self._writer.close(self._stalled)
        failure = self._writer.error
        if not gone:
            raise failure or ToolkitError(
                f"cannot write to {self._files.name}: nothing moved for {self._stalled:.0f} s, and what waited was "
                "given up. Likely cause: the program that reads the pipe does not read. Next step: see what it waits "
                "for, or write to a file."
            )
        try:
            self._files.end(self._counts, self._writer)
        except OSError as refused:
            failure = failure or write_error(refused, self._files.name)
        if failure is not None:
            raise failure

    def discard(self) -> None:
        """End and remove the file: for a capture that fails before there are packets."""
        self._writer.close(self._stalled)
        self._files.discard()

    def abandon(self) -> None:
        """Close everything without writing, in a forked child."""
        self._files.abandon()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _fitting(self, packets: Packets, begin: int) -> int:
        """Return how many packets from `begin` on go into one piece, of the current file."""
        if not self._rotation.size and len(packets) * 256 <= self._piece and int(packets.captured.max()) <= 128:
            return len(packets)  # no need to look closer
        sizes = self.format.sizes(packets)[begin:]
        ends = np.cumsum(sizes)
        fitting = int(np.searchsorted(ends, self._piece, side="right"))
        if self._rotation.size:
            # As tcpdump does: the file is looked at before each packet, and may be larger by the last.
            fitting = min(fitting, int(np.searchsorted(ends - sizes + self._size, self._rotation.size, side="right")))
        return fitting

    def _reserve(self, size: int) -> Bytes | None:
        return self._waiting.reserve(size, self._size)

    def _rotate_by_size(self) -> None:
        if self._rotation.size and self._size > self._rotation.size and not self._empty:
            assert self._names is not None
            self._rotate(self._names.by_size())

    def _rotate(self, path: Path) -> None:
        assert self._names is not None
        counts = self._counts()
        self._offer(self._statistics(counts))
        began = time.time_ns()
        self._writer.do(lambda: self._files.switch(path, counts, began))
        self._path, self._before, self._began, self._empty = path, counts, began, True
        self._size = len(self.format.preamble())

    def _statistics(self, counts: Counts) -> bytes:
        return self.format.statistics(counts.since(self._before), self._began, time.time_ns())

    def _offer(self, data: bytes) -> None:
        if data:
            room = self._reserve(len(data))
            if room is None:
                self._writer.put(data, 0, 0)
            else:
                room[:] = np.frombuffer(data, dtype=np.uint8)
                self._writer.put(room, self._waiting.reserved, 0)
            self._size += len(data)


def check_files(path: Path | None, rotation: Rotation, *, force: bool) -> None:
    """Raise what a capture to this path would raise, before any packet is taken from an interface."""
    rotation.check(path)
    if path is not None:
        for expected in Names(path, rotation).expected():
            check_target(expected, force=force)
