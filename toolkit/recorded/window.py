# SPDX-License-Identifier: Apache-2.0
"""Where recorded bytes come from: a file, plain or compressed, a pipe, an object with read(). In pieces."""

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

_PIECE = 1 << 20  # bytes read at a time: they are still in the cache when their packets are looked at
# Bytes that may come out of a compressed file without a packet (the longest block, and a little); and more, while they
# are no more than so many times what was read for them. What a recorder writes beside packets shrinks to a tenth when
# it is compressed, zeros to a thousandth or a millionth: 900 bytes could keep their reader busy for ever.
_FRUITLESS = 20 << 20
_RATIO = 100


class FruitlessError(RecordedError):
    """A little compressed data became a lot, without a packet in it."""


class Window:
    """The piece of a recording that is in memory: bytes `at` to `end` of `memory` have not been worked on yet.

    Each piece is new memory, never written to again: arrays over it stay good for as long as anybody holds them.
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
        """raw: has readinto(). whole: wait for full pieces; else work on what there is, as with a pipe.

        source: what the bytes come from in the end; `raw` itself, or what that decompresses.
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
        self._fruit = (0, 0)  # offset, and compressed bytes that were read, when the last packets were found
        self._over = False
        self._failure: ToolkitError | None = None  # why reading ended; told when all before it is worked on

    @property
    def offset(self) -> int:
        """Offset of the next byte to be worked on, in the (uncompressed) recording."""
        return self._start + self.at

    @property
    def left(self) -> int:
        """How many bytes there are to be worked on."""
        return self.end - self.at

    def found_packets(self) -> None:
        """Note that it was worth while to read until here."""
        self._fruit = self.offset, self.source.taken

    def require(self, size: int) -> bool:
        """Read on until at least `size` bytes are there (True) or the recording is over (False)."""
        while self.left < size:
            if self._failure is not None:
                raise self._failure
            if self._over:
                return False
            self._read_on(size)
        return True

    def close(self) -> None:
        """Close what was opened. Arrays stay good."""
        self._over = True
        self._close.close()

    def _read_on(self, size: int) -> None:
        """Take the next piece into new memory, after the bytes that are left over."""
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
        """Stop where a little compressed data become a lot without a packet in them."""
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
            raise ClosedError(f"cannot read {self.name}: {closed}.") from closed
        if not isinstance(count, int):
            raise ArgumentError(f"cannot read {self.name}: it has nothing to read yet, and does not wait for it.")
        return count

    def _broken(self, why: Exception) -> RecordedError:
        return RecordedError(
            f"{self.name} is damaged: after {self._start + self.end} bytes it does not decompress any further ({why}). "
            "Next step: fetch the file again; the packets before that place were read."
        )


def open_window(file: Any, between: Callable[[], object] | None = None) -> Window:
    """Open a path, `-` for standard input, or an object with readinto() or read(); see what it is compressed with.

    between: called again and again while it is read; what it raises comes out there.
    """
    with contextlib.ExitStack() as parts:
        name, raw, whole = _opened(file, parts)
        head = _peek(raw, name)
        source = Pushed(head, raw)
        source.between = between or source.between
        return Window(decompressed(source, head, name), name, whole=whole, close=parts.pop_all(), source=source)
    raise AssertionError("an exit stack swallows nothing")


def _opened(file: Any, parts: contextlib.ExitStack) -> tuple[str, Any, bool]:
    """Return (name for messages, object with readinto(), whether it is a file of which a piece comes at once)."""
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
            raise ArgumentError(f"cannot read {name!r}: {refused}.") from None
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
    """A buffered reader waits until it has all that was asked for, in readinto1() too; from a pipe we want what there
    is.
    """
    if hasattr(file, "read1"):
        return _Reading(file.read1)
    return file if hasattr(file, "readinto") else _Reading(file.read)


class _Reading:
    """readinto() for what has only a kind of read()."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self._read = read

    def readinto(self, target: memoryview) -> int | None:
        data = self._read(len(target))
        if data is None:
            return None
        if not isinstance(data, bytes | bytearray | memoryview) or len(data) > len(target):
            raise ArgumentError(f"{self._read!r} does not return bytes, or more than it was asked for.")
        target[: len(data)] = data
        return len(data)


class Pushed:
    """Bytes that were looked at, and what follows them."""

    def __init__(self, head: bytes, raw: Any) -> None:
        self._head = head
        self._raw = raw
        self.taken = 0  # bytes
        self.between: Callable[[], object] = _nothing  # called again and again, whatever comes

    def readinto(self, target: Any) -> int | None:
        """Read on: see io.RawIOBase. Much may be read in vain before a decompressor has a byte."""
        try:
            self.between()
        except Exception as error:  # else it would be taken for a failure of the reading that it comes out of
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
    """Brings what `between` raised through the decompressors."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _nothing() -> None:
    """Be called between pieces."""


def _peek(raw: Any, name: str) -> bytes:
    """Read the first four bytes, fewer if there are no more."""
    head = bytearray()
    window = Window(raw, name, whole=False, close=contextlib.ExitStack())
    while len(head) < 4:
        piece = bytearray(4 - len(head))
        count = window._read(memoryview(piece))
        if not count:
            break
        head += piece[:count]
    return bytes(head)
