# SPDX-License-Identifier: Apache-2.0
"""ParquetSink: write packets to Parquet: one file, or a dataset in directories by date and hour (one table in Hive)."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit._base.access import Access
from toolkit._base.careful import Folder, is_directory
from toolkit._base.memory import affordable
from toolkit._base.uninterrupted import uninterrupted
from toolkit.capture.parquet_file import Dataset, OneFile, ParquetFile
from toolkit.decode import decode
from toolkit.errors import closed_error
from toolkit.tables.arrow import pyarrow, record_batch
from toolkit.tables.cells import PacketTable, packet_cells
from toolkit.tables.schema import Addresses

if TYPE_CHECKING:
    import pyarrow as pa

    from toolkit.batch.batch import Batch

__all__ = ["ParquetSink"]

_GATHER = 2048  # packets that are decoded at a time: 60 columns cost 0.3 ms each time, however few packets there are
_GATHER_BYTES = 1 << 24
_ROWS = 1 << 17  # rows of a row group by default
_ROW = 1800  # bytes of a row: its columns, twice while a thread writes them, and those of the next group meanwhile
# Columns whose values repeat: a dictionary makes them small. In other columns it costs time and saves nothing.
_REPEATING = (
    *("eth_", "arp_", "ip_src", "ip_dst", "ip_proto", "ip_ttl", "ip6_", "src_port", "dst_port", "vlan", "queue"),
    *("length", "wire_length", "ip_len", "udp_len", "payload_"),
)


class ParquetSink:
    """Writes Batches to Parquet. Use it as a context manager, or call close(): a file without its end is unreadable.

    Not thread-safe. packets: how many write() got. written: how many of them are in row groups on disk; close() writes
    the others. After close() `packets - written` are lost, for the reason that write() or close() raised.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        filter: str | None = None,
        interface: str | None = None,
        force: bool = False,
        access: Access | None = None,
        rows_per_group: int | None = None,
        seconds_per_file: float = 60.0,
        addresses: Addresses = "text",
        head: int = 0,
        compression: str = "zstd",
    ) -> None:
        """Create the file; with a trailing slash, or for an existing directory, a dataset in it.

        A dataset has files in directories `date=2026-11-22/hour=18/`, in UTC. Each file gets its name when it is
        complete, after `seconds_per_file`: the dataset can be read while it is written, and a crash loses only the open
        files. Files are only added; `force` is for single files.
        access: who may read the files, and list the directories that are made for them; by default the owner only.
        filter, interface: text for the files' metadata. rows_per_group: packets of a row group, which are in memory
        until it is written (some 300 bytes each); by default 131072, fewer when memory is short. addresses, head: see
        Batch.to_arrow(); in a file, "dictionary" is the same as "text". compression: "zstd", "snappy", "none".
        SystemCallError when the file cannot be created; LibraryError without pyarrow.
        """
        root = Path(path)
        self.path = root
        dataset = root.is_dir() or is_directory(os.fspath(path))
        metadata = {"writer": "afxdp-toolkit"}
        metadata |= {key: value for key, value in (("filter", filter), ("interface", interface)) if value is not None}
        schema = _gathered([], "binary" if addresses == "binary" else "dictionary", head).schema
        options = {
            "compression": compression,
            "use_dictionary": [name for name in schema.names if name.startswith(_REPEATING)],
        }

        access = access or Access()

        def create(folder: Folder, name: str) -> ParquetFile:
            return ParquetFile(folder, name, schema, metadata, access=access, force=force, hidden=dataset, **options)

        def begin() -> None:
            if dataset:
                files: OneFile | Dataset = Dataset(Folder(root, make=access), create, seconds_per_file, access)
            else:
                with Folder.of(root) as folder:
                    files = OneFile(create(folder, root.name))
            rows = affordable(_ROWS * _ROW, _GATHER * _ROW) // _ROW if rows_per_group is None else rows_per_group
            self._writing = _Writing(files, rows, head)
            # A sink that is garbage-collected, or open when the interpreter ends, is closed; but not in a forked child.
            self._finalizer = weakref.finalize(self, _forgotten, self._writing, os.getpid())

        # Uninterrupted: otherwise an interrupt could leave descriptors, and a file in the way of the next attempt.
        uninterrupted(begin, dispose=lambda _: self.discard())

    def __enter__(self) -> ParquetSink:
        """Close at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Show the path, and how much is written."""
        return f"<ParquetSink {self.path}: {self.packets} packets, {self.bytes} bytes written>"

    @property
    def packets(self) -> int:
        """Packets given to write()."""
        return self._writing.packets

    @property
    def written(self) -> int:
        """Packets in complete row groups."""
        return self._writing.files.rows

    @property
    def bytes(self) -> int:
        """Bytes written so far, in all files."""
        return self._writing.files.bytes

    def write(self, batch: Batch) -> None:
        """Write the packets of a Batch; no reference to it is kept.

        SystemCallError when the disk is full: the `written` packets can be read after close(), the others are lost.
        """
        self._writing.add(batch)

    def tick(self) -> None:
        """Close the files whose time is over; write() does that as well, when packets come."""
        self._writing.tick()

    def close(self, statistics: Mapping[str, Any] | None = None) -> None:
        """Write the remaining packets and the end of each file, even after a failure. Repeatable.

        statistics: `received`, `dropped` and other counts of the capture. They go into the metadata of the file, for a
        dataset into `_capture-….json` beside its directories.
        """

        def end() -> None:
            self._finalizer.detach()
            self._writing.close(statistics or {})

        uninterrupted(end)  # otherwise a file may lack its end

    def discard(self) -> None:
        """End and remove the files: for a capture that fails before there are packets. New directories stay."""
        self._finalizer.detach()
        self._writing.discard()


class _Writing:
    """The work of a sink, in an object of its own, because the sink's finalizer keeps it alive.

    A row group is written by a thread, while the next one is decoded: Arrow does not need the GIL for it.
    """

    def __init__(self, files: OneFile | Dataset, rows_per_group: int, head: int) -> None:
        self.files = files
        self.packets = 0
        self._rows_per_group = rows_per_group
        self._head = head
        self._waiting: list[_Held] = []  # not yet decoded
        self._waiting_packets = self._waiting_bytes = 0
        self._decoded: list[pa.RecordBatch] = []
        self._decoded_rows = 0
        self._failed: Exception | None = None
        self._writer: threading.Thread | None = None  # which writes a row group
        self._closed = False

    def add(self, batch: Batch) -> None:
        if self._closed:
            raise closed_error("this ParquetSink is closed")
        self.packets += len(batch)
        if self._failed is not None:
            raise self._failed
        if not self._waiting and len(batch) >= _GATHER // 2:  # large enough to decode without a copy
            self._decoded.append(record_batch(packet_cells(batch.tabular(self._head), None, "binary")))
            self._decoded_rows += len(batch)
        elif batch:
            held = _Held(batch)
            self._waiting.append(held)
            self._waiting_packets += len(batch)
            self._waiting_bytes += held.memory.size
            if self._waiting_packets >= _GATHER or self._waiting_bytes >= _GATHER_BYTES:
                self._decode()
        if self._decoded_rows >= self._rows_per_group:
            self._flush(beside=True)
        self.tick()

    def tick(self) -> None:
        if self._failed is None and not self._closed and self.files.due():
            self._flush()
            self.files.finish({})

    def close(self, statistics: Mapping[str, Any]) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._flush()
        finally:
            self.files.end({"packets": self.files.rows, **statistics})

    def discard(self) -> None:
        if not self._closed:
            self._closed = True
            self._join()
            self.files.discard()

    def _decode(self) -> None:
        if self._waiting:
            self._decoded.append(_gathered(self._waiting, "binary", self._head))
            self._decoded_rows += self._waiting_packets
            self._waiting, self._waiting_packets, self._waiting_bytes = [], 0, 0

    def _flush(self, *, beside: bool = False) -> None:
        """Write the waiting rows as a row group; beside: by a thread, whose failure the next call raises."""
        if self._join():
            return
        self._decode()
        if not self._decoded:
            return
        table = pyarrow("Parquet").Table.from_batches(self._decoded)  # addresses are numbers still: see ParquetFile
        self._decoded, self._decoded_rows = [], 0
        if beside:
            self._writer = threading.Thread(target=self._append, args=(table,), name="parquet")
            self._writer.start()
            return
        self._append(table)
        if self._failed is not None:
            raise self._failed

    def _append(self, table: pa.Table) -> None:
        try:
            self.files.append(table)
        except Exception as error:
            self._failed = error

    def _join(self) -> bool:
        """Wait until no thread writes. Raises the failure of the thread; returns whether there was one before."""
        failed, writer = self._failed, self._writer
        if writer is not None:
            writer.join()
            self._writer = None
        if failed is None and self._failed is not None:
            raise self._failed
        return failed is not None


class _Held:
    """The data of a Batch that a table needs, in memory of its own."""

    def __init__(self, batch: Batch) -> None:
        self.lengths = batch.lengths
        self.width = int(self.lengths.max())
        self.memory = batch.head(self.width)
        self.times, self.wire_lengths, self.rule_numbers = batch.timestamps, batch.wire_lengths, batch.rule_numbers
        self.queues = np.full(len(batch), batch.queue, dtype=np.uint32)


def _gathered(held: list[_Held], addresses: Addresses, head: int) -> pa.RecordBatch:
    """Decode packets of several Batches as one."""
    lengths = np.concatenate([one.lengths for one in held] or [np.zeros(0, np.int64)])
    memory = np.concatenate([one.memory.reshape(-1) for one in held] or [np.zeros(0, np.uint8)])
    widths = np.repeat(np.array([one.width for one in held], np.int64), [len(one.lengths) for one in held])
    offsets = np.cumsum(widths) - widths
    packets = PacketTable(
        decode(memory, offsets, lengths),
        np.concatenate([one.times for one in held] or [np.zeros(0, "datetime64[ns]")]),
        np.concatenate([one.wire_lengths for one in held] or [np.zeros(0, np.uint32)]),
        np.concatenate([one.queues for one in held] or [np.zeros(0, np.uint32)]),
        np.concatenate([one.rule_numbers for one in held] or [np.zeros(0, np.uint32)]),
        _heads(memory, offsets, lengths, head) if head else None,
    )
    return record_batch(packet_cells(packets, None, addresses))


def _heads(memory: Any, offsets: Any, lengths: Any, head: int) -> Any:
    from toolkit.decode import head as heads

    return heads(memory, offsets, lengths, head)


def _forgotten(writing: _Writing, owner: int) -> None:
    if os.getpid() == owner:
        writing.close({})
