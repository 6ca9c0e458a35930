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
from toolkit.errors import RING_LIES, ClosedError, DeviceGoneError, FrameError, ToolkitError
from toolkit.rings import FillQueue, RXQueue
from toolkit.rings.memory import U32
from toolkit.umem.umem import UMEM
from toolkit.wait.waiter import raise_if_unfed

__all__ = ["Receiver"]

_MOST_BUFFERS = 64  # that one packet may have, generously: the kernel's MAX_SKB_FRAGS is 17
_GONE_CHECK_NS = 100_000_000  # how often a receiver that never waits asks whether its device and program are there


class Receiver:
    """Receives on one Socket. Not thread-safe: one thread receives, whichever it is."""

    def __init__(self, core: Any, umem: UMEM, rx: RXQueue, fill: FillQueue, queue: int) -> None:
        """Stand on the rings of a Core, or of anything with its guards and custody."""
        self._core = core
        self._umem = umem
        self._rx = rx
        self._fill = fill
        self._queue = queue
        # Frames that the kernel may hold for receiving at most: the rest is for loans and for sending.
        self.limit: int = max(umem.frames * 4 // 5, 1)
        self._batch: Batch | None = None  # the Batch whose frames are lent out; written by poll_once() only
        self._unfinished = False  # set while frames change hands: an interrupt leaves it set
        self._several: bool = core.options.sg  # whether packets may come in several buffers
        self._next_gone_check = 0  # CLOCK_MONOTONIC ns

    def poll_once(self, limit: int | None = None) -> Batch:
        """Do receive(timeout=0): one look at the RX ring."""
        with self.receiving():
            self.begin()
            self._take_back()
            descs = self._take(limit)
            self._refill()  # after the look: the kernel has all it may have while these packets are worked on
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
        """Take up to `limit` descriptors from the RX ring, by default a quarter of what the kernel may hold."""
        limit = max(self.limit >> 2, 1) if limit is None else limit
        try:
            return self._rx.take(self._whole(limit) if self._several else limit)
        except FrameError:
            self.settled()
            raise

    def settled(self) -> None:
        """Note that what began with begin() was refused by the RX ring before any frame changed hands.

        Nothing is to be put right then; and the ring must not say what: it is not to be believed.
        """
        self._unfinished = False

    def _whole(self, limit: int) -> int:
        """Return how many entries of the RX ring end with a packet: `limit` or less, or those of one packet.

        Found out before any is taken, so that not even an interrupt leaves the ring in the middle of a packet. What a
        driver has not delivered to its end stays there.
        """
        rx, limit = self._rx, whole("limit", limit)
        if limit <= 0:
            return limit
        waiting = min(rx.available(rx.size), limit + _MOST_BUFFERS)
        options = rx.get_batch(rx.next_index, waiting)["options"]
        ends = np.flatnonzero(options & XDP_PKT_CONTD == 0) + 1
        if not len(ends) and waiting >= min(_MOST_BUFFERS, rx.size):
            raise FrameError(
                f"the RX ring of {self._core.where} holds a packet of {waiting} buffers and no end (XDP_PKT_CONTD). "
                + RING_LIES
            )
        fit = ends[ends <= limit]
        return int(fit[-1]) if len(fit) else int(ends[0]) if len(ends) else 0

    @contextlib.contextmanager
    def taking(self, limit: int | None = None) -> Iterator[npt.NDArray[np.uint64]]:
        """Take descriptors for the length of a block: shape (n, 2) u64. The block gives every frame away, or frees it.

        When it raises, what it has not given away is freed.
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
        """Take back the frames of the last Batch: it is stale from now on."""
        core = self._core
        if core.why_dead:
            return
        with core.rx_guard:
            self._take_back()

    def receiving(self) -> threading.Lock:
        """Return the lock that the receiving thread holds; an error when another holds it, or the Socket is closed.

        A lock in a with statement, not acquire() and try: a KeyboardInterrupt in between would leave it held.
        """
        guard: threading.Lock = self._core.rx_guard
        self._core.check_open()
        if guard.locked():
            raise self._two_receivers()
        return guard

    def begin(self) -> None:
        """Note that frames change hands from here on; first put right what an interrupt left."""
        if self._unfinished:
            self._recover()
        self._unfinished = True

    def finish(self) -> None:
        """End what began with begin(), when no Batch went out: take back the last one's frames and lend anew."""
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
        """Lend frames to the kernel again, once an eighth of the limit is missing: a few at a time would cost more."""
        rx, fill = self._rx, self._fill
        # Every frame that was ever lent and has not come back in the RX ring is with the kernel.
        posted = (fill.next_index - rx.next_index) & U32
        missing = self.limit - posted
        if missing > self.limit >> 3 or (missing and posted < 64):
            fill.fill_all(self._umem, missing)

    def nothing_came(self) -> None:
        """Ask now and then whether anything can come at all, and wake a driver that waits for frames."""
        now = time.monotonic_ns()
        if now > self._next_gone_check:
            self._next_gone_check = now + _GONE_CHECK_NS
            try:
                raise_if_unfed(self._core.sock, self._core.where)
            except DeviceGoneError:
                self._next_gone_check = 0
                if not self._rx.available():  # what came since the look goes first
                    raise
            if self._fill.needs_wakeup:
                self._fill.wake()

    def _recover(self) -> None:
        """Put every frame back in its place after a receive() that an exception (KeyboardInterrupt) cut short."""
        self.forget_batch()
        rx = self._rx
        rx.resync()
        waiting, index = rx.available(rx.size), rx.next_index
        self._core.receive_account.forget_received(rx.addresses(index, waiting))
        self._fill.recover()

    def _two_receivers(self) -> ToolkitError:
        if self._core.why_dead:
            return ClosedError(f"the socket on {self._core.where} is {self._core.why_dead}")
        return ToolkitError(
            f"two threads receive on {self._core.where} at once (or a signal handler interrupted receive()). "
            "A ring has one consumer. Next step: receive from one thread, or give each thread a queue of its own."
        )
