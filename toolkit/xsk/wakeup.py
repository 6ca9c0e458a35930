# SPDX-License-Identifier: Apache-2.0
"""Wakeup: the system calls after which the kernel polls the rings of a socket, and what it answers."""

from __future__ import annotations

import contextlib
import errno
import functools
import select
import socket
import time
from collections.abc import Callable

from toolkit.errors import DeviceGoneError, kernel_error
from toolkit.rings.memory import U32, RingMemory
from toolkit.wait.feed import Feed
from toolkit.wait.waiter import SO_PREFER_BUSY_POLL, DeviceSocket

__all__ = ["Wakeup"]

_CHECK = 0.1  # seconds between two checks of what keeps a driver from sending
_BUSY = (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS)


class Wakeup:
    """Wakes the kernel for one bound socket. It keeps the Core alive no longer than that lives."""

    def __init__(
        self, sock: DeviceSocket, interface: str, queue: int, feed: Feed, *, zero_copy: bool, busy_polled: bool
    ) -> None:
        """busy_polled: the socket prefers busy-polling (SO_PREFER_BUSY_POLL)."""
        self._sock = sock
        self._interface = interface
        self._where = f"queue {queue} of {interface}"
        self._feed = feed
        self._zero_copy = zero_copy
        self._insists = zero_copy and busy_polled
        self._next_check = 0.0  # CLOCK_MONOTONIC s
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLOUT)

    def waking(self, ring: RingMemory) -> Callable[[], bool]:
        """Return what wakes the kernel for this TX ring: sending(), or more where that is not enough."""
        return functools.partial(self._insist, ring) if self._insists else self.sending

    def receiving(self) -> bool:
        """Make the driver poll the fill ring: recvfrom() with MSG_DONTWAIT. False when it was busy: call again."""
        try:
            self._sock.recv(1, socket.MSG_DONTWAIT)
        except OSError as refused:
            # Without a program the driver does not use the ring yet. It will, without a call, when it gets one. An
            # interface that is down brings nothing, and is no error: it may be up again soon.
            return self._idle(refused) or (refused.errno != errno.ENETDOWN and self._busy(refused, "receive on"))
        return True

    def sending(self) -> bool:
        """Make the kernel poll the TX ring: sendto() with MSG_DONTWAIT. False when it was busy: call again."""
        try:
            self._sock.send(b"", socket.MSG_DONTWAIT)
        except OSError as refused:
            return self._busy(refused, "send on")
        return True

    def _insist(self, ring: RingMemory) -> bool:
        """Do sending(), and more if that did nothing.

        Of a socket that is busy-polled, sendto() only polls the NAPI of its receive queue. Where the transmit queue has
        another one (virtio-net; igb with few queues), nothing is sent. poll() always calls the driver.
        """
        before = _outstanding(ring)
        done = self.sending()
        if not before or _outstanding(ring):  # with an empty ring the caller waits for frames that were sent
            self._poll.poll(0)
            if _outstanding(ring) and (now := time.monotonic()) >= self._next_check:
                self._next_check = now + _CHECK
                if self._feed.location.runs_natively() is False:
                    self._hear()
        return done

    def _hear(self) -> None:
        """Raise what the driver says to a wake-up, which poll() keeps to itself."""
        self._sock.setsockopt(socket.SOL_SOCKET, SO_PREFER_BUSY_POLL, 0)
        try:
            self.sending()
        finally:
            with contextlib.suppress(OSError):  # without CAP_NET_ADMIN, which this process has given up
                self._sock.setsockopt(socket.SOL_SOCKET, SO_PREFER_BUSY_POLL, 1)

    def _idle(self, refused: OSError) -> bool:
        """Whether a zero-copy driver refuses because it runs no program. By driver it says EINVAL or ENXIO."""
        return (
            self._zero_copy
            and refused.errno in (errno.EINVAL, errno.ENXIO)
            and self._feed.location.runs_natively() is False
        )

    def _busy(self, refused: OSError, what: str) -> bool:
        """Return False where the kernel was only busy, else raise."""
        number = refused.errno or errno.EIO
        if number in _BUSY:
            return False
        tried = f"cannot {what} {self._where}"
        if self._idle(refused):
            if (loss := self._feed.loss(within=0)) is not None:
                raise loss.error(tried) from None
            raise kernel_error(
                "wake",
                number,
                tried,
                cause="the socket is zero-copy, and the driver sends so only while it runs an XDP program, but none is "
                "attached in native mode",
                remedy='attach one (`Program.build("xdp_pass.c")` passes everything on), then send() or flush() '
                "again; or take copy mode: `zero_copy=False`",
            ) from None
        if number == errno.ENXIO:
            raise self._feed.gone().error(tried, errno.ENXIO) from None
        error = kernel_error("wake", number, tried, interface=self._interface)
        if number == errno.ENETDOWN:
            error = DeviceGoneError(number, error.strerror)
        raise error from None


def _outstanding(ring: RingMemory) -> int:
    """Return how many entries the kernel has not consumed yet."""
    return (ring.load(ring.producer) - ring.load(ring.consumer)) & U32
