# SPDX-License-Identifier: Apache-2.0
"""struct slot: the header that progs/xsk_tee.c writes in front of each packet that it copies."""

from __future__ import annotations

import numpy as np

__all__ = ["TEE_SLOT", "TEE_SLOT_SIZE", "slot_size"]

TEE_SLOT = np.dtype([("time", "=u8"), ("queue", "=u4"), ("length", "=u4"), ("rule", "=u4"), ("captured", "=u4")])
"""Arrival time (ns, CLOCK_MONOTONIC), receive queue, bytes on the wire, index of the rule, bytes that follow."""

TEE_SLOT_SIZE = TEE_SLOT.itemsize


def slot_size(snaplen: int) -> int:
    """Return the size in bytes of a slot for `snaplen` bytes of a packet."""
    return TEE_SLOT_SIZE + (snaplen + 7 & ~7)
