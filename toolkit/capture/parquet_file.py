# SPDX-License-Identifier: Apache-2.0
"""ParquetFile: one Parquet file that is being written, complete when closed, even on a full disk; or many, by hour."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit._base import fork
from toolkit._base.access import Access
from toolkit._base.careful import Folder
from toolkit._base.clock import NAT
from toolkit.errors import removed_error, write_error
from toolkit.tables.arrow import pyarrow, with_text

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Dataset", "OneFile", "ParquetFile", "parquet_schema"]

_MOST_OPEN = 32  # open files of a dataset, two descriptors each: a recording may have the hours of a year
_HOUR = 3_600_000_000_000  # ns
_UNDATED = "__HIVE_DEFAULT_PARTITION__"  # Hive's name for a missing value: packets without a time
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FOOTER = 1 << 18  # bytes kept free for the footer of a file without row groups
_FOOTER_GROUP = 1 << 14  # bytes more for each row group: some 200 bytes a column
_DICTIONARY = 1 << 19  # bytes of a dictionary that surely stays one (Parquet's limit is 1 MB)
_COLUMN = 1 << 16  # bytes of a column chunk beyond its values: page headers, a dictionary that was not used


def parquet_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of a Parquet file for record batches of `schema`: `time` in microseconds, then `time_ns`.

    Spark refuses nanoseconds with a time zone, and DuckDB cuts them to microseconds. So `time` is a timestamp that
    every engine reads, and `time_ns` is the exact time: int64, ns since 1970.
    """
    pa = pyarrow("Parquet")
    fields = list(schema)
    if "time" in schema.names:
        at = schema.names.index("time")
        fields[at : at + 1] = [pa.field("time", pa.timestamp("us", tz="UTC")), pa.field("time_ns", pa.int64())]
    return pa.schema(fields)


def _for_file(pa: Any, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return what is written: addresses as text (each distinct one once) if `schema` has them so, and both times."""
    if any(pa.types.is_dictionary(field.type) for field in schema):
        table = with_text(table)
    arrays = []
    for field in schema:
        if field.name == "time":
            arrays.append(table["time"].cast(field.type, safe=False))  # cuts the last three digits off
        elif field.name == "time_ns":
            arrays.append(table["time"].cast(pa.int64()))
        else:
            arrays.append(table[field.name])
    return pa.Table.from_arrays(arrays, schema=schema)


def _most(pa: Any, table: pa.Table) -> int:
    """Return the most bytes that the values of a row group take: without a dictionary, where that is too large."""
    size: int = table.nbytes
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            longest = max(
                (int(np.diff(_offsets(chunk.dictionary)).max(initial=0)) for chunk in column.chunks), default=0
            )
            if sum(chunk.dictionary.nbytes for chunk in column.chunks) > _DICTIONARY:
                size += (longest + 4) * len(column)
    return size


def _offsets(strings: Any) -> Any:
    return np.frombuffer(strings.buffers()[1], np.int32, len(strings) + 1)


class ParquetFile:
    """A file in a directory; with `hidden` it gets its name only when it is complete (.NAME.tmp until then)."""

    def __init__(
        self,
        folder: Folder,
        name: str,
        schema: pa.Schema,
        metadata: Mapping[str, str],
        *,
        access: Access,
        force: bool,
        hidden: bool,
        **options: Any,
    ) -> None:
        """Create the file. schema: of what is written, where addresses as text are dictionary columns: to readers they
        are text. force: replace an existing file.

        options: for pyarrow's ParquetWriter. SystemCallError when it cannot be created; EEXIST without `force`.
        """
        pa = pyarrow("Parquet")
        import pyarrow.parquet as pq

        self.path = folder.path / name
        self.rows = 0  # in complete row groups
        self._groups = 0
        self._size = 0  # bytes, once it is closed
        self._name, self._draft = name, f".{name}.tmp" if hidden else name
        self._at = folder.path / self._draft
        if hidden:
            folder.check(name, force=force)
        self._folder = folder.copy()
        try:
            self._fd = folder.create(self._draft, access, allowed=lambda found: force and not hidden)
        except BaseException:
            self._folder.close()
            raise
        self._schema = parquet_schema(schema)
        self._metadata = dict(metadata)
        self._file = _Output(self._fd)
        self._sink = pa.PythonFile(self._file, mode="w")
        try:
            self._reserve(0, 0)
            # Without Arrow's own schema in the file, in which addresses would be dictionaries to pyarrow's readers.
            self._writer: Any = pq.ParquetWriter(self._sink, self._schema, store_schema=False, **options)
        except BaseException:
            with contextlib.suppress(OSError):
                self._folder.remove(self._draft, self._fd)
            self._folder.close()
            os.close(self._fd)
            raise

        fork.track(self)

    def _after_fork_in_child(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return self._file.tell() if self._fd >= 0 else self._size

    def append(self, table: pa.Table) -> None:
        """Write a row group; table: with addresses="binary".

        SystemCallError (ENOSPC) when it does not fit: then the file stays as it was.
        """
        pa = pyarrow("Parquet")
        table = _for_file(pa, table, self._schema)
        # Space is reserved first, because a row group that was written in part could not be removed.
        self._reserve(_most(pa, table) + len(self._schema) * _COLUMN, self._groups + 1)
        try:
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        except OSError as refused:
            raise write_error(refused, str(self._at), "write") from None
        self._groups += 1
        self.rows += table.num_rows

    def discard(self) -> None:
        """Close and remove the file: for a capture that fails before there are packets. Repeatable."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                self._folder.remove(self._draft, fd)
            self._folder.close()
            os.close(fd)
            self._file.drop()
            self._writer.close()

    def close(self, metadata: Mapping[str, str]) -> None:
        """Write the footer, `metadata` in it, and give the file its name. Repeatable."""
        if self._fd < 0:
            return
        fd, end = self._fd, None
        try:
            self._writer.add_key_value_metadata({**self._metadata, **metadata})
            self._writer.close()
            end = self._file.tell()
        except OSError as refused:
            raise write_error(refused, str(self._at), "write") from None
        finally:
            self._fd = -1
            if end is not None:
                os.ftruncate(fd, end)  # frees what was reserved and not used
                self._size = end
            removed = os.fstat(fd).st_nlink == 0
            try:
                if end is not None and not removed and self._draft != self._name:
                    removed = not self._folder.rename(self._draft, self._name, fd)
            finally:
                os.close(fd)
                self._folder.close()
        if removed:
            self.rows = 0
            raise removed_error(str(self._at))

    def _reserve(self, size: int, groups: int) -> None:
        """Reserve `size` more bytes on the disk, and those of the footer."""
        try:
            at = self._file.tell()
            os.posix_fallocate(self._fd, at, size + _FOOTER + groups * _FOOTER_GROUP)
        except OSError as refused:
            if refused.errno in _FULL:
                raise write_error(refused, str(self._at), "write") from None
            # Not possible on this file system or device: then the disk has to be large enough.


class _Output(io.RawIOBase):
    """The file for Arrow, which does not check for short writes: each write is complete. Dead in a forked child."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._owner = os.getpid()
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def drop(self) -> None:
        """Ignore all further writes."""
        self._owner = 0

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left and os.getpid() == self._owner:
            done = os.write(self._fd, left)
            self._at += done
            left = left[done:]
        return size


class OneFile:
    """One file: what a sink without a trailing slash writes to."""

    def __init__(self, file: ParquetFile) -> None:
        self._file = file

    @property
    def rows(self) -> int:
        """Return the rows in complete row groups."""
        return self._file.rows

    @property
    def bytes(self) -> int:
        """Return the bytes written so far."""
        return self._file.bytes

    def due(self) -> bool:
        """Return whether it is time to finish the files."""
        return False

    def append(self, table: pa.Table) -> None:
        """Write a row group: see ParquetFile.append()."""
        self._file.append(table)

    def finish(self, statistics: Mapping[str, Any]) -> None:
        """Do nothing: the file ends with the sink."""

    def discard(self) -> None:
        """Close and remove what is open."""
        self._file.discard()

    def end(self, statistics: Mapping[str, Any]) -> None:
        """Finish, with these counts."""
        self._file.close({name: _plain(value) for name, value in statistics.items()})


class Dataset:
    """Files in directories by date and hour; how OneFile is used, so is this."""

    def __init__(
        self, root: Folder, create: Callable[[Folder, str], ParquetFile], seconds: float, access: Access
    ) -> None:
        self._root = root
        self._create = create
        self._access = access
        self._seconds = seconds
        self._open: dict[str, ParquetFile] = {}  # by partition, in the order of the last write
        self._until = time.monotonic() + seconds
        self._rows = self._bytes = 0  # of closed files
        self._number = 0
        self._name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{os.urandom(3).hex()}"

    @property
    def rows(self) -> int:
        """Return the rows in complete row groups."""
        return self._rows + sum(file.rows for file in list(self._open.values()))  # a thread may add one

    @property
    def bytes(self) -> int:
        """Return the bytes written so far."""
        return self._bytes + sum(file.bytes for file in list(self._open.values()))

    def due(self) -> bool:
        """Return whether it is time to finish the files."""
        return time.monotonic() >= self._until

    def append(self, table: pa.Table) -> None:
        """Write a row group: see ParquetFile.append()."""
        for partition, part in _partitions(table):
            file = self._open.pop(partition, None)
            if file is None:
                while len(self._open) >= _MOST_OPEN:
                    self._finish(next(iter(self._open)), {})
                date, hour = partition.split("/")
                with self._root.below(date, self._access) as day, day.below(hour, self._access) as folder:
                    file = self._create(folder, f"part-{self._name}-{self._number:05}.parquet")
                self._number += 1
            self._open[partition] = file
            file.append(part)

    def finish(self, statistics: Mapping[str, Any]) -> None:
        """Close every open file."""
        metadata = {name: _plain(value) for name, value in statistics.items()}
        self._until = time.monotonic() + self._seconds
        failure: Exception | None = None
        while self._open:
            try:
                self._finish(next(reversed(self._open)), metadata)
            except Exception as refused:  # the other files are closed as well
                failure = failure or refused
        if failure is not None:
            raise failure

    def _finish(self, partition: str, metadata: Mapping[str, str]) -> None:
        """Close one open file."""
        file = self._open.pop(partition)
        try:
            file.close(metadata)
        finally:
            self._rows += file.rows
            self._bytes += file.bytes

    def discard(self) -> None:
        """Close and remove what is open."""
        for file in self._open.values():
            file.discard()
        self._root.close()

    def end(self, statistics: Mapping[str, Any]) -> None:
        """Finish, with these counts."""
        try:
            self.finish(statistics)
        finally:
            text = json.dumps(dict(statistics), default=str) + "\n"
            with self._root as root, open(root.create(f"_capture-{self._name}.json", self._access), "w") as file:
                file.write(text)


def _partitions(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the packets of each hour, with their directory."""
    times = table["time"].to_numpy()
    hours = np.where(np.isnat(times), NAT, times.astype(np.int64) // _HOUR)  # NaT's value is not that of any hour
    present = np.unique(hours)
    for hour in present.tolist():
        part = table if len(present) == 1 else table.take(np.flatnonzero(hours == hour))
        if hour == NAT:
            yield f"date={_UNDATED}/hour={_UNDATED}", part
        else:
            text = time.strftime("date=%Y-%m-%d", time.gmtime(hour * 3600)) + f"/hour={hour % 24}"
            yield text, part


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
