# SPDX-License-Identifier: Apache-2.0
"""Waiting until no CPU runs a program any more that was detached before."""

from __future__ import annotations

import contextlib
import platform
import time

from toolkit.abi.libc import syscall

__all__ = ["wait_for_readers"]

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1  # linux/membarrier.h
_IN_FLIGHT = 0.1  # seconds: where the kernel cannot be asked, a driver's poll loop has ended by then


def wait_for_readers() -> None:
    """Return after an RCU grace period, in some 15 ms: every driver's poll loop that was under way has ended.

    membarrier(MEMBARRIER_CMD_GLOBAL) waits for one, and a program runs inside of an RCU read section.
    """
    number = _SYS_MEMBARRIER.get(platform.machine())
    if number is not None:
        with contextlib.suppress(OSError):
            syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0)
            return
    time.sleep(_IN_FLIGHT)
