# SPDX-License-Identifier: Apache-2.0
"""Waiter: wait for packets on AF_XDP sockets; ends as well when device or program are gone, or another thread closes.

Three modes; the first sleeps, the other two take a whole core:

"poll"       sleep in poll(2) until the kernel reports packets.
"busy-poll"  make the driver poll its NIC queue, by recvfrom(2), instead of waiting for its interrupts.
"spin"       poll the rings; the driver's interrupts bring the packets.

The latter two keep the GIL (see libc_with_gil()): another Python thread that needs it gets it after the interpreter's
switch interval (5 ms, sys.setswitchinterval), as from any busy thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from toolkit._base.arguments import one_of, seconds
from toolkit.abi.libc import PollFD, libc_with_gil
from toolkit.errors import DeviceGoneError, ToolkitError, kernel_error
from toolkit.rings import RXQueue
from toolkit.wait.feed import Feed

__all__ = [
    "SO_PREFER_BUSY_POLL",
    "DeviceSocket",
    "WaitMode",
    "Waiter",
    "check_wait_mode",
    "raise_if_gone",
    "raise_if_unfed",
]

WaitMode = Literal["poll", "busy-poll", "spin"]

# Seconds of the longest sleep: poll(2) does not end when a device is deleted or a program is taken off. That is known
# only from SO_ERROR and the link, when asked.
_SLICE = 0.2
_GONE_CHECK = 0.1  # seconds between two such checks of a waiter that never sleeps
_POLLS = 64  # rounds over the rings between two system calls of a spinning waiter: about 10 us
_DOWN_PAUSE = 0.001  # seconds to sleep while the interface is down and the driver cannot be polled

# asm-generic/socket.h
_SO_BUSY_POLL = 46
_SO_INCOMING_NAPI_ID = 56
SO_PREFER_BUSY_POLL = 69
_SO_BUSY_POLL_BUDGET = 70
_BUSY_POLL_USECS = 20  # any value but 0: a recvfrom() that does not block ignores how large it is
_BUSY_POLL_BUDGET = 64  # packets that one recvfrom() lets the driver handle: NAPI's own figure


class DeviceSocket(socket.socket):
    """An AF_XDP socket that remembers why its device is gone: the kernel reports it once (SO_ERROR is then reset)."""

    gone: int = 0  # errno; written by _raise_if_gone() only, and never reset
    feed: Feed | None = None  # its device and program; written once, by the maker of the socket


def check_wait_mode(mode: WaitMode) -> WaitMode:
    """Return `mode` if it is a WaitMode, else raise ArgumentError."""
    chosen: WaitMode = one_of("wait", mode, *get_args(WaitMode))
    return chosen


def raise_if_gone(sock: DeviceSocket, where: str) -> None:
    """Raise DeviceGoneError once the kernel has reported that the socket's device is gone."""
    _raise_if_gone(sock, f"cannot send on {where} any more")


def raise_if_unfed(sock: DeviceSocket, where: str) -> None:
    """Raise DeviceGoneError when the socket's device is gone, DetachedError when its program was taken off.

    Earlier packets may still be in the RX ring: the caller polls it again before it passes the error on.
    """
    tried = f"cannot receive on {where} any more"
    _raise_if_gone(sock, tried)
    if sock.feed is not None and (loss := sock.feed.loss()) is not None:
        raise loss.error(tried)


def _raise_if_gone(sock: DeviceSocket, tried: str) -> None:
    (number,) = struct.unpack("=i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR, 4))
    if number:
        sock.gone = number
    if sock.gone == 0:
        return
    if sock.feed is not None:
        raise sock.feed.gone().error(tried)
    refused = kernel_error(
        "wait",
        sock.gone,
        tried,
        cause="the interface was deleted, or taken down by its driver",
        remedy="check `ip link`, then open it again",
    )
    raise DeviceGoneError(sock.gone, refused.strerror)


class Waiter:
    """Waits until one of several AF_XDP sockets has packets. One thread waits; any thread may wake it."""

    def __init__(self, sockets: Sequence[DeviceSocket], where: str) -> None:
        """Register the sockets with poll(2). `where` names them in errors."""
        self.mode: WaitMode = "poll"  # written by configure() only
        self._sockets = {sock.fileno(): sock for sock in sockets}
        self._rings: tuple[RXQueue, ...] = ()  # of those sockets that receive, in their order
        self._where = where
        self._doubtful = False  # whether busy-polling is on and not yet known to work: see _check_driver()
        # Called once when busy polling turns out to have no effect, to undo settings that are of use only with it.
        self.on_undriven: Callable[[], None] | None = None
        # Called by wake(), from any thread; set by AsyncWaiter, whose coroutine does not sleep in wait().
        self.on_wake: Callable[[], None] | None = None
        self.woken = False  # written by wake() only; never reset, since the waiter is about to be closed
        # Readable once wake() was called, from any thread; never reset.
        try:
            self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as refused:
            self._event = -1
            raise kernel_error("wait", refused.errno or errno.EIO, f"cannot wait for packets on {where}") from None
        self._poll = select.poll()
        for fd in self._sockets:
            self._poll.register(fd, select.POLLIN)
        self._poll.register(self._event, select.POLLIN)
        # The same descriptors for a spinning waiter; immutable but for revents, which nobody reads.
        self._descriptors = (PollFD * (len(self._sockets) + 1))(
            *(PollFD(fd, select.POLLIN) for fd in (*self._sockets, self._event))
        )

    def configure(self, mode: WaitMode, rings: Sequence[RXQueue]) -> None:
        """Choose the mode. rings: the sockets' RX rings, which no other thread consumes during wait().

        "busy-poll" sets socket options: PrivilegeError without CAP_NET_ADMIN, NotSupportedError or SystemCallError when
        the kernel refuses.
        """
        check_wait_mode(mode)
        if mode == "busy-poll":
            for sock in self._sockets.values():
                _prefer_busy_poll(sock, self._where)
            self._doubtful = True
        self._rings = tuple(rings)
        self.mode = mode

    def wait(self, timeout: float | None) -> bool:
        """Block until a socket has packets (True), `timeout` seconds passed or wake() was called (False).

        None waits without limit. Signal handlers run meanwhile. DeviceGoneError when a device is gone, DetachedError
        when its program was taken off.
        """
        deadline = None if timeout is None else time.monotonic() + seconds("timeout", timeout)
        if self.mode == "poll":
            return self._sleep(deadline)
        return self._spin(deadline, drive=self.mode == "busy-poll")

    def _sleep(self, deadline: float | None) -> bool:
        while True:
            left = _SLICE if deadline is None else min(_SLICE, deadline - time.monotonic())
            answer = self._ask(max(left, 0.0))
            if answer is not None:
                return answer
            if self.check_feed():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def _spin(self, deadline: float | None, *, drive: bool) -> bool:
        sockets, rings = tuple(self._sockets.values()) if drive else (), self._rings
        poll, descriptors = libc_with_gil().poll, self._descriptors
        address, count = ctypes.addressof(descriptors), len(descriptors)
        check = time.monotonic() + _GONE_CHECK
        while True:
            for _ in range(_POLLS >> 4 if drive else _POLLS):
                for sock in sockets:
                    _drive(sock)
                for ring in rings:
                    if ring.available():
                        return True
            # This also wakes drivers that ask for it (need_wakeup).
            if poll(address, count, 0):
                answer = self._ask(0)
                if answer is not None:
                    return answer
            now = time.monotonic()
            if now >= check:
                check = now + _GONE_CHECK
                self.check_feed()
            if deadline is not None and now >= deadline:
                return False

    def _ask(self, seconds: float) -> bool | None:
        """Call poll(2): True when packets wait, False when wake() was called, None after `seconds`."""
        for fd, events in self._poll.poll(seconds * 1000):
            if fd == self._event:
                return False
            if events & select.POLLIN:
                return True
            if events & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                raise_if_unfed(self._sockets[fd], self._where)
                raise kernel_error("wait", errno.ENXIO, f"cannot receive on {self._where} any more")
        return None

    def poll_once(self) -> bool:
        """Return whether packets wait, without sleeping. In "busy-poll", the driver polls its NIC queue first."""
        if self.mode == "busy-poll":
            for sock in self._sockets.values():
                _drive(sock)
        if any(ring.available() for ring in self._rings):
            return True
        return self._ask(0) is True

    def check_feed(self) -> bool:
        """Raise DeviceGoneError or DetachedError when no packet can come any more, and none waits.

        To be called when no packet came. True: packets wait after all; they are received before the error.
        """
        try:
            self._raise_if_unfed()
        except DeviceGoneError:
            # poll(2) does not report packets of a socket without a device: the ring does.
            if not self._ask(0) and not any(ring.available() for ring in self._rings):
                raise
            return True
        if self._doubtful:
            self._check_driver()
        return False

    def _raise_if_unfed(self) -> None:
        for sock in self._sockets.values():
            raise_if_unfed(sock, self._where)

    @property
    def drives(self) -> bool | None:
        """Whether busy polling reaches the driver on every queue; None while that is not known.

        Older kernels know the socket's NAPI from its first packet on; newer ones (6.14) from bind() on, or never.
        """
        if self.mode != "busy-poll":
            return False
        known = [bool(sock.getsockopt(socket.SOL_SOCKET, _SO_INCOMING_NAPI_ID)) for sock in self._sockets.values()]
        if all(known):
            return True
        received = [ring.next_index > 0 for ring in self._rings]
        return False if any(came and not napi for napi, came in zip(known, received, strict=False)) else None

    def _check_driver(self) -> None:
        """Warn once when the kernel has shown that busy polling has no effect here."""
        drives = self.drives
        if drives is None:
            return
        self._doubtful = False
        if not drives:
            if self.on_undriven is not None:
                with contextlib.suppress(OSError, ToolkitError):  # close() tries again, and reports a failure
                    self.on_undriven()
            warnings.warn(
                f"busy polling does not reach the driver of {self._where}: packets came, and the kernel knows no NAPI "
                "for the socket (SO_INCOMING_NAPI_ID is 0). So this spins over the rings, and leaves the interface as "
                "it was. Likely cause: the driver does not say which NAPI serves a queue, or this kernel does not ask "
                'in copy mode. Next step: `wait="spin"` does the same from the start; `wait="poll"` saves the core.',
                RuntimeWarning,
                stacklevel=6,
            )

    def fds(self) -> tuple[int, ...]:
        """Return the sockets' descriptors, readable when packets wait: for waiting elsewhere than in wait()."""
        return tuple(self._sockets)

    def wake(self) -> None:
        """Make wait() return at once, now and from here on. From any thread; without effect on a closed Waiter."""
        self.woken = True
        if self._event >= 0:
            os.eventfd_write(self._event, 1)
        on_wake = self.on_wake
        if on_wake is not None:
            on_wake()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._event < 0

    def close(self) -> None:
        """Close the event descriptor, when no thread is waiting. Repeatable."""
        event, self._event = self._event, -1
        if event >= 0:
            os.close(event)


def _drive(sock: DeviceSocket) -> None:
    """Make the driver poll its NIC queue once, by a recvfrom(2) that does not block."""
    if libc_with_gil().recv(sock.fileno(), None, 0, socket.MSG_DONTWAIT) >= 0:
        return
    number = ctypes.get_errno()
    # Down, perhaps up again soon; or a zero-copy driver that runs no program (EINVAL or ENXIO, by driver).
    if number in (errno.ENETDOWN, errno.ENXIO, errno.EINVAL):
        time.sleep(_DOWN_PAUSE)  # check_feed() finds out if the device or the program is gone
    elif number not in (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS, errno.EINTR):
        raise OSError(number, os.strerror(number))


def _prefer_busy_poll(sock: DeviceSocket, where: str) -> None:
    for name, option, value in (
        ("SO_PREFER_BUSY_POLL", SO_PREFER_BUSY_POLL, 1),
        ("SO_BUSY_POLL", _SO_BUSY_POLL, _BUSY_POLL_USECS),
        ("SO_BUSY_POLL_BUDGET", _SO_BUSY_POLL_BUDGET, _BUSY_POLL_BUDGET),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, value)
        except OSError as refused:
            number = refused.errno or errno.EIO
            raise kernel_error(
                "busy_poll",
                number,
                f"cannot busy-poll on {where} ({name})",
                cause="busy polling needs CAP_NET_ADMIN"
                if number == errno.EPERM
                else "this kernel was built without busy polling (CONFIG_NET_RX_BUSY_POLL)",
                remedy='run as root (sudo), or take `wait="spin"` or `wait="poll"`',
            ) from None
