# SPDX-License-Identifier: Apache-2.0
"""zstd for recordings of the tests: of the standard library from Python 3.14 on, else of the package zstandard."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor
    from compression.zstd import compress as _compress
else:
    import zstandard

__all__ = ["flushed", "zstd"]


def zstd(data: bytes) -> bytes:
    """One frame, made small."""
    if sys.version_info >= (3, 14):
        return _compress(data, level=9)
    return zstandard.ZstdCompressor(level=9).compress(data)


def flushed(first: bytes, last: bytes) -> list[bytes]:
    """One frame with a checksum, in two pieces: all that was put in is flushed at the end of the first one."""
    if sys.version_info >= (3, 14):
        made = ZstdCompressor(options={CompressionParameter.checksum_flag: True})
        return [made.compress(first, mode=ZstdCompressor.FLUSH_BLOCK), made.compress(last) + made.flush()]
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    head = stream.compress(first) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return [head, stream.compress(last) + stream.flush()]
