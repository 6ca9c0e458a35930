# SPDX-License-Identifier: Apache-2.0
"""Decompress recordings while they are read: gzip, zstd, xz and bzip2."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from toolkit.abi.shared_library import importing
from toolkit.errors import RecordedError

__all__ = ["decompressed", "decompression_errors"]

_PIECE = 1 << 16  # compressed bytes read at a time
_ZSTD_PIECE = 256  # bytes at a time for the package zstandard, which cannot limit its output: this keeps it below 8 MB
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a frame that every reader of zstd skips
_XZ_MEMORY = 1 << 28  # bytes; `xz -9` needs 65 MB, but a hostile file can demand any amount


class _Decompressor(Protocol):
    """A decompressor for one stream, as in the modules bz2, lzma and compression.zstd."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes | memoryview: ...


def decompressed(raw: Any, head: bytes, name: str) -> Any:
    """Return an object whose readinto() decompresses `raw`, which begins with `head`; `raw` itself if it is plain."""
    for magic, maker in _FORMATS.items():
        if head.startswith(magic):
            return maker(raw, name)
    if _SKIPPABLE.match(head):
        return _zstd(raw, name)
    return raw


def decompression_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the libraries for damaged data, without importing one."""
    names = {"lzma": "LZMAError", "compression.zstd": "ZstdError", "zstandard": "ZstdError"}
    loaded = [getattr(sys.modules[module], name) for module, name in names.items() if module in sys.modules]
    return zlib.error, *loaded


class _Stream:
    """Decompresses one stream after the other: compressors may append streams to a file."""

    def __init__(self, raw: Any, make: Callable[[], _Decompressor]) -> None:
        self._raw = raw
        self._make = make
        self._one = make()
        self._begun = False  # whether the decompressor has got any data

    def readinto(self, target: memoryview) -> int | None:
        """Decompress into target; return the bytes, 0 at the end. EOFError if the data end inside a stream."""
        pending = b""
        while True:
            if self._one.eof:
                pending, self._one, self._begun = self._one.unused_data, self._make(), False
            if not pending and (self._one.needs_input or not self._begun):
                piece = bytearray(_PIECE)
                count = self._raw.readinto(piece)
                if count is None:
                    return None
                if not count:
                    if self._begun:
                        raise EOFError
                    return 0
                pending = bytes(piece[:count])
            if not self._begun:
                pending = pending.lstrip(b"\0")  # padding: of the last block of a tape or disk, or of xz
                if not pending:
                    continue
            self._begun = True
            data = self._one.decompress(pending, len(target))
            pending = b""
            if data:
                target[: len(data)] = data
                return len(data)


class _Inflater:
    """zlib's decompressor for one gzip member, as a _Decompressor."""

    def __init__(self) -> None:
        self._one = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._one.eof

    @property
    def unused_data(self) -> bytes:
        return self._one.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._one.decompress(self._one.unconsumed_tail + data, max_length)
        self.needs_input = not self._one.unconsumed_tail and len(out) < max_length
        return out


def _zstd(raw: Any, name: str) -> Any:
    """Return a decompressor of the standard library from Python 3.14 on, else of the package zstandard."""
    try:
        from compression import zstd

        return _Stream(raw, zstd.ZstdDecompressor)
    except ImportError:
        pass
    missing = RecordedError(
        f"{name} is compressed with zstd, for which this Python has no library. "
        f"Next step: `pip install zstandard`, or `zstd -d {name}` first."
    )
    with importing("zstandard", missing):
        import zstandard
    return _Stream(raw, lambda: _Unpacker(zstandard.ZstdDecompressor().decompressobj()))


def _bzip2(raw: Any, name: str) -> Any:
    import bz2

    return _Stream(raw, bz2.BZ2Decompressor)


def _xz(raw: Any, name: str) -> Any:
    import lzma

    return _Stream(raw, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))


class _Unpacker:
    """The package zstandard's decompressor for one frame, as a _Decompressor.

    Not its stream_reader(), which accepts a frame that was cut off.
    """

    def __init__(self, one: Any) -> None:
        self._one = one
        self._todo = memoryview(b"")  # compressed
        self._done = memoryview(b"")  # decompressed, and not yet returned

    @property
    def needs_input(self) -> bool:
        return not self._todo and not self._done

    @property
    def eof(self) -> bool:
        return bool(self._one.eof) and not self._done

    @property
    def unused_data(self) -> bytes:
        return bytes(self._one.unused_data) + bytes(self._todo)

    def decompress(self, data: bytes, max_length: int) -> memoryview:
        if data:
            self._todo = memoryview(bytes(self._todo) + data)
        while self._todo and not self._done and not self._one.eof:
            piece, self._todo = self._todo[:_ZSTD_PIECE], self._todo[_ZSTD_PIECE:]
            self._done = memoryview(self._one.decompress(piece))
        out, self._done = self._done[:max_length], self._done[max_length:]
        return out


_FORMATS: dict[bytes, Callable[[Any, str], Any]] = {
    b"\x1f\x8b": lambda raw, _: _Stream(raw, _Inflater),
    b"\x28\xb5\x2f\xfd": _zstd,
    b"BZh": _bzip2,
    b"\xfd7zX": _xz,
}
