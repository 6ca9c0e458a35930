# SPDX-License-Identifier: Apache-2.0
"""Destination: where a capture goes, in which format, and what writes it: files of packets, or tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from toolkit._base.access import Access
from toolkit._base.arguments import cannot_be, one_of
from toolkit._base.careful import is_directory
from toolkit.capture.compression import Compression, compressor, suffix_of
from toolkit.capture.files import PacketFiles
from toolkit.capture.handler import FormatWriter
from toolkit.capture.options import Queueing
from toolkit.capture.pcap import PcapWriter
from toolkit.capture.pcapng import PcapngWriter
from toolkit.capture.records import LARGEST_SNAPLEN, Counts
from toolkit.capture.rotation import Rotation
from toolkit.capture.source import PacketSource, about_of
from toolkit.capture.table_writer import Tables, check_one_file, check_tables
from toolkit.errors import ArgumentError

__all__ = ["Destination", "FileFormat", "format_of"]

FileFormat = Literal["pcapng", "pcap", "parquet"]

_OTHERS = (".arrow", ".csv", ".feather", ".ipc", ".json", ".jsonl", ".ndjson", ".orc", ".tsv", ".xlsx")


class Destination(NamedTuple):
    """A path, and what a capture's user wants of the files there."""

    given: str  # the path as it was given: a slash at its end means something to Parquet
    format: FileFormat
    compress: Compression | None
    force: bool
    access: Access
    rotation: Rotation
    queueing: Queueing

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        format: FileFormat | None,
        compress: Compression | None,
        access: Access,
        rotation: Rotation,
        queueing: Queueing,
        *,
        force: bool,
    ) -> Destination:
        """Check the path and the format, which is by default that of the suffix. ArgumentError."""
        given = _as_text(path)
        format = format or format_of(given)
        one_of("format", format, *get_args(FileFormat))
        queueing.check()
        return cls(given, format, compress, force, access, rotation, queueing)

    @property
    def path(self) -> Path | None:
        """The file or directory; None for standard output."""
        return None if self.given == "-" else Path(self.given)

    def open(self, source: PacketSource | None, snaplen: int, counts: Callable[[], Counts]) -> PacketFiles | Tables:
        """Create the file, for packets of `source`. counts: returns those that go into the file.

        SystemCallError, ArgumentError, LibraryError as Capture raises them.
        """
        if self.format == "parquet":
            return self._tables(source, snaplen, counts)
        check_one_file(self.given, self.format)
        about, path, compress = about_of(source, snaplen), self.path, self.compress
        make: FormatWriter = PcapWriter(about) if self.format == "pcap" else PcapngWriter(about)
        if compress is None and path is not None:
            compress = suffix_of(path)
        return PacketFiles(
            path,
            make,
            rotation=self.rotation,
            compressor=compressor(compress),
            force=self.force,
            access=self.access,
            queueing=self.queueing,
            counts=counts,
        )

    def _tables(self, source: PacketSource | None, snaplen: int, counts: Callable[[], Counts]) -> Tables:
        check_tables(self.given, self.rotation, self.compress, force=self.force)
        if snaplen != LARGEST_SNAPLEN:
            raise ArgumentError("parquet holds headers, not packets. Next step: leave snaplen out, or write pcapng.")
        from toolkit.capture.parquet import ParquetSink

        sink = ParquetSink(
            self.given,
            filter=(source.filter or "") if source is not None else "",
            interface=source.device.name if source is not None else "",
            force=self.force,
            access=self.access,
        )
        try:
            return Tables(sink, str(self.path), self.queueing, counts)
        except BaseException:
            sink.discard()
            raise


def _as_text(path: str | os.PathLike[str]) -> str:
    """Return the path as text. ArgumentError if it is not a path."""
    try:
        given = os.fsdecode(path)
    except TypeError:
        given = ""
    if not given or "\0" in given:
        raise cannot_be("path", path, "the name of a file, or '-' for standard output")
    return given


def format_of(given: str) -> FileFormat:
    """Return the format by the suffix of a path: Parquet for a directory, pcapng without a known suffix.

    ArgumentError for the suffix of another kind of table, because the file would not have that format.
    """
    path = Path(given)
    name = path.stem if suffix_of(path) else path.name
    if (asked := Path(name).suffix.lower()) in _OTHERS:
        raise ArgumentError(
            f"a capture is written as pcapng, pcap or Parquet, not as {asked}. "
            "Next step: name it x.parquet for tables; toolkit.read(...) and Batch.decode().to_pandas() make any other."
        )
    by_suffix: dict[str, FileFormat] = {".pcap": "pcap", ".cap": "pcap", ".parquet": "parquet"}
    return by_suffix.get(Path(name).suffix.lower(), "parquet" if is_directory(given) else "pcapng")
