# SPDX-License-Identifier: Apache-2.0
"""Compress what is written to a file: gzip or zstd, in pieces that can each be read without what follows."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Literal, Protocol

from toolkit._base.arguments import cannot_be
from toolkit.abi.shared_library import importing
from toolkit.capture.pack import Bytes
from toolkit.errors import LibraryError

__all__ = ["SUFFIXES", "Compression", "Compressor", "compressor", "suffix_of"]

Compression = Literal["gzip", "zstd"]
SUFFIXES: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}


class Compressor(Protocol):
    """A compressor."""

    def feed(self, data: bytes | Bytes) -> bytes:
        """Compress `data`, without keeping a reference to it; return the output that is ready."""

    def finish(self) -> bytes:
        """Return the remaining output; it ends a piece that can be read by itself (a gzip member, a zstd frame)."""


def suffix_of(path: Path) -> Compression | None:
    """Return the compression by the suffix of the file's name."""
    return SUFFIXES.get(path.suffix.lower())


def compressor(kind: str | None) -> Compressor | None:
    """Return a compressor of that kind, None for None. LibraryError when a package is missing."""
    if kind is None:
        return None
    if kind == "gzip":
        return _Gzip()
    if kind == "zstd":
        return _Zstd()
    raise cannot_be("compress", kind, '"gzip" or "zstd"')


class _Gzip:
    """gzip at the fastest level: the others take several times as long, for a few percent."""

    def __init__(self) -> None:
        self._member = zlib.compressobj(level=1, wbits=31)

    def feed(self, data: bytes | Bytes) -> bytes:
        return self._member.compress(data)

    def finish(self) -> bytes:
        rest = self._member.flush()
        self._member = zlib.compressobj(level=1, wbits=31)
        return rest


class _Zstd:
    """zstd of the standard library from Python 3.14 on, else of the package zstandard."""

    def __init__(self) -> None:
        self._make = _zstd_maker()
        self._frame = self._make()

    def feed(self, data: bytes | Bytes) -> bytes:
        return bytes(self._frame.compress(data))

    def finish(self) -> bytes:
        rest = bytes(self._frame.flush())
        self._frame = self._make()
        return rest


def _zstd_maker() -> Any:
    try:
        from compression import zstd
    except ImportError:
        pass
    else:
        return lambda: zstd.ZstdCompressor(level=1)
    missing = LibraryError(
        "cannot compress with zstd: this Python has no zstd. Likely cause: it came into the standard library with "
        "Python 3.14. Next step: `pip install zstandard` (in a checkout: scripts/setup --tables), or take gzip."
    )
    with importing("zstandard", missing):
        import zstandard
    return lambda: zstandard.ZstdCompressor(level=1).compressobj()
