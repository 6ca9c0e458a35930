# SPDX-License-Identifier: Apache-2.0
"""Files: the work of a capture's writing thread: one open file after the other, each of whole records."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from toolkit._base.access import Access
from toolkit._base.careful import Folder, own_descriptor
from toolkit.capture.compression import Compressor
from toolkit.capture.output import Output
from toolkit.capture.pack import Bytes, Reserve
from toolkit.capture.records import Counts, Packets
from toolkit.capture.writer import Item, UnwrittenError, Writer
from toolkit.errors import SystemCallError, removed_error, write_error

__all__ = ["Files", "FormatWriter"]

_TOGETHER = 1 << 20  # bytes that are compressed together
_LINGER = 0.5  # seconds that packets may wait to be compressed with more; without compression they do not wait
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FormatWriter(Protocol):
    """A file format: pcapng or pcap."""

    name: str
    last: int  # the latest time of the format, ns since 1970; the earliest is 0
    remedy: str  # next step of the error for packets of another time

    def preamble(self) -> bytes:
        """Return the beginning of a file."""

    def sizes(self, packets: Packets) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the size of each packet's record in bytes: shape (n,), int64."""

    def encode(self, packets: Packets, reserve: Reserve) -> Bytes | None:
        """Return the packets as records: shape (total,), uint8; None if no memory could be reserved."""

    def statistics(self, counts: Counts, began: int, now: int) -> bytes:
        """Return a record of the counts between two times (ns since 1970 UTC); b"" if the format has none."""

    def whole(self, data: memoryview, limit: int) -> tuple[int, int]:
        """Return the bytes and packets of whole records within the first `limit` bytes of `data`."""


class Files:
    """The Writer's handler: one open file after the other. Used by the Writer's thread, except where noted."""

    def __init__(
        self,
        path: Path | None,
        make: FormatWriter,
        compressor: Compressor | None,
        access: Access,
        *,
        force: bool = False,
    ) -> None:
        self._access = access
        self._force = force
        self._left: dict[str, os.stat_result] = {}  # files that this capture made, as it left them
        # The same directory for all files, even if it is renamed meanwhile.
        is_file = path is not None and own_descriptor(str(path)) is None
        self._folder = Folder.of(path) if path is not None and is_file else None
        try:
            self._output = self._open(path)
        except BaseException:
            self._release()
            raise
        self._format = make
        self._compressor = compressor
        self._compressed: list[bytes] = []  # output that is not yet written; in the end whole members or frames
        self._held = self._held_packets = 0  # bytes and packets in it
        self._earlier = 0  # bytes of the files before
        # When the open file began, and the counts then: the receiving thread may be some files ahead.
        self._before, self._began = Counts(), time.time_ns()
        self._removed: str | None = None  # the first file that was removed by others while it was written
        self.made = 1

    @property
    def name(self) -> str:
        """The name of the open file, for messages."""
        return self._output.name

    @property
    def written(self) -> int:
        """Bytes written in all files, after compression."""
        return self._earlier + self._output.size

    def begin(self) -> None:
        """Write the beginning of a file at once, so that a full disk shows before anything is captured."""
        try:
            self._output.write([self._alone(self._format.preamble())])
        except OSError as refused:
            self._output.discard()
            raise write_error(refused, self.name) from None

    def _open(self, path: Path | None) -> Output:
        left = None if path is None else self._left.get(path.name)
        return Output(
            path,
            folder=self._folder,
            access=self._access,
            allowed=lambda found: self._force or (left is not None and _same(left, found)),
        )

    def switch(self, path: Path, counts: Counts, began: int) -> None:
        """Begin the next file. counts, began: the counts and the time at its beginning."""
        self.idle()
        try:
            self._close()
        except OSError as refused:  # network file systems report a failed write only here
            raise write_error(refused, self.name) from None
        following, size = self._open(path), self._output.size
        self._output, self._earlier = following, self._earlier + size
        self.begin()
        self._before, self._began = counts, began
        self.made += 1

    def progress(self) -> int:
        """See Handler."""
        return self.written

    def take(self, items: list[Item]) -> None:
        """See Handler."""
        if self._compressor is None:
            self._write(items)
            return
        for at, item in enumerate(items):
            self._compressed.append(self._compressor.feed(item.payload))
            self._held += len(item.payload)
            self._held_packets += item.packets
            if self._held >= _TOGETHER:
                try:
                    self.idle()
                except UnwrittenError as failure:  # the following items are not written either
                    behind = sum(one.packets for one in items[at + 1 :])
                    raise UnwrittenError(failure.why, failure.lost + behind) from None

    def timeout(self) -> float | None:
        """See Handler."""
        return _LINGER if self._held else None

    def idle(self) -> None:
        """Write the compressed output that was held back."""
        if not self._held or self._compressor is None:
            return
        data, packets = [*self._compressed, self._compressor.finish()], self._held_packets
        self._compressed, self._held, self._held_packets = [], 0, 0
        before = self._output.size
        try:
            self._output.write(data)
        except OSError as refused:
            self._output.cut(before)
            raise UnwrittenError(write_error(refused, self.name), packets) from None

    def _alone(self, data: bytes) -> bytes:
        return data if self._compressor is None else self._compressor.feed(data) + self._compressor.finish()

    def _write(self, items: list[Item]) -> None:
        before = self._output.size
        try:
            self._output.write([item.payload for item in items])
        except OSError as refused:
            raise UnwrittenError(write_error(refused, self.name), self._repair(items, before)) from None

    def _repair(self, items: list[Item], before: int) -> int:
        """Cut the file back to its last whole record; return how many packets are lost."""
        came = self._output.size - before  # bytes of these that were written
        whole = kept = 0
        for item in items:
            size = len(item.payload)
            if whole + size > came:
                more, packets = self._format.whole(memoryview(item.payload).cast("B"), came - whole)
                whole, kept = whole + more, kept + packets
                break
            whole, kept = whole + size, kept + item.packets
        self._output.cut(before + whole)
        return sum(item.packets for item in items) - kept

    def end(self, counts: Callable[[], Counts], writer: Writer) -> None:
        """Write the last counts, then close. On a full disk some packets are removed to make room for them."""
        failed = writer.error
        full = isinstance(failed, SystemCallError) and failed.errno in _FULL
        if (failed is None or full) and not self._output.closed:
            self._finish(counts, writer)
        try:
            self._close()
        finally:
            self._release()
        if self._removed is not None and failed is None:
            raise removed_error(self._removed)

    def _close(self) -> None:
        self._output.close()
        if self._output.path is not None and self._output.left is not None:
            self._left[self._output.path.name] = self._output.left
        if self._output.removed:  # reported at the end, so that the following files are still written
            self._removed = self._removed or self.name

    def _finish(self, counts: Callable[[], Counts], writer: Writer) -> None:
        for _ in range(64):  # a file system may free space in pages only
            last = self._format.statistics(counts().since(self._before), self._began, time.time_ns())
            if not last:
                return
            before = self._output.size
            try:
                self._output.write([self._alone(last)])
                return
            except OSError as refused:
                # Without counts the file is still readable.
                if not self._output.cut(before) or refused.errno not in _FULL or self._compressor is not None:
                    return
            writer.lose(self._make_room(len(last)))

    def _make_room(self, wanted: int) -> int:
        """Cut blocks off the end of a pcapng file until `wanted` bytes are free; return how many packets they had."""
        size, packets = self._output.size, 0
        target = size - wanted
        while size > target and size > len(self._format.preamble()):
            total = struct.unpack("=I", self._output.tail(size - 4, 4))[0]
            size -= total
            packets += struct.unpack("=I", self._output.tail(size, 4))[0] == 6  # ENHANCED_PACKET_BLOCK
        self._output.cut(size)
        return packets

    def discard(self) -> None:
        """Close everything, and remove the file, which has no packets."""
        self._output.discard()
        self._release()

    def abandon(self) -> None:
        """Close everything without writing, in a forked child."""
        self._output.abandon()
        self._release()

    def _release(self) -> None:
        if self._folder is not None:
            self._folder.close()


def _same(left: os.stat_result, found: os.stat_result) -> bool:
    """Return whether the file found is the one that was left. Some file systems (exFAT) change inode numbers."""
    if found.st_dev != left.st_dev:
        return False
    return found.st_ino == left.st_ino or (
        (found.st_uid, found.st_size, found.st_mtime_ns) == (left.st_uid, left.st_size, left.st_mtime_ns)
    )
