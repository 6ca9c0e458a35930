# SPDX-License-Identifier: Apache-2.0
"""struct xsk_meta: what progs/xsk_redirect.c writes in front of each packet that it redirects."""

from __future__ import annotations

import numpy as np

__all__ = ["XSK_META", "XSK_META_MAGIC", "XSK_META_SIZE"]

XSK_META_MAGIC = 0x58445021
"""The validity word. Any other value means that the bytes before the packet are left-overs."""

XSK_META = np.dtype([("time", "=u8"), ("magic", "=u4"), ("queue", "=u4")])
"""At packet address - 16: arrival time (ns, CLOCK_MONOTONIC), XSK_META_MAGIC, receive queue."""

XSK_META_SIZE = XSK_META.itemsize
