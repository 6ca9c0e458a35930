# SPDX-License-Identifier: Apache-2.0
"""toolkit.read(): read recorded packets as Batches, like those of an interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from toolkit._base.arguments import whole
from toolkit._base.warn import warn
from toolkit.abi.pcapng import SECTION_HEADER_BLOCK
from toolkit.batch.batch import Batch
from toolkit.errors import ClosedError, RecordedError, RecordedWarning
from toolkit.recorded.format import Corrupt, FormatReader, FoundPackets, RecordedInterface
from toolkit.recorded.pcap import PcapReader
from toolkit.recorded.pcapng import PcapngReader
from toolkit.recorded.window import FruitlessError, Window, open_window

__all__ = ["Recorded", "read"]

_BATCH = 4096  # packets; more are not faster
_PCAP_MAGICS = {bytes.fromhex(text) for text in ("d4c3b2a1", "a1b2c3d4", "4d3cb2a1", "a1b23c4d")}
_CONVERT = "`editcap -F pcapng` converts it"
_OTHERS = {  # first bytes -> (what it is, what to do)
    b"PAR1": ("a Parquet file", "read it with pyarrow, pandas or DuckDB"),
    b"snoo": ("a file of snoop", _CONVERT),
    b"\x34\xcd\xb2\xa1": ("a pcap of an old patched libpcap", _CONVERT),
    b"\xa1\xb2\xcd\x34": ("a pcap of an old patched libpcap", _CONVERT),
}


def read(file: Any, *, batch_size: int = _BATCH, between: Callable[[], object] | None = None) -> Recorded:
    """Open a recording, pcap or pcapng, plain or compressed (gzip, zstd, xz, bzip2), to iterate over its Batches.

    file: a path, "-" for standard input, or a file object opened in binary mode (it stays open). From a pipe, packets
    come as they are written. batch_size: most packets of a Batch. between: called repeatedly while the file is read,
    also while no packet comes: to show progress, or to raise an exception that ends the reading.

    SystemCallError when the file cannot be opened or read. RecordedError when it is not a recording of Ethernet, or is
    damaged (after all packets before that place), or when little compressed data become more than 20 MB without a
    packet. If the end of the file was cut off, all complete packets come, and then a RecordedWarning that says where.
    """
    size = whole("batch_size", batch_size, 1)
    window = open_window(file, between)
    try:
        return Recorded(window, _format(window), size)
    except BaseException:
        window.close()
        raise


def _format(window: Window) -> FormatReader:
    """Return the reader of the file's format, which its first four bytes show. RecordedError for another format."""
    if not window.require(4):
        size = f"has only {window.left} bytes" if window.left else "is empty"
        why = f" ({window.cut})" if window.cut else ""
        raise RecordedError(
            f"{window.name} {size}{why}: there is no recording in it. Next step: check the name, or copy it again."
        )
    magic = bytes(window.view[window.at : window.at + 4])
    try:
        if magic in _PCAP_MAGICS:
            return PcapReader(window)
        if magic == SECTION_HEADER_BLOCK.to_bytes(4, "big"):
            return PcapngReader(window)
    except Corrupt as fault:
        raise RecordedError(
            f"{window.name} is damaged: at offset {window.offset} is {fault}. Next step: fetch it again, or try "
            "pcapfix."
        ) from None
    cause, remedy = _OTHERS.get(magic, ("", "name a file that tcpdump, Wireshark or `xsk capture` wrote"))
    raise RecordedError(
        f"{window.name} is neither pcap nor pcapng: it begins with {magic.hex(' ')}."
        + (f" Likely cause: it is {cause}." if cause else "")
        + f" Next step: {remedy}."
    )


class Recorded:
    """A recording, read once from its beginning to its end. Iterate over it, or call receive() as on an Interface.

    Not thread-safe. Use it as a context manager. Batches stay valid after it is closed; each keeps a piece of the file
    in memory (about 1 MB) while it is kept. `batch.copy()` keeps its packets only.
    """

    def __init__(self, window: Window, format: FormatReader, batch_size: int) -> None:
        """Made by read()."""
        self._window = window
        self._format = format
        self._batch_size = batch_size
        self._closed = False
        self._over = False
        self.name: str = window.name  # of the file
        self.format: str = "pcap" if isinstance(format, PcapReader) else "pcapng"
        self.packets: int = 0  # packets read so far
        self.cut_at: int | None = None  # offset at which the end is missing; None if nothing is known to be missing

    def __enter__(self) -> Recorded:
        """Close at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Show the file, its format, and how many packets were read."""
        state = "closed" if self._closed else "at its end" if self._over else "open"
        return f"<Recorded {self.name}: {self.format}, {self.packets} packets read, {state}>"

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def interfaces(self) -> tuple[RecordedInterface, ...]:
        """The interfaces of the recording, as read so far; a classic pcap has one, with little information."""
        return tuple(self._format.interfaces)

    @property
    def interface(self) -> str:
        """Name of the first interface; "" where the file has none."""
        return next((one.name for one in self._format.interfaces if one.name), "")

    @property
    def filter(self) -> str:
        """The filter expression of the recording; "" if the file has none."""
        return next((one.filter for one in self._format.interfaces if one.filter), "")

    @property
    def link_types(self) -> tuple[int, ...]:
        """The link type of each interface: 1 is Ethernet."""
        return tuple(one.link_type for one in self._format.interfaces)

    @property
    def comment(self) -> str:
        """The file's own comment; "" without one."""
        return self._format.comment

    def statistics(self) -> dict[str, int]:
        """Return the counts of the recording program: received, dropped, accepted, os_dropped, delivered.

        Summed over the interfaces. Only the counts that were read from the file so far; usually they are at its end.
        """
        return self._format.statistics()

    @property
    def skipped(self) -> int:
        """Packets left out so far, because their link type is not Ethernet."""
        return self._format.skipped

    @property
    def between(self) -> Callable[[], object]:
        """The function that is called while the file is read: see read()."""
        return self._window.source.between

    @between.setter
    def between(self, call: Callable[[], object]) -> None:
        self._window.source.between = call

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    # --- reading ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Recorded:
        """Iterate over Batches."""
        return self

    def __next__(self) -> Batch:
        """Return the next Batch, with at least one packet."""
        batch = self._next(self._batch_size)
        if batch is None:
            raise StopIteration
        return batch

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """Return the next packets, at most `limit`; an empty Batch (falsy) at the end. For code written for an
        Interface.

        timeout: not used: a file has no pauses, and a pipe is waited for without limit.
        """
        size = self._batch_size if limit is None else min(max(whole("limit", limit), 1), self._batch_size)
        batch = self._next(size)
        if batch is None:
            return Batch(None, np.empty((0, 2), dtype=np.uint64), memory=np.empty(0, dtype=np.uint8))
        return batch

    def _next(self, count: int) -> Batch | None:
        if self._closed:
            raise ClosedError(f"the recording {self.name} was closed. Next step: toolkit.read() it again.")
        window, format = self._window, self._format
        while not self._over:
            try:
                found = format.take(window, count)
                if found is not None and len(found.offsets):
                    return self._batch(found)
                if format.need and not window.require(format.need):
                    self._end()
            except Corrupt as fault:
                self._over = True
                self._damaged(fault)
            except RecordedError:
                self._over = True
                raise
        return None

    def _batch(self, found: FoundPackets) -> Batch:
        descs = np.empty((len(found.offsets), 2), dtype=np.uint64)
        descs[:, 0] = found.offsets
        descs[:, 1] = found.lengths
        self.packets += len(descs)
        self._window.found_packets()
        return Batch(None, descs, memory=self._window.memory, wire_lengths=found.wire_lengths, utc_ns=found.utc_ns)

    def _end(self) -> None:
        """At the end of the file, warn of what is missing, and of what was left out."""
        self._over = True
        window = self._window
        if window.left or window.cut:
            self.cut_at = window.offset
            why = window.cut or f"the last {window.left} bytes are no whole packet"
            self._warn(f"its end is missing: at offset {window.offset}, {why}. Likely cause: the capture was killed")
        if self.skipped:
            self._warn(f"{self.skipped} packets are of another link type than Ethernet, and were left out")
        if undated := self._format.undated:
            self._warn(f"{undated} packets have a time before 1677 or after 2262, which is none here: theirs is NaT")

    def _damaged(self, fault: Corrupt) -> None:
        offset = self._window.offset
        if str(fault) == "a header of zeros" and (zeros := self._only_zeros()):
            self.cut_at = offset
            self._warn(
                f"its end is missing: from offset {offset} on there are only zeros{zeros}. Likely cause: the machine "
                "went down while it was written"
            )
            return
        raise RecordedError(
            f"{self.name} is damaged: at offset {offset} is {fault}. The {self.packets} packets before that were "
            "read. Likely cause: it was changed, or transferred as text. Next step: fetch it again, or try pcapfix."
        )

    def _only_zeros(self) -> str:
        """Skip zeros. Return "" when other bytes follow; else text that says how far was read, if not to the end."""
        window = self._window
        begin = window.offset
        try:
            while window.left or window.require(1):
                if window.memory[window.at : window.end].any():
                    return ""
                window.at = window.end
        except FruitlessError:
            return f", as far as was looked ({window.offset - begin:,} bytes)"
        return " to its end"

    def _warn(self, message: str) -> None:
        warn(f"{self.name}: {message}.", RecordedWarning)

    def close(self) -> None:
        """Close the file. Batches stay valid. Repeatable."""
        self._closed = True
        self._window.close()
