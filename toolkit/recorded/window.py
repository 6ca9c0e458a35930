# SPDX-License-Identifier: Apache-2.0
"""Window: read a recording in pieces, from a file, plain or compressed, a pipe, or an object with read()."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import ArgumentError, ClosedError, RecordedError, ToolkitError, kernel_error
from toolkit.recorded.decompress import decompressed, decompression_errors

__all__ = ["FruitlessError", "Window", "open_window"]

_PIECE = 1 << 20  # bytes read at a time: they are still in the CPU's cache when their packets are decoded
# Most bytes from a compressed file without a packet (the longest block, and a little), or else a multiple of the bytes
# read. Blocks other than packets compress to a tenth; zeros compress to a thousandth or a millionth, so that 900 bytes
# could keep their reader busy for ever.
_FRUITLESS = 20 << 20
_RATIO = 100


class FruitlessError(RecordedError):
    """A little compressed data became a lot, without a packet in it."""


class Window:
    """The piece of a recording that is in memory: bytes `at` to `end` of `memory` are not yet processed.

    Not thread-safe. Each piece is new memory, which is not written to again, so that arrays over it stay valid.
    """

    def __init__(
        self,
        raw: Any,
        name: str,
        *,
        whole: bool,
        close: contextlib.ExitStack,
        source: Pushed | None = None,
    ) -> None:
        """Read from `raw`, which has readinto(). whole: wait for full pieces; False for pipes.

        source: the origin of the bytes: `raw` itself, or what it decompresses.
        """
        self.name = name
        self.source = source or Pushed(b"", raw)
        self.memory: npt.NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self.view = memoryview(self.memory)  # of the same bytes
        self.at = self.end = 0
        self.cut = ""  # why the bytes ended before the end of a compressed file
        self._raw = raw
        self._whole = whole
        self._close = close
        self._start = 0  # offset of memory[0] in the recording
        self._fruit = (0, 0)  # offset, and compressed bytes read, when the last packets were found
        self._over = False
        self._failure: ToolkitError | None = None  # why reading ended; raised when all bytes before it are processed

    @property
    def offset(self) -> int:
        """Offset of the next byte to process, in the (uncompressed) recording."""
        return self._start + self.at

    @property
    def left(self) -> int:
        """Bytes in memory that are not yet processed."""
        return self.end - self.at

    def found_packets(self) -> None:
        """Record that packets were found up to here."""
        self._fruit = self.offset, self.source.taken

    def require(self, size: int) -> bool:
        """Read on until at least `size` bytes are in memory (True), or the recording ends (False)."""
        while self.left < size:
            if self._failure is not None:
                raise self._failure
            if self._over:
                return False
            self._read_on(size)
        return True

    def close(self) -> None:
        """Close what was opened. Arrays stay valid."""
        self._over = True
        self._close.close()

    def _read_on(self, size: int) -> None:
        """Read the next piece into new memory, behind the bytes that are not yet processed."""
        self.source.between()
        if self.source is not self._raw:
            self._check_fruit()
        left = self.left
        memory = np.empty(max(left + _PIECE, size), dtype=np.uint8)
        memory[:left] = self.memory[self.at : self.end]
        view = memoryview(memory)
        self._start += self.at
        self.memory, self.view, self.at, self.end = memory, view, 0, left
        while self.end < len(memory) and not self._over:
            try:
                count = self._read(view[self.end :])
            except ToolkitError as failure:
                self._failure = failure
                return
            self.end += count
            self._over = self._over or not count
            if not self._whole:
                break

    def _check_fruit(self) -> None:
        """Raise FruitlessError when little compressed data became a lot without a packet in it."""
        bytes_out, bytes_in = self._start + self.end - self._fruit[0], self.source.taken - self._fruit[1]
        if bytes_out > max(_FRUITLESS, _RATIO * bytes_in):
            raise FruitlessError(
                f"{self.name} is not read any further: {bytes_out:,} bytes from offset {self._fruit[0]:,} on hold no "
                f"Ethernet packet, and came out of a compressed file of which only {self.source.taken:,} bytes were "
                "read until then. Likely cause: it was made to keep its readers busy, a machine went down and left "
                "zeros, or packets of another link type are all alike (a load test). "
                "Next step: decompress it yourself, and read that file."
            )

    def _read(self, target: memoryview) -> int:
        try:
            count = self._raw.readinto(target)
        except _CarriedError as carried:
            raise carried.error from None
        except EOFError:
            self.cut = "its compressed data end in the middle"
            return 0
        except OSError as refused:
            if refused.errno is None:  # what bz2 raises
                raise self._broken(refused) from refused
            raise kernel_error("read", refused.errno, f"cannot read {self.name}") from refused
        except decompression_errors() as broken:
            raise self._broken(broken) from broken
        except ValueError as closed:
            raise ClosedError(f"cannot read {self.name}: {closed}. Next step: open it again.") from closed
        if not isinstance(count, int):
            raise ArgumentError(
                f"cannot read {self.name}: it has nothing to read yet, and does not wait for "
                "it. Next step: give a blocking file, or one that is complete."
            )
        return count

    def _broken(self, why: Exception) -> RecordedError:
        return RecordedError(
            f"{self.name} is damaged: after {self._start + self.end} bytes it does not decompress any further ({why}). "
            "Next step: fetch the file again; the packets before that place were read."
        )


def open_window(file: Any, between: Callable[[], object] | None = None) -> Window:
    """Open a path, `-` for standard input, or an object with readinto() or read(); detect its compression.

    between: called repeatedly while it is read; its exceptions are passed on.
    """
    with contextlib.ExitStack() as parts:
        name, raw, whole = _opened(file, parts)
        head = _peek(raw, name)
        source = Pushed(head, raw)
        source.between = between or source.between
        return Window(decompressed(source, head, name), name, whole=whole, close=parts.pop_all(), source=source)
    raise AssertionError("an exit stack swallows nothing")


def _opened(file: Any, parts: contextlib.ExitStack) -> tuple[str, Any, bool]:
    """Return (name for messages, object with readinto(), whether whole pieces can be read at once)."""
    if isinstance(file, str | os.PathLike | bytes):
        path = os.fspath(file)
        if path in ("-", b"-"):
            return "standard input", _unbuffered(sys.stdin.buffer), False
        name = os.fsdecode(path)
        try:
            raw = parts.enter_context(io.FileIO(path))
        except OSError as refused:
            remedy = "check the name" if isinstance(refused, FileNotFoundError) else ""
            raise kernel_error("open", refused.errno or 0, f"cannot read {name}", remedy=remedy) from None
        except ValueError as refused:  # a NUL in the name
            raise ArgumentError(f"cannot read {name!r}: {refused}. Next step: check the name.") from None
        return name, raw, stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
    name = str(getattr(file, "name", "") or f"a {type(file).__name__}")
    if isinstance(file, io.TextIOBase):
        raise ArgumentError(f'cannot read {name}: it was opened as text. Next step: open it with mode "rb".')
    if not hasattr(file, "read") and not hasattr(file, "readinto"):
        raise ArgumentError(
            f"cannot read packets from {name}. Next step: give a path, '-' for standard input, or a file object."
        )
    return name, _unbuffered(file), isinstance(file, io.BytesIO)


def _unbuffered(file: Any) -> Any:
    """Return the raw file below a buffered reader, which would wait until it has all bytes, even in readinto1()."""
    if hasattr(file, "read1"):
        return _Reading(file.read1)
    return file if hasattr(file, "readinto") else _Reading(file.read)


class _Reading:
    """readinto() for an object that has only read()."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read = read

    def readinto(self, target: memoryview) -> int | None:
        data = self._read(len(target))
        if data is None:
            return None
        if not isinstance(data, bytes | bytearray | memoryview) or len(data) > len(target):
            raise ArgumentError(
                f"{self._read!r} does not return bytes, or more than it was asked for. "
                "Next step: give a file that was opened for reading bytes (mode rb)."
            )
        target[: len(data)] = data
        return len(data)


class Pushed:
    """The bytes that were read to detect the format, and then the bytes that follow."""

    def __init__(self, head: bytes, raw: Any) -> None:
        self._head = head
        self._raw = raw
        self.taken = 0  # bytes
        self.between: Callable[[], object] = _nothing  # called at each read

    def readinto(self, target: Any) -> int | None:
        """Read on: see io.RawIOBase. A decompressor may read much before it has output."""
        try:
            self.between()
        except Exception as error:  # wrapped, or the decompressors would take it for a failed read
            raise _CarriedError(error) from error
        count = self._next(target)
        self.taken += count or 0
        return count

    def _next(self, target: Any) -> int | None:
        count: int | None = min(len(target), len(self._head))
        if count:
            target[:count] = self._head[:count]
            self._head = self._head[count:]
        else:
            count = self._raw.readinto(target)
        return count


class _CarriedError(Exception):
    """Carries an exception of `between` through the decompressors."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _nothing() -> None:
    """Do nothing: the default of `between`."""


def _peek(raw: Any, name: str) -> bytes:
    """Return the first four bytes, or fewer at the end."""
    head = bytearray()
    window = Window(raw, name, whole=False, close=contextlib.ExitStack())
    while len(head) < 4:
        piece = bytearray(4 - len(head))
        count = window._read(memoryview(piece))
        if not count:
            break
        head += piece[:count]
    return bytes(head)
