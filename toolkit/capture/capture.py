# SPDX-License-Identifier: Apache-2.0
"""Capture: write what an Interface receives to a file, with the counts that show whether it is complete."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable
from types import TracebackType

import numpy as np

from toolkit._base import fork
from toolkit._base.access import access_of
from toolkit._base.arguments import cannot_be, whole
from toolkit._base.arguments import seconds as as_seconds
from toolkit._base.uninterrupted import uninterrupted
from toolkit.batch.batch import Batch
from toolkit.capture.compression import Compression
from toolkit.capture.destination import Destination, FileFormat
from toolkit.capture.files import PacketFiles
from toolkit.capture.options import Queueing
from toolkit.capture.records import LARGEST_SNAPLEN, Counts, Packets, packets_of
from toolkit.capture.rotation import Rotation
from toolkit.capture.source import PacketSource
from toolkit.capture.statistics import CaptureStatistics
from toolkit.capture.table_writer import Tables
from toolkit.errors import ArgumentError, ClosedError, DeviceGoneError, ToolkitError, closed_error

__all__ = ["BATCH", "Capture"]

BATCH = 2048  # packets that run() takes at a time: about 3 MB of the longest, which fit the CPU's cache
_NOTE_SECONDS = 1.0  # seconds between two readings of the kernel's counters
_WAIT = 0.1  # seconds that run() waits for packets before it checks the time
# Counters of the XDP program; each packet is in one of them.
_SEEN = ("redirected", "passed", "no_socket", "dropped", "counted", "sampled_out")


class Capture(fork.NotCopied):
    """A capture into one file or several. Not thread-safe: one thread calls it; a thread of its own writes.

    Use it as a context manager: at its end the waiting packets are written, then the counts. The Interface stays open.
    Packets for which a slow disk leaves no room are dropped and counted: the rings do not wait for the disk.
    """

    def __init__(
        self,
        interface: PacketSource | None,
        path: str | os.PathLike[str],
        *,
        format: FileFormat | None = None,
        compress: Compression | None = None,
        force: bool = False,
        mode: int | None = None,
        group: str | int | None = None,
        snaplen: int | None = None,
        rotate_bytes: int | None = None,
        rotate_seconds: float | None = None,
        rotate_files: int | None = None,
        queueing: Queueing | None = None,
    ) -> None:
        """Create the file and begin to count.

        interface: the source of the packets; None for Batches from elsewhere, without its description and counts.
        path: "-" for standard output; with a slash at its end, a directory for a Parquet dataset. format: by default by
        the suffix, else pcapng. compress: by default by the suffix (.gz, .zst).
        force: replace an existing file. mode, group: who may read the files and the directories of a dataset; the umask
        is not applied: by default 0o600, or 0o640 with a group.
        snaplen: bytes kept of each packet. rotate_bytes, rotate_seconds, rotate_files: tcpdump's -C, -G and -W; with
        rotate_seconds the name has a time in it (strftime). queueing: how much may wait for the disk.
        SystemCallError when the file cannot be created; ArgumentError; LibraryError when a package is missing.

        In a directory where others may write: no existing file is written to, and only files that this capture made are
        replaced (with `force`, regular files of the names that it uses). A symbolic link, a block device, another
        user's FIFO, and a path through another user's link are refused everywhere. Users who may write in the directory
        can rename or remove the files, or take the next name, which ends a rotation; they cannot read them.
        """
        self._down = True
        rotation = Rotation(rotate_bytes, rotate_seconds, rotate_files)
        destination = Destination.of(
            path, format, compress, access_of(mode, group), rotation, queueing or Queueing(), force=force
        )
        self.path = destination.path
        self.format: FileFormat = destination.format
        if interface is not None and not hasattr(interface, "waiting"):
            raise ArgumentError(
                f"a capture receives from an Interface or a Tee, not from {interface!r}. Next step: Batches from "
                "elsewhere (recorded ones, say) are written by `Capture(None, path)` and its write(batch)."
            )
        self._interface = interface
        self._snaplen = LARGEST_SNAPLEN if snaplen is None else whole("snaplen", snaplen, 1, LARGEST_SNAPLEN)
        self._received = self._octets = self._on_wire = self._untimed = self._unwanted = 0
        self._known = Counts()  # as last read
        self._uncounted = False  # whether the NIC may have lost packets that it does not count
        self._start = self._first_counts()
        self._raised = False  # whether step() raised the error that ended the source; written by step() only
        self._dead = False  # whether this is a forked child
        self._next_note = time.monotonic() + _NOTE_SECONDS

        def begin() -> None:
            self._sink: PacketFiles | Tables = destination.open(interface, self._snaplen, self._reader())
            # A capture that is garbage-collected, or open when the interpreter ends, is completed as well.
            self._finalizer = weakref.finalize(self, _complete, self._sink, os.getpid())
            fork.track(self)
            self._down = False

        # Uninterrupted: otherwise an interrupt could leave a thread, and a file that is in the way of the next attempt.
        uninterrupted(begin, dispose=lambda _: self._give_up())

    def _give_up(self) -> None:
        """Undo what was begun; remove the file."""
        self._down = True
        self._finalizer.detach()
        self._sink.discard()

    # --- packets ------------------------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> int:
        """Queue the packets of a Batch for writing; return how many found room. The Batch can then be released.

        A packet without a time gets the present one (in Parquet, none), and is counted as `untimed`.
        SystemCallError when writing to the file failed: its contents are readable, and close() reports more.
        ArgumentError for a time that the format does not have: pcapng has none before 1970, pcap also none after 2106.
        """
        self._check_open()
        if not isinstance(batch, Batch):
            raise cannot_be("batch", batch, "a Batch, as receive() returns it")
        wanted = batch and not self.finished
        packets = self._packets(batch) if wanted else None
        self._received += len(batch)
        refused, taken = self._sink.refused, 0
        if wanted:
            taken = self._keep(batch, packets)
        self._unwanted += len(batch) - taken - (self._sink.refused - refused)
        self.tick()
        return taken

    def _packets(self, batch: Batch) -> Packets | None:
        """Return the packets for a file of packets, None for tables. ArgumentError for a time that does not fit."""
        if not isinstance(self._sink, PacketFiles):
            return None
        packets, format = packets_of(batch, self._snaplen), self._sink.format
        packets.check_times(format.last, f"a file of the format {format.name}", format.remedy)
        return packets

    def _keep(self, batch: Batch, packets: Packets | None) -> int:
        if isinstance(self._sink, PacketFiles):
            assert packets is not None
            taken = self._sink.write(packets)
            # Some found no room. Which ones is not known, but only the count of bytes depends on it.
            self._octets += int(packets.captured[:taken].sum(dtype=np.int64))
            self._on_wire += int(packets.original[:taken].sum(dtype=np.int64))
            self._untimed += packets.untimed if taken else 0
        else:
            taken = self._sink.write_batch(batch)
            if taken:
                self._octets += int(batch.lengths.sum())
                self._on_wire += int(batch.wire_lengths.sum())
                self._untimed += int(np.count_nonzero(np.isnat(batch.timestamps)))
        return taken

    def tick(self) -> None:
        """Begin the next file if it is time; read the kernel's counters each second. write() does that as well."""
        self._check_open()
        self._sink.check()
        self._sink.tick()
        if time.monotonic() >= self._next_note:
            self._next_note = time.monotonic() + _NOTE_SECONDS
            self._sink.note()

    def step(self, timeout: float = _WAIT, limit: int | None = None) -> int:
        """Receive once and write the packets; return how many came. Raises what receive() and write() do."""
        if self._interface is None:
            raise ArgumentError("this capture has no Interface to receive from. Next step: write() Batches to it.")
        try:
            batch = self._interface.receive(timeout=timeout, limit=BATCH if limit is None else min(limit, BATCH))
        except DeviceGoneError:
            self._raised = True
            raise
        self.write(batch)
        return len(batch)

    def run(self, seconds: float | None = None, count: int | None = None) -> CaptureStatistics:
        """Capture for `seconds`, or until `count` packets came, or (rotating by time) the last file is complete."""
        deadline = None if seconds is None else time.monotonic() + as_seconds("seconds", seconds)
        count = None if count is None else whole("count", count)
        came = 0
        while not self.finished and (count is None or came < count):
            left = _WAIT if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            came += self.step(min(left, _WAIT), None if count is None else count - came)
        return self.statistics()

    @property
    def finished(self) -> bool:
        """Whether the last of the files asked for is complete (rotate_seconds with rotate_files)."""
        return self._sink.finished

    def statistics(self) -> CaptureStatistics:
        """Return the counts so far; also after close()."""
        counts = self._counts()
        sink = self._sink
        return CaptureStatistics(
            received=self._received,
            written=counts.delivered,
            bytes=self._octets,
            wire_bytes=self._on_wire,
            untimed=self._untimed,
            write_dropped=counts.write_dropped,
            unwanted=self._unwanted,
            accepted=counts.accepted,
            dropped=counts.os_dropped,
            seen=counts.received,
            file_bytes=sink.written,
            files=sink.made,
            missed=None if self._uncounted else counts.missed,
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self, count: int | None = None) -> CaptureStatistics:
        """Detach the program, write the packets that are still in the rings (at most `count` of them), and close().

        After this accepted = received + dropped, and received = written + write_dropped + unwanted, to the packet.
        Raises what close() raises, and the DeviceGoneError that ended the capture, if step() has not raised it.
        """
        try:
            if self._interface is not None:
                with contextlib.suppress(ClosedError, DeviceGoneError):
                    self._interface.detach()
                    self._drain(self._interface, count)
        finally:
            self.close()
        if self._interface is not None and not self._raised and (loss := self._interface.loss()) is not None:
            raise loss
        return self.statistics()

    @property
    def whole(self) -> bool:
        """Whether the capture has all packets of the filter: none was lost, and the program stayed attached."""
        now = self.statistics()
        return not now.lost and now.missed == 0 and (self._interface is None or self._interface.loss() is None)

    def _drain(self, interface: PacketSource, count: int | None) -> None:
        left = BATCH if count is None else count
        while batch := interface.receive(timeout=0.05, limit=min(left, BATCH) or BATCH):
            if left:
                with contextlib.suppress(ToolkitError):  # close() raises it; the remaining packets are counted
                    self.write(batch)
                left -= 0 if count is None else len(batch)
            else:
                self._received += len(batch)
                self._unwanted += len(batch)

    def close(self) -> None:
        """Write the waiting packets and the counts, and close the file. Repeatable. Raises the first failed write."""
        if not self._down:
            uninterrupted(self._close)  # otherwise the file may lack its counts, and waiting packets

    def _close(self) -> None:
        self._down = True
        self._finalizer.detach()
        self._sink.close()

    def __enter__(self) -> Capture:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; an exception of the block has precedence over one of close()."""
        if error is None:
            self.close()
        else:
            with contextlib.suppress(ToolkitError):
                self.close()

    def __repr__(self) -> str:
        """Show the file, and how much is in it."""
        if self._down and self._dead:
            return f"<Capture to {self.path or 'standard output'}, of the parent of a fork>"
        return (
            f"<Capture to {self.path or 'standard output'} ({self.format}): {self._sink.packets} packets, "
            f"{self._sink.written} bytes{', closed' if self._down else ''}>"
        )

    # --- inside -------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._dead:
            raise closed_error("this capture belongs to the parent of a fork")
        if self._down:
            raise closed_error("this capture was closed")

    def _counts(self) -> Counts:
        """Return the counts since the capture began."""
        written = self._sink.packets
        # write_dropped is the remainder, so that the sum is right even if an interrupt cut write() short.
        dropped = self._received - self._unwanted - written - self._sink.pending
        return self._read_counts().since(self._start)._replace(write_dropped=dropped, delivered=written)

    def _reader(self) -> Callable[[], Counts]:
        """Return the function from which the sink gets the counts; it does not keep this object alive."""
        reference, last = weakref.ref(self), [Counts()]

        def read() -> Counts:
            capture = reference()
            if capture is not None:
                last[0] = capture._counts()
            return last[0]

        return read

    def _first_counts(self) -> Counts:
        """Return the counts when the capture began: zeros if nothing has been received from the Interface yet.

        Otherwise packets that wait in the rings count as this capture's.
        """
        waiting = None if self._interface is None else self._interface.waiting()
        if waiting is None:
            return Counts()
        counts = self._read_counts()
        return counts._replace(received=counts.received - waiting, accepted=counts.accepted - waiting)

    def _read_counts(self) -> Counts:
        """Return the counts of the program and the kernel; the last ones when the Interface is closed."""
        if self._interface is not None:
            with contextlib.suppress(ToolkitError, OSError):
                counters, statistics = self._interface.counters(), self._interface.statistics()
                seen = sum(counters.get(name, 0) for name in _SEEN)
                accepted, missed = counters.get("redirected", 0), statistics.missed
                self._known = Counts(seen, accepted, statistics.dropped, missed=missed or 0)
                self._uncounted = missed is None and bool(self._interface.info().get("zero_copy"))
        return self._known

    def _after_fork_in_child(self) -> None:
        self._dead = self._down = True
        with contextlib.suppress(AttributeError):
            self._sink.abandon()


def _complete(sink: PacketFiles | Tables, pid: int) -> None:
    if os.getpid() == pid:
        with contextlib.suppress(Exception):
            sink.close()
