# SPDX-License-Identifier: Apache-2.0
"""OneReceiver: base of Interface and Tee: one thread receives; close(), from any thread, wakes it and waits for it."""

from __future__ import annotations

import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from toolkit._base import fork
from toolkit._base.arguments import seconds, whole
from toolkit._base.closing import CLOSED
from toolkit.batch.batch import Batch
from toolkit.errors import ClosedError, ToolkitError
from toolkit.interface.attachment import Attachment
from toolkit.interface.nic import Nic
from toolkit.net.device import Device
from toolkit.program import Link, Program
from toolkit.wait.coalesce import Coalescer
from toolkit.wait.waiter import Waiter

if TYPE_CHECKING:
    from toolkit.flows import Flows
    from toolkit.flows.keys import Group
    from toolkit.wait.aio import AsyncWaiter

__all__ = ["OneReceiver"]

B = TypeVar("B", bound="Batch | None")
T = TypeVar("T")


class OneReceiver(Attachment):
    """Base of objects that bring an interface's packets to one thread, or to one task of an event loop.

    Any thread may call wake(), detach() and close().
    """

    _SUBJECT: ClassVar[str]  # what it is, with {} for the interface's name

    def __init__(
        self, device: Device, program: Program, link: Link, nic: Nic, waiter: Waiter, coalescer: Coalescer
    ) -> None:
        """Take over a program that `link` attached to `device`, the `nic` and the `waiter`."""
        self._guard = threading.Lock()  # held by the thread that is inside receive()
        super().__init__(self._SUBJECT.format(device.name), self._guard)
        self.device = device
        self.program = program
        self.link = link
        self._nic = nic
        self._waiter = waiter
        self._coalescer = coalescer
        self._wait_finalizer = weakref.finalize(self, waiter.close)
        self._async_waiter: AsyncWaiter | None = None  # made by the first areceive() that waits
        self._awaited = False  # whether a coroutine is inside areceive()
        self._flows: list[weakref.ref[Flows]] = []  # counters to which every Batch is added
        fork.track(self)

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """Return waiting packets of one queue, until the next receive(), as a Batch; the queues take turns.

        timeout: seconds to wait for the first packet; None waits without limit, 0 not at all. After it the Batch is
        empty (and falsy).
        limit: most packets; by default a quarter of the frames that the kernel may have for the queue (2048 with a ring
        of 8192 entries), so that it goes on receiving meanwhile. A Tee returns all copies that wait.

        DeviceGoneError when the interface is gone, DetachedError when the program was taken off or replaced; waiting
        packets are returned first. ClosedError after (or during) close().
        """
        if self._why_dead or self._guard.locked() or self._awaited:
            self._check_alone()
        if limit is not None:
            _check_limit(limit)
        with self._guard:
            batch = self._begin(limit, timeout)
            if not batch:
                if delay := self._coalescer.delay(timeout):
                    time.sleep(delay)
                    self._check_open()
                batch = self._poll(limit)
            if not batch and timeout != 0:
                self._coalescer.idle()
                deadline = None if timeout is None else time.monotonic() + seconds("timeout", timeout)
                while self._waiter.wait(timeout):
                    self._check_open()
                    if batch := self._poll(limit):
                        break
                    if deadline is not None and (timeout := deadline - time.monotonic()) <= 0:
                        break
            self._coalescer.note(len(batch))
        if not batch:
            self._check_open()
        elif self._flows:
            self._count(batch)
        return batch

    async def areceive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """Do receive() in an asyncio event loop, without a thread: other tasks run while this one waits.

        Only one task receives. It can be cancelled at any time without losing a packet; but asyncio.wait_for() may drop
        a Batch that has already come: use `timeout` instead.
        """
        import asyncio

        self._check_alone()
        _check_limit(limit)
        self._awaited = True
        try:
            await asyncio.sleep(0)  # lets other tasks run, even while packets come without end
            batch = self._locked(self._begin, limit, timeout)
            if not batch:
                if delay := self._coalescer.delay(timeout):
                    await asyncio.sleep(delay)
                batch = self._locked(self._poll, limit, None)
            if not batch and timeout != 0:
                self._coalescer.idle()
                deadline = None if timeout is None else time.monotonic() + seconds("timeout", timeout)
                while await self._async().wait(timeout):
                    if batch := self._locked(self._poll, limit, None):
                        break
                    if deadline is not None and (timeout := deadline - time.monotonic()) <= 0:
                        break
            self._coalescer.note(len(batch))
        finally:
            self._awaited = False
        if not batch:
            self._check_open()
        elif self._flows:
            self._count(batch)
        return batch

    def __aiter__(self) -> AsyncIterator[Batch]:
        """`async for batch in interface`: Batches until it is closed, or no packet is left after wake()."""
        return self

    async def __anext__(self) -> Batch:
        """Return the next Batch that is not empty."""
        if self._why_dead == CLOSED:
            raise StopAsyncIteration
        try:
            while not (batch := await self.areceive()):
                if self._waiter.woken:
                    raise StopAsyncIteration
            return batch
        except ClosedError:
            if self._why_dead == CLOSED:
                raise StopAsyncIteration from None
            raise

    def wait(self, timeout: float | None = None) -> bool:
        """Block until packets wait on a queue (True) or `timeout` seconds passed (False); raises as receive() does."""
        self._check_alone()
        with self._guard:
            readable = self._holds() or self._waiter.wait(timeout)
        self._check_open()
        return readable

    def wake(self) -> None:
        """Make receive(), areceive() and wait() return at once, now and from here on. From any thread.

        This ends a receiving loop from outside. Packets in the rings can still be received.
        """
        self._waiter.wake()

    @abstractmethod
    def _begin(self, limit: int | None, timeout: float | None) -> Batch | None:
        """Return a Batch that is available without a delay, if there is one."""

    @abstractmethod
    def _poll(self, limit: int | None, turns: int | None = None) -> Batch:
        """Return the packets that wait now, perhaps an empty Batch. turns: how many queues to poll, by default all."""

    def _holds(self) -> bool:
        """Return whether packets are already in this process, which a Waiter does not notice."""
        return False

    def _check_alone(self) -> None:
        self._check_open()
        if self._guard.locked() or self._awaited:
            raise ToolkitError(
                f"two threads or tasks receive on {self.name} at once (or a signal handler interrupted receive()). "
                "Next step: receive from one of them."
            )

    def _locked(self, poll: Callable[[int | None, T], B], limit: int | None, how: T) -> B:
        self._check_open()
        with self._guard:
            return poll(limit, how)

    def _async(self) -> AsyncWaiter:
        if self._async_waiter is None:
            from toolkit.wait.aio import AsyncWaiter

            # The Waiter must not refer to its owner, whose finalizer closes it.
            reference = weakref.ref(self)
            self._async_waiter = AsyncWaiter(
                self._waiter, self._guard, lambda: (me := reference()) is None or me.closed
            )
        return self._async_waiter

    # --- what it counts -----------------------------------------------------------------------------------------------

    def flows(self, max_flows: int = 1 << 16, *, group: Group = "flow", bidirectional: bool = False) -> Flows:
        """Return counters by flow (or source, destination, port, protocol), to which every receive() adds from here on.

        That ends when the result is garbage-collected. See toolkit.flows.Flows.
        """
        from toolkit.flows import Flows

        self._check_open()
        flows = Flows(max_flows, group=group, bidirectional=bidirectional)
        self._flows = [*self._flows, weakref.ref(flows)]
        return flows

    def _count(self, batch: Batch) -> None:
        """Add a Batch to all results of flows() that still exist."""
        for reference in self._flows:
            flows = reference()
            if flows is None:
                self._flows = [one for one in self._flows if one is not reference]
            else:
                flows.add(batch)

    @abstractmethod
    def waiting(self) -> int | None:
        """Return how many packets wait to be received; None if none has been received yet."""

    # --- the end ------------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Detach the program: no new packet comes, and waiting ones can be received. Repeatable.

        To compare counters: detach(), receive until no packet comes; then received + statistics().dropped equals
        counters()["redirected"], to the packet. (To answer waiting packets: Interface.stop_taking(), receive and send,
        then detach(). Without a program, drivers do not send zero-copy.)
        """
        self._check_open()
        self.link.close(wait=True)

    def close(self) -> None:
        """Detach the program and release everything. Waits for a thread in receive(). Repeatable."""
        super().close()

    def _wake(self) -> None:
        self._waiter.wake()

    def _take_down(self) -> None:
        if self._async_waiter is not None:
            self._async_waiter.close()
        try:
            self._release()
        finally:
            self._wait_finalizer()

    @abstractmethod
    def _release(self) -> None:
        """Release what it is made of. Called again if it raised."""

    def _abandon(self) -> None:
        self._waiter.close()
        if self._async_waiter is not None:
            self._async_waiter.close()


def _check_limit(limit: int | None) -> None:
    if limit is not None:
        whole("limit", limit, 1)
