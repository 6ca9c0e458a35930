# SPDX-License-Identifier: Apache-2.0
"""Waiting for packets on AF_XDP sockets, with a way out: a vanished device, a close from another thread."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Sequence

from toolkit.errors import DeviceGoneError, kernel_error

__all__ = ["DeviceSocket", "Waiter", "raise_if_gone"]

# The kernel wakes no poller when a device is deleted; only SO_ERROR tells. So nobody sleeps longer than this, seconds.
_SLICE = 0.2


class DeviceSocket(socket.socket):
    """An AF_XDP socket that remembers why its device is gone: the kernel tells it once (SO_ERROR is read and reset)."""

    gone: int = 0  # errno; written by raise_if_gone() only, and never reset


def raise_if_gone(sock: DeviceSocket, where: str) -> None:
    """Raise DeviceGoneError when the kernel has noted that the socket's device vanished; then every time."""
    (number,) = struct.unpack("=i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR, 4))
    if number:
        sock.gone = number
    number = sock.gone
    if number == 0:
        return
    refused = kernel_error(
        "wait",
        number,
        f"cannot receive on {where} any more",
        cause="the interface was deleted, or taken down by its driver",
        remedy="check `ip link`, then open it again",
    )
    raise DeviceGoneError(number, refused.strerror)


class Waiter:
    """Waits until one of several AF_XDP sockets has packets. One thread waits; any thread may wake it."""

    def __init__(self, sockets: Sequence[DeviceSocket], where: str) -> None:
        """Register the sockets. `where` names them in errors."""
        self._sockets = {sock.fileno(): sock for sock in sockets}
        self._where = where
        # Written by wake(), from any thread; never reset: a waiter that was woken is about to be closed.
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        for fd in self._sockets:
            self._poll.register(fd, select.POLLIN)
        self._poll.register(self._event, select.POLLIN)

    def wait(self, timeout: float | None) -> bool:
        """Block until a socket is readable (True), `timeout` seconds passed or wake() was called (False).

        None waits for ever. Signal handlers run meanwhile. DeviceGoneError when a device vanished.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE if deadline is None else min(_SLICE, deadline - time.monotonic())
            ready = self._poll.poll(max(left, 0.0) * 1000)
            for fd, events in ready:
                if fd == self._event:
                    return False
                if events & select.POLLIN:
                    return True
                if events & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                    raise_if_gone(self._sockets[fd], self._where)
                    raise kernel_error("wait", errno.ENXIO, f"cannot receive on {self._where} any more")
            if not ready:
                for sock in self._sockets.values():
                    raise_if_gone(sock, self._where)
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def wake(self) -> None:
        """Make wait() return at once, now and ever after. Without effect on a closed Waiter."""
        if self._event >= 0:
            os.eventfd_write(self._event, 1)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._event < 0

    def close(self) -> None:
        """Close the event descriptor. Repeatable; nobody may be waiting."""
        event, self._event = self._event, -1
        if event >= 0:
            os.close(event)
