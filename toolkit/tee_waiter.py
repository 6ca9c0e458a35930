# SPDX-License-Identifier: Apache-2.0
"""Waiting for the copies of a Tee: on its BPF ring buffer, which knows nothing of the interface."""

from __future__ import annotations

import contextlib
import errno
import select

from toolkit.errors import ClosedError, DeviceGoneError, kernel_error
from toolkit.program import Link
from toolkit.program.query import link_info
from toolkit.wait import Waiter

__all__ = ["TeeWaiter"]


class TeeWaiter(Waiter):
    """A Waiter whose one descriptor is a ring buffer's. It sleeps ("poll"), and never drives anything."""

    def __init__(self, ring: int, link: Link, where: str) -> None:
        """`ring`: the ring buffer's descriptor, the caller's. `link`: what tells that the interface is gone."""
        super().__init__([], where)
        self._ring = ring
        self._link = link
        self._poll.register(ring, select.POLLIN)

    def fds(self) -> tuple[int, ...]:
        """Return the descriptor to wait for elsewhere than in wait()."""
        return (self._ring,)

    def check_devices(self) -> None:
        """Raise DeviceGoneError when the interface vanished: its link tells, and nothing else does."""
        if self._link.closed:  # by detach()
            return
        with contextlib.suppress(ClosedError):  # by another thread, just now
            link = link_info(self._link.fd)
            if (link is None or link.ifindex == 0) and not self._link.ending:
                refused = kernel_error(
                    "wait",
                    errno.ENETDOWN,
                    f"cannot receive on {self._where} any more",
                    cause="the interface was deleted",
                    remedy="check `ip link`, then open it again",
                )
                raise DeviceGoneError(errno.ENETDOWN, refused.strerror)
