# SPDX-License-Identifier: Apache-2.0
"""struct xsk_meta: the metadata that progs/xsk_redirect.c writes in front of each packet that it redirects."""

from __future__ import annotations

import numpy as np

__all__ = ["NO_RULE", "XSK_META", "XSK_META_MAGIC", "XSK_META_SIZE"]

XSK_META_MAGIC = 0x58445021
"""Valid metadata has this value. With any other, the bytes in front of the packet are left over from another one."""

XSK_META = np.dtype([("time", "=u8"), ("magic", "=u4"), ("queue", "=u4"), ("length", "=u4"), ("rule", "=u4")])
"""At packet address - 24: arrival time (ns, CLOCK_MONOTONIC), XSK_META_MAGIC, receive queue, bytes on the wire (before
snaplen), index of the rule that took it."""

XSK_META_SIZE = XSK_META.itemsize

NO_RULE = 0xFFFFFFFF
"""The value in Batch.rule_numbers when it is not known which rule took the packet."""
