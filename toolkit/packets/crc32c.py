# SPDX-License-Identifier: Apache-2.0
"""CRC32c (RFC 9260, appendix A) of many rows at once: the checksum of SCTP."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["crc32c"]

_POLYNOMIAL = 0x82F63B78  # of Castagnoli, reflected
_AT_ONCE = 1 << 16  # bytes processed at a time, so that intermediate arrays fit the CPU's cache


def crc32c(rows: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return the CRC32c of the first `sizes` bytes of every row: shape (n,), uint32.

    rows: shape (n, width), uint8, zero from `sizes` on. sizes: shape (n,), 0 to width.
    """
    n, width = rows.shape
    sums = np.empty(n, dtype=np.uint32)
    if not n:
        return sums
    table, empty = _tables(1 << max(width - 1, 1).bit_length())
    step = max(_AT_ONCE // max(width, 1), 1)
    for first in range(0, n, step):
        part = slice(first, first + step)
        # A CRC is linear: each byte contributes by its value and the number of bytes behind it; a zero byte nothing.
        behind = np.maximum(sizes[part, None] - 1 - np.arange(width), 0)
        sums[part] = np.bitwise_xor.reduce(table[behind, rows[part]], axis=1)
    return sums ^ empty[sizes] ^ np.uint32(0xFFFFFFFF)


@lru_cache(maxsize=4)
def _tables(longest: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Return the contribution of byte b with k bytes behind it, shape (longest, 256); the register after k zeros."""
    one = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        one = (one >> np.uint32(1)) ^ np.where(one & np.uint32(1), np.uint32(_POLYNOMIAL), np.uint32(0))
    table = np.empty((longest, 256), dtype=np.uint32)
    empty = np.empty(longest + 1, dtype=np.uint32)
    table[0], empty[0] = one, 0xFFFFFFFF
    for behind in range(1, longest):
        table[behind] = (table[behind - 1] >> np.uint32(8)) ^ one[table[behind - 1] & np.uint32(0xFF)]
    for size in range(1, longest + 1):
        empty[size] = (empty[size - 1] >> np.uint32(8)) ^ one[empty[size - 1] & np.uint32(0xFF)]
    return table, empty
