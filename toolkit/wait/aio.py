# SPDX-License-Identifier: Apache-2.0
"""AsyncWaiter: wait for packets in an asyncio event loop, on the loop's own thread.

The sockets are registered with one epoll descriptor, and the loop watches that one. So a socket may close at any time,
and the loop never watches a descriptor number that has been reused.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
from collections.abc import Callable

from toolkit.wait.waiter import Waiter

__all__ = ["AsyncWaiter"]

_SLICE = 0.2  # seconds between two checks of device and program: poll() does not report that they are gone


class AsyncWaiter:
    """A Waiter for a coroutine. One coroutine waits; any thread may wake or close it."""

    def __init__(self, waiter: Waiter, guard: threading.Lock, closed: Callable[[], bool]) -> None:
        """Wait on the sockets of `waiter`.

        guard: the lock that the owner holds while it closes the sockets. closed: returns whether the owner was closed;
        it must return true before the waiter is woken.
        """
        self._waiter = waiter
        self._guard = guard  # not held while the coroutine sleeps: close() may come from the same thread
        self._closed = closed
        # Readable while packets wait on any socket. Closed by the coroutine if `_waiting` is set, else by close().
        self._epoll = select.epoll(len(waiter.fds()), select.EPOLL_CLOEXEC)
        for fd in waiter.fds():
            self._epoll.register(fd, select.EPOLLIN)
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]] | None = None  # written by the coroutine
        waiter.on_wake = self.wake

    async def wait(self, timeout: float | None) -> bool:
        """Return True when packets wait, False when `timeout` seconds passed, or the owner was woken or closed.

        DeviceGoneError and DetachedError as Waiter.wait(). It can be cancelled. In "busy-poll" and "spin" the loop
        never
        sleeps: its other tasks run between two polls.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        check = loop.time() + _SLICE
        while not (self._closed() or self._waiter.woken):
            now = loop.time()
            if now >= check:
                check = now + _SLICE
                with self._guard:
                    if not self._closed() and self._waiter.check_feed():
                        return True
            if deadline is not None and now >= deadline:
                return False
            if self._waiter.mode == "poll":
                if await self._sleep(loop, min(check, deadline or check)):
                    return True
            else:
                with self._guard:
                    if not self._closed() and self._waiter.poll_once():
                        return True
                await asyncio.sleep(0)
        return False

    async def _sleep(self, loop: asyncio.AbstractEventLoop, until: float) -> bool:
        """Sleep until packets wait (True), `until` (loop time, seconds) or wake() (False)."""
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting = (loop, future)
        timer: asyncio.TimerHandle | None = None
        try:
            if self._closed() or self._waiter.woken:  # before `_waiting` was set; after that, wake() finds the future
                return False
            timer = loop.call_at(until, _settle, future, False)
            loop.add_reader(self._epoll.fileno(), _settle, future, True)
            return await future
        finally:
            if timer is not None:
                timer.cancel()
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.remove_reader(self._epoll.fileno())
            self._waiting = None
            if self._closed():
                self._epoll.close()

    def wake(self) -> None:
        """Make wait() check at once whether its owner was woken or closed. From any thread."""
        waiting = self._waiting
        if waiting is not None:
            loop, future = waiting
            with contextlib.suppress(RuntimeError):  # the loop was closed: no coroutine waits in it
                loop.call_soon_threadsafe(_settle, future, False)

    def close(self) -> None:
        """Close the epoll descriptor, now or as soon as the coroutine has left it. `closed` returns true by then."""
        if self._waiting is None:
            self._epoll.close()


def _settle(future: asyncio.Future[bool], result: bool) -> None:
    if not future.done():
        future.set_result(result)
