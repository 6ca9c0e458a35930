# SPDX-License-Identifier: Apache-2.0
"""Tables: Batches are copied, and the Writer's thread passes them to a ParquetSink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit._base.careful import is_directory
from toolkit.capture.compression import suffix_of
from toolkit.capture.options import Queueing
from toolkit.capture.output import check_target
from toolkit.capture.records import Counts
from toolkit.capture.rotation import Rotation
from toolkit.capture.writer import Item, UnwrittenError, Writer
from toolkit.errors import ArgumentError, ToolkitError, write_error

if TYPE_CHECKING:
    from toolkit.batch.batch import Batch
    from toolkit.capture.parquet import ParquetSink

__all__ = ["Tables", "check_one_file", "check_tables"]

_OVERHEAD = 256  # bytes of memory for a waiting packet, in addition to its own
_TICK = 1.0  # seconds between two calls of tick() while no packet comes


class Tables:
    """A sink, and the thread that feeds it: the counterpart of PacketFiles. One thread calls the methods."""

    finished = False
    pending = 0  # packets in write_batch() that are not yet counted

    def __init__(self, sink: ParquetSink, name: str, queueing: Queueing, counts: Callable[[], Counts]) -> None:
        """Start the thread. counts: returns the counts, called at the end."""
        self._sink = sink
        self._name = name
        self._counts = counts
        self._writer = Writer(_Feeder(sink, name), limit=queueing.room, timeout=queueing.timeout)
        self._stalled = queueing.stalled
        self._written: int | None = None  # packets, known at the end
        self.refused = 0  # packets that found no room
        self.made = 1

    def write_batch(self, batch: Batch) -> int:
        """Queue a Batch; return how many packets found room. Raises the first failure of the writing thread."""
        self.check()
        size = int(batch.lengths.sum()) + _OVERHEAD * len(batch)
        if self._writer.room(size):
            self._writer.put(batch.copy(), size, len(batch))
            return len(batch)
        self.refused += len(batch)
        return 0

    def tick(self) -> None:
        """Do nothing: tables do not rotate."""

    def note(self) -> None:
        """Do nothing: the counts are in the file's metadata, which are written last."""

    def check(self) -> None:
        """Raise the first failure of the writing thread."""
        if self._writer.error is not None:
            raise self._writer.error

    @property
    def packets(self) -> int:
        """Packets that found room, without those that were lost because writing failed."""
        return self._writer.written if self._written is None else self._written

    @property
    def written(self) -> int:
        """Bytes on the disk, by the sink's count."""
        return self._sink.bytes

    def close(self) -> None:
        """Write what waits, and the counts. Raises the first failure."""
        gone = self._writer.close(self._stalled)
        failure = self._writer.error
        if gone:
            if self._writer.error is not None:  # rows that counted as written were still waiting in the sink
                self._written = self._sink.written
            try:
                counts = self._counts()
                self._sink.close(
                    {
                        "seen": counts.received,
                        "accepted": counts.accepted,
                        "received": counts.delivered,
                        "dropped": counts.os_dropped + counts.write_dropped,
                    }
                )
            except OSError as refused:
                failure = failure or write_error(refused, self._name)
            except ToolkitError as refused:
                failure = failure or refused
            self._written = self._sink.written
        elif failure is None:
            failure = ToolkitError(
                f"cannot write to {self._name}: it took nothing for {self._stalled:.0f} s. "
                "Likely cause: a disk or a network file system that hangs, or a reader of the pipe that does "
                "not read. Next step: `df`, `dmesg`; then write elsewhere."
            )
        if failure is not None:
            raise failure

    def discard(self) -> None:
        """End and remove the files: for a capture that fails before there are packets."""
        self._writer.close(self._stalled)
        self._sink.discard()

    def abandon(self) -> None:
        """Do nothing: the sink's files are closed with the forked child."""


def check_tables(given: str, rotation: Rotation, compress: str | None, *, force: bool) -> None:
    """Raise what writing tables to the path `given` would raise. Creates nothing."""
    path = Path(given)
    if given == "-" or any(rotation) or compress or suffix_of(path):
        raise ArgumentError(
            "parquet goes to a file, compresses by itself and does not rotate. "
            "Next step: name a file x.parquet, or a directory x.parquet/ for files by date and hour."
        )
    if not (path.is_dir() or is_directory(given)):
        check_target(path, force=force)


def check_one_file(given: str, format: str) -> None:
    """Raise ArgumentError when the path of a single file is that of a directory."""
    if is_directory(given):
        raise ArgumentError(
            f"{format} is written to a file, and {given} names a directory. "
            f"Next step: name a file in it; Parquet alone is written to a directory, as files by date and hour."
        )


class _Feeder:
    """The Writer's handler."""

    def __init__(self, sink: ParquetSink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._fed = 0  # Batches

    def progress(self) -> int:
        return self._fed

    def take(self, items: list[Item]) -> None:
        for at, item in enumerate(items):
            try:
                self._sink.write(item.payload)
                self._fed += 1
            except Exception as refused:
                lost = sum(one.packets for one in items[at:])
                why = write_error(refused, self._name) if isinstance(refused, OSError) else refused
                raise UnwrittenError(why, lost) from refused

    def timeout(self) -> float | None:
        return _TICK

    def idle(self) -> None:
        try:
            self._sink.tick()
        except OSError as refused:
            raise UnwrittenError(write_error(refused, self._name), 0) from refused
