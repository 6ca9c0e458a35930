# SPDX-License-Identifier: Apache-2.0
"""Packets laid out in memory, for the tests of toolkit.decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toolkit.decode import Columns, decode

Row = dict[str, Any]


def lay_out(
    packets: Sequence[bytes], *, seed: int = 0, gap: int = 64, tail: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put packets into memory full of garbage, `gap` bytes between them and `tail` behind the last.

    Returns memory, offsets (uint64, as the rings have them) and lengths (uint32).
    """
    lengths = np.array([len(packet) for packet in packets], dtype=np.uint32)
    offsets = (
        gap + np.concatenate(([0], np.cumsum(lengths[:-1].astype(np.int64) + gap))) if len(packets) else np.zeros(0)
    )
    size = int(offsets[-1] + lengths[-1]) if len(packets) else 0
    memory = np.random.default_rng(seed).integers(0, 256, size + (gap if tail is None else tail), dtype=np.uint8)
    for packet, offset in zip(packets, offsets.astype(int), strict=True):
        memory[offset : offset + len(packet)] = np.frombuffer(packet, dtype=np.uint8)
    return memory, offsets.astype(np.uint64), lengths


def decode_packets(packets: Sequence[bytes], **layout: Any) -> Columns:
    return decode(*lay_out(packets, **layout))


def rows(columns: Columns) -> list[Row]:
    """Each packet's values as Python's."""
    lists = {}
    for name in columns:
        column = columns[name]
        lists[name] = [line.tobytes() for line in column] if column.ndim == 2 else column.tolist()
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
