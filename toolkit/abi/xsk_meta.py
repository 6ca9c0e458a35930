# SPDX-License-Identifier: Apache-2.0
"""struct xsk_meta: what progs/xsk_redirect.c writes in front of each packet that it redirects."""

from __future__ import annotations

import numpy as np

__all__ = ["NO_RULE", "XSK_META", "XSK_META_MAGIC", "XSK_META_SIZE"]

XSK_META_MAGIC = 0x58445021
"""The validity word. Any other value means that the bytes before the packet are left-overs."""

XSK_META = np.dtype([("time", "=u8"), ("magic", "=u4"), ("queue", "=u4"), ("length", "=u4"), ("rule", "=u4")])
"""At packet address - 24: arrival time (ns, CLOCK_MONOTONIC), XSK_META_MAGIC, receive queue, bytes on the wire (before
snaplen), number of the rule that took it."""

XSK_META_SIZE = XSK_META.itemsize

NO_RULE = 0xFFFFFFFF
"""In Batch.rule_numbers: the packet does not say which rule took it."""
