# SPDX-License-Identifier: Apache-2.0
"""Compressed recordings, decompressed as they are read: gzip, zstd, and what else Python has a library for."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from toolkit.errors import RecordedError

__all__ = ["decompressed", "decompression_errors"]

_PIECE = 1 << 16  # compressed bytes read at a time


class _Decompressor(Protocol):
    """As in the modules bz2, lzma and compression.zstd: for one stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def decompressed(raw: Any, head: bytes, name: str) -> Any:
    """Return an object with readinto() for what `raw` holds, which begins with `head`; `raw` itself if it is plain."""
    for magic, maker in _FORMATS.items():
        if head.startswith(magic):
            return maker(raw, name)
    return raw


def decompression_errors() -> tuple[type[Exception], ...]:
    """What damaged data make the libraries raise; without importing one."""
    names = {"lzma": "LZMAError", "compression.zstd": "ZstdError", "zstandard": "ZstdError"}
    loaded = [getattr(sys.modules[module], name) for module, name in names.items() if module in sys.modules]
    return zlib.error, *loaded


class _Stream:
    """Stream after stream, each to its own decompressor: what a compressor appends to is as good as one."""

    def __init__(self, raw: Any, make: Callable[[], _Decompressor]) -> None:
        self._raw = raw
        self._make = make
        self._one = make()
        self._begun = False  # whether the decompressor has seen anything

    def readinto(self, target: memoryview) -> int | None:
        """Decompress something into target; 0 at the end. EOFError when that is not the end of a stream."""
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
            self._begun = True
            data = self._one.decompress(pending, len(target))
            pending = b""
            if data:
                target[: len(data)] = data
                return len(data)


class _Inflater:
    """zlib's decompressor for one gzip member, with the face of the others."""

    def __init__(self) -> None:
        self._one = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._one.eof

    @property
    def unused_data(self) -> bytes:
        return self._one.unused_data.lstrip(b"\0")  # tapes and disks fill the last block with zeros

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._one.decompress(self._one.unconsumed_tail + data, max_length)
        self.needs_input = not self._one.unconsumed_tail and len(out) < max_length
        return out


def _zstd(raw: Any, name: str) -> Any:
    """Python's own from 3.14 on, else the package zstandard."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]

        return _Stream(raw, zstd.ZstdDecompressor)
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        raise RecordedError(
            f"{name} is compressed with zstd, for which this Python has no library. "
            f"Next step: `pip install zstandard`, or `zstd -d {name}` first."
        ) from None
    source: Any = _Readable(raw)
    return zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)


def _bzip2(raw: Any, name: str) -> Any:
    import bz2

    return _Stream(raw, bz2.BZ2Decompressor)


def _xz(raw: Any, name: str) -> Any:
    import lzma

    return _Stream(raw, lzma.LZMADecompressor)


class _Readable:
    """What zstandard wants: read()."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def read(self, size: int) -> bytes:
        piece = bytearray(size)
        return bytes(piece[: self._raw.readinto(piece) or 0])


_FORMATS: dict[bytes, Callable[[Any, str], Any]] = {
    b"\x1f\x8b": lambda raw, _: _Stream(raw, _Inflater),
    b"\x28\xb5\x2f\xfd": _zstd,
    b"BZh": _bzip2,
    b"\xfd7zX": _xz,
}
