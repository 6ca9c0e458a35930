# SPDX-License-Identifier: Apache-2.0
"""Receiver: the receiving side of a Socket. Fill ring → kernel → RX ring → Batch → free stack → fill ring."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import whole
from toolkit.abi.if_xdp import XDP_PKT_CONTD
from toolkit.batch.batch import Batch
from toolkit.errors import RING_LIES, DeviceGoneError, FrameError, ToolkitError
from toolkit.rings import FillQueue, RXQueue
from toolkit.rings.memory import U32
from toolkit.umem.umem import UMEM
from toolkit.wait.waiter import raise_if_unfed

__all__ = ["Receiver"]

_MOST_BUFFERS = 64  # buffers of one packet; the kernel's limit (MAX_SKB_FRAGS) is 17
_GONE_CHECK_NS = 100_000_000  # how often a receiver that never waits checks that its device and program are there


class Receiver:
    """Receives on one Socket. Not thread-safe: one thread at a time receives, any thread."""

    def __init__(self, core: Any, umem: UMEM, rx: RXQueue, fill: FillQueue, queue: int) -> None:
        """Receive from the rings of a Core, or of anything with its guards and accounts."""
        self._core = core
        self._umem = umem
        self._rx = rx
        self._fill = fill
        self._queue = queue
        # Most frames that the kernel may have for receiving: the others are for Batches and for sending.
        self.limit: int = max(umem.frames * 4 // 5, 1)
        self._batch: Batch | None = None  # the Batch that borrows frames; written by the receiving thread only
        self._unfinished = False  # true while frames change owner; only an interrupt leaves it true
        self._several: bool = core.options.sg  # whether a packet may come in several buffers
        self._next_gone_check = 0  # CLOCK_MONOTONIC ns

    def poll_once(self, limit: int | None = None) -> Batch:
        """Do receive(timeout=0): poll the RX ring once."""
        with self.receiving():
            self.begin()
            self._take_back()
            descs = self._take(limit)
            self._refill()  # after take(), so that the kernel has its full share while these packets are processed
            batch = Batch(self._umem, descs, queue=self._queue, borrowed=True)
            if self._several and (batch.options & XDP_PKT_CONTD).any():
                pieces, batch = batch, batch.joined()
                pieces.release()
            elif len(descs):
                self._batch = batch
                self._core.batch = weakref.ref(batch)
            if not len(descs):
                self.nothing_came()
            self._unfinished = False
        return batch

    def _take(self, limit: int | None) -> npt.NDArray[np.uint64]:
        """Take up to `limit` descriptors from the RX ring, by default a quarter of what the kernel may have."""
        limit = max(self.limit >> 2, 1) if limit is None else limit
        try:
            return self._rx.take(self._whole(limit) if self._several else limit)
        except FrameError:
            self.settled()
            raise

    def settled(self) -> None:
        """End what begin() began: the RX ring raised before any frame changed owner.

        Nothing needs recovery then; and recovery would rely on a ring that has just proved wrong.
        """
        self._unfinished = False

    def _whole(self, limit: int) -> int:
        """Return how many entries to take so that the last one ends a packet: at most `limit`, or those of one packet.

        Computed before any is taken, so that not even an interrupt leaves the ring in the middle of a packet. A packet
        that the driver has not delivered completely stays there.
        """
        rx, limit = self._rx, whole("limit", limit)
        if limit <= 0:
            return limit
        waiting = min(rx.available(rx.size), limit + _MOST_BUFFERS)
        options = rx.get_batch(rx.next_index, waiting)["options"]
        ends = np.flatnonzero(options & XDP_PKT_CONTD == 0) + 1
        if not len(ends) and waiting >= min(_MOST_BUFFERS, rx.size):
            raise FrameError(
                f"the RX ring of {self._core.where} has a packet of {waiting} buffers without an end (XDP_PKT_CONTD). "
                + RING_LIES
            )
        fit = ends[ends <= limit]
        return int(fit[-1]) if len(fit) else int(ends[0]) if len(ends) else 0

    @contextlib.contextmanager
    def taking(self, limit: int | None = None) -> Iterator[npt.NDArray[np.uint64]]:
        """Take up to `limit` descriptors for a `with` block: shape (n, 2), u64. The block frees or sends every frame.

        When the block raises, the frames that it has not sent or freed are freed.
        """
        with self.receiving():
            self.begin()
            self._take_back()
            descs = self._take(limit)
            self._refill()
            try:
                yield descs
            except BaseException:
                self._recover()
                self._unfinished = False
                raise
            if not len(descs):
                self.nothing_came()
            self._unfinished = False

    def wait(self, timeout: float | None = None) -> bool:
        """Block until packets wait (True) or `timeout` seconds passed (False): see Socket.wait()."""
        with self.receiving():
            readable: bool = self._core.waiter.wait(timeout)
        self._core.check_open()
        return readable

    def take_back(self) -> None:
        """Take back the frames of the last Batch: it is stale from here on."""
        core = self._core
        if core.closed:
            return
        with core.rx_guard:
            self._take_back()

    def receiving(self) -> threading.Lock:
        """Return the lock of the receiving thread. ToolkitError when another thread holds it, or the Socket is closed.

        Use it in a with statement: a KeyboardInterrupt between acquire() and try would leave it locked.
        """
        core = self._core
        guard: threading.Lock = core.rx_guard
        core.check_open()
        if guard.locked():
            core.check_open()  # close() holds it too
            raise ToolkitError(
                f"two threads receive on {core.where} at once (or a signal handler interrupted receive()). "
                "A ring has one consumer. Next step: receive from one thread, or give each thread a queue of its own."
            )
        return guard

    def begin(self) -> None:
        """Record that frames change owner from here on; first recover from an earlier interrupt."""
        if self._unfinished:
            self._recover()
        self._unfinished = True

    def finish(self) -> None:
        """End what begin() began, when no Batch was made: take back the frames of the last one and post again."""
        if self._batch is not None:
            self._take_back()
        self._refill()
        self._unfinished = False

    def forget_batch(self) -> None:
        """Make the last Batch stale: the Socket has closed."""
        if self._batch is not None:
            self._batch.invalidate()
            self._batch = None

    def _take_back(self) -> None:
        batch = self._batch
        if batch is None:
            return
        if batch.unsettled:
            self._recover()
        else:
            batch.release()
            self._batch = None

    def _refill(self) -> None:
        """Post frames again once an eighth of the limit is missing: to post a few at a time would cost more."""
        rx, fill = self._rx, self._fill
        # The kernel has every frame that was posted and has not come back in the RX ring.
        posted = (fill.next_index - rx.next_index) & U32
        missing = self.limit - posted
        if missing > self.limit >> 3 or (missing and posted < 64):
            fill.fill_all(self._umem, missing)

    def nothing_came(self) -> None:
        """Check now and then that packets can still come, and wake a driver that waits for frames."""
        now = time.monotonic_ns()
        if now > self._next_gone_check:
            self._next_gone_check = now + _GONE_CHECK_NS
            try:
                raise_if_unfed(self._core.sock, self._core.where)
            except DeviceGoneError:
                self._next_gone_check = 0
                if not self._rx.available():  # packets that came before the loss are received first
                    raise
            if self._fill.needs_wakeup:
                self._fill.wake()

    def _recover(self) -> None:
        """Put the owners right after a receive() that an exception (KeyboardInterrupt) cut short."""
        self.forget_batch()
        rx = self._rx
        rx.resync()
        waiting, index = rx.available(rx.size), rx.next_index
        self._core.receive_account.forget_received(rx.addresses(index, waiting))
        self._fill.recover()
