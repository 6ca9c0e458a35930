# SPDX-License-Identifier: Apache-2.0
"""Waiting for packets on AF_XDP sockets, with a way out: a device or program that is gone, a close from elsewhere.

Three ways, of which the first sleeps and the other two take a whole core:

"poll"       sleep in poll(2) until the kernel says that packets came.
"busy-poll"  have the driver look for packets itself, by recvfrom(2), instead of waiting for its interrupts.
"spin"       look at the rings again and again; the driver's interrupts bring the packets.

The latter two let go of the GIL every few microseconds, but take it back at once: another Python thread that wants to
compute gets it after the interpreter's switch interval (5 ms, sys.setswitchinterval), as from any busy thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from toolkit._base.arguments import seconds
from toolkit.errors import ArgumentError, DeviceGoneError, ToolkitError, kernel_error
from toolkit.rings import RXQueue
from toolkit.wait.feed import Feed

__all__ = ["DeviceSocket", "WaitMode", "Waiter", "check_wait_mode", "raise_if_gone", "raise_if_unfed"]

WaitMode = Literal["poll", "busy-poll", "spin"]

# The kernel wakes no poller when a device is deleted, or a program is taken off: only SO_ERROR and the link tell, when
# they are asked. So nobody sleeps longer than this, seconds.
_SLICE = 0.2
_GONE_CHECK = 0.1  # seconds between two such questions of a waiter that never sleeps
_LOOKS = 64  # rounds over the rings between two system calls of a spinning waiter: about 10 us
_DOWN_PAUSE = 0.001  # seconds: a busy-polling waiter has no driver to drive while the interface is down

# asm-generic/socket.h
_SO_BUSY_POLL = 46
_SO_INCOMING_NAPI_ID = 56
_SO_PREFER_BUSY_POLL = 69
_SO_BUSY_POLL_BUDGET = 70
_BUSY_POLL_USECS = 20  # only whether it is 0 matters to a recvfrom() that does not block
_BUSY_POLL_BUDGET = 64  # packets that one recvfrom() lets the driver handle: NAPI's own figure


class DeviceSocket(socket.socket):
    """An AF_XDP socket that remembers why its device is gone: the kernel tells it once (SO_ERROR is read and reset)."""

    gone: int = 0  # errno; written by raise_if_gone() only, and never reset
    feed: Feed | None = None  # what brings packets to it; written once, by whoever made it


def check_wait_mode(mode: WaitMode) -> WaitMode:
    """Return `mode` if it is a way of waiting, else raise ArgumentError."""
    if mode not in get_args(WaitMode):
        raise ArgumentError(f"wait is one of {', '.join(map(repr, get_args(WaitMode)))}, not {mode!r}")
    return mode


def raise_if_gone(sock: DeviceSocket, where: str) -> None:
    """Raise DeviceGoneError when the kernel has noted that the socket's device vanished; then every time."""
    _raise_if_gone(sock, f"cannot send on {where} any more")


def raise_if_unfed(sock: DeviceSocket, where: str) -> None:
    """Raise when nothing comes to the socket any more: DeviceGoneError, or DetachedError for its program; every time.

    What came before that may wait in the RX ring: look again, before the error goes on.
    """
    tried = f"cannot receive on {where} any more"
    _raise_if_gone(sock, tried)
    if sock.feed is not None and (loss := sock.feed.lost()) is not None:
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
        """Register the sockets, to wait in poll(). `where` names them in errors."""
        self.mode: WaitMode = "poll"  # written by configure() only
        self._sockets = {sock.fileno(): sock for sock in sockets}
        self._rings: tuple[RXQueue, ...] = ()  # in the order of the sockets, as far as they receive
        self._where = where
        self._doubtful = False  # busy-polling, and not yet known whether the kernel can: see _check_driver()
        # Called once, when busy polling turns out to have no effect: to take back what makes sense with it only.
        self.on_undriven: Callable[[], None] | None = None
        # Called by wake(), from any thread: by whoever waits elsewhere than in wait().
        self.on_wake: Callable[[], None] | None = None
        self.woken = False  # for good; written by wake() only
        # Written by wake(), from any thread; never reset: a waiter that was woken is about to be closed.
        try:
            self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as refused:
            self._event = -1
            raise kernel_error("wait", refused.errno or errno.EIO, f"cannot wait for packets on {where}") from None
        self._poll = select.poll()
        for fd in self._sockets:
            self._poll.register(fd, select.POLLIN)
        self._poll.register(self._event, select.POLLIN)

    def configure(self, mode: WaitMode, rings: Sequence[RXQueue]) -> None:
        """Choose the way of waiting. `rings` are the sockets' RX rings; the caller keeps others from consuming them.

        "busy-poll" sets the options of the sockets; PrivilegeError without CAP_NET_ADMIN, NotSupportedError or
        SystemCallError where the kernel refuses.
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

        None waits for ever. Signal handlers run meanwhile. DeviceGoneError when a device vanished, DetachedError when
        its program was taken off.
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
        check = time.monotonic() + _GONE_CHECK
        while True:
            for _ in range(_LOOKS >> 4 if drive else _LOOKS):
                for sock in sockets:
                    _drive(sock)
                for ring in rings:
                    if ring.available():
                        return True
            # Also lets go of the GIL, and wakes drivers that ask for it (need_wakeup).
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
        """Ask poll(): True when packets wait, False when somebody called wake(), None when nothing happened."""
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
        """Look once, without sleeping: whether packets wait. In "busy-poll", after the driver was driven."""
        if self.mode == "busy-poll":
            for sock in self._sockets.values():
                _drive(sock)
        if any(ring.available() for ring in self._rings):
            return True
        return self._ask(0) is True

    def check_feed(self) -> bool:
        """Raise when nothing comes any more, and nothing waits: DeviceGoneError, or DetachedError for the program.

        For when nothing came. Nothing else tells. True: something waits all the same, and goes first.
        """
        try:
            self._raise_if_unfed()
        except DeviceGoneError:
            # Of a socket without a device, only the ring tells what came before that.
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
        """Whether busy polling reaches the driver on every queue; None while the kernel does not know yet.

        Older kernels know the socket's NAPI from its first packet on, newer ones (6.14) from the bind or never.
        """
        if self.mode != "busy-poll":
            return False
        known = [bool(sock.getsockopt(socket.SOL_SOCKET, _SO_INCOMING_NAPI_ID)) for sock in self._sockets.values()]
        if all(known):
            return True
        received = [ring.next_index > 0 for ring in self._rings]
        return False if any(came and not napi for napi, came in zip(known, received, strict=False)) else None

    def _check_driver(self) -> None:
        """Say once that busy polling has no effect here, when the kernel has shown that."""
        drives = self.drives
        if drives is None:
            return
        self._doubtful = False
        if not drives:
            if self.on_undriven is not None:
                with contextlib.suppress(OSError, ToolkitError):  # close() will try again, and say so
                    self.on_undriven()
            warnings.warn(
                f"busy polling does not reach the driver of {self._where}: the kernel knows no NAPI for its sockets "
                "(as in copy mode since Linux 6.13). So this spins over the rings, and leaves the interface as it was. "
                'Next step: `wait="spin"` does the same from the start; `wait="poll"` saves the core.',
                RuntimeWarning,
                stacklevel=6,
            )

    def fds(self) -> tuple[int, ...]:
        """Return the descriptors to wait for elsewhere than in wait(): readable when packets came."""
        return tuple(self._sockets)

    def wake(self) -> None:
        """Make wait() return at once, now and ever after. Without effect on a closed Waiter."""
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
        """Close the event descriptor. Repeatable; nobody may be waiting."""
        event, self._event = self._event, -1
        if event >= 0:
            os.close(event)


def _drive(sock: DeviceSocket) -> None:
    """Have the driver handle packets, once: what a busy-polling program calls all the time."""
    try:
        sock.recv(1, socket.MSG_DONTWAIT)
    except OSError as refused:
        if refused.errno in (errno.ENETDOWN, errno.ENXIO):
            time.sleep(_DOWN_PAUSE)  # down, and perhaps up again soon; whether it is gone, SO_ERROR says
        elif refused.errno not in (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS, errno.EINTR):
            raise


def _prefer_busy_poll(sock: DeviceSocket, where: str) -> None:
    for name, option, value in (
        ("SO_PREFER_BUSY_POLL", _SO_PREFER_BUSY_POLL, 1),
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
