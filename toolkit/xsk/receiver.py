# SPDX-License-Identifier: Apache-2.0
"""Receiver: the receiving side of a Socket. Fill ring → kernel → RX ring → Batch → fill ring."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import whole
from toolkit.abi.if_xdp import XDP_PKT_CONTD
from toolkit.batch.batch import Batch
from toolkit.errors import RING_LIES, ArgumentError, DeviceGoneError, FrameError, ToolkitError
from toolkit.rings.memory import U32
from toolkit.umem.receiving import OwnedFill, OwnedRX
from toolkit.umem.umem import UMEM
from toolkit.wait.waiter import raise_if_unfed

__all__ = ["Receiver"]

_MOST_BUFFERS = 64  # buffers of one packet; the kernel's limit (MAX_SKB_FRAGS) is 17
_GONE_CHECK_NS = 100_000_000  # how often a receiver that never waits checks that its device and program are there


class Receiver:
    """Receives on one Socket. Not thread-safe: one thread at a time receives, any thread."""

    def __init__(self, core: Any, umem: UMEM, rx: OwnedRX, fill: OwnedFill, queue: int) -> None:
        """Receive from the rings of a Core, or of anything with its guards and accounts."""
        self._core = core
        self._guard: threading.Lock = core.rx_guard
        self._umem = umem
        self._rx = rx
        self._fill = fill
        self._queue = queue
        self.limit = max(umem.frames * 4 // 5, 1)
        self._batch: Batch | None = None  # the Batch that borrows frames; written by the receiving thread only
        self._unfinished = False  # true while frames change owner; only an interrupt leaves it true
        self._several: bool = core.options.sg  # whether a packet may come in several buffers
        self._thread = 0  # ident of the thread that received last
        self._next_gone_check = 0  # CLOCK_MONOTONIC ns

    @property
    def limit(self) -> int:
        """Most frames that the kernel may have for receiving: the others are for Batches and for sending."""
        return self._limit

    @limit.setter
    def limit(self, frames: int) -> None:
        self._limit = frames
        # Frames that may be missing before more are posted: to post a few at a time would cost more.
        self._tolerated = min(frames >> 3, max(frames - 64, 0))
        self._share = max(frames >> 2, 1)  # packets of a Batch, by default: the kernel goes on receiving meanwhile
        self._umem.rx_limits[self._core.receive_account.holder] = frames

    def poll_once(self, limit: int | None = None) -> Batch:
        """Do receive(timeout=0): poll the RX ring once."""
        if self._core.closed or self._guard.locked():
            self.receiving()
        with self._guard:
            return self._poll(self._share if limit is None else whole("limit", limit, 0))

    def _poll(self, limit: int) -> Batch:
        self.begin()
        try:
            descs, frames = self._rx.borrow(self._whole(limit) if self._several else limit, self._take_back)
        except (ArgumentError, FrameError):
            self.settled()
            raise
        # After that, so that the kernel has its full share while these packets are processed.
        if self._limit - ((self._fill.next_index - self._rx.next_index) & U32) > self._tolerated:
            self._refill()
        elif self._fill.asks:  # a zero-copy driver that ran out of frames; its loss is reported when nothing comes
            with contextlib.suppress(OSError):
                self._fill.wake()
        batch = Batch(self._umem, descs, queue=self._queue, borrowed=True, rx=self._rx, frames=frames)
        if not len(descs):
            self.nothing_came()
        elif self._several and (batch.options & XDP_PKT_CONTD).any():
            pieces, batch = batch, batch.joined()
            pieces.release()
        else:
            self._batch = batch
            self._core.batch = batch
            if self._thread != threading.get_ident():
                self._thread = threading.get_ident()
                self._umem.receiving_threads.add(self._thread)
        self._unfinished = False
        return batch

    def settled(self) -> None:
        """End what begin() began: the RX ring raised before any frame changed owner.

        Nothing needs recovery then; it would drop what the user has peeked, and rely on a ring that has just proved
        wrong.
        """
        self._unfinished = False

    def _whole(self, limit: int) -> int:
        """Return how many entries to take so that the last one ends a packet: at most `limit`, or those of one packet.

        Computed before any is taken, so that not even an interrupt leaves the ring in the middle of a packet. A packet
        that the driver has not delivered completely stays there.
        """
        rx = self._rx
        if not limit:
            return 0
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
            limit = self._share if limit is None else whole("limit", limit, 0)
            self.begin()
            descs = self._taken(limit)
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

    def _taken(self, limit: int) -> npt.NDArray[np.uint64]:
        try:
            return self._rx.take(self._whole(limit) if self._several else limit, self._take_back)
        except (ArgumentError, FrameError):
            self.settled()
            raise

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
        with self._guard:
            self.begin()
            self._take_back()
            self._unfinished = False

    def receiving(self) -> threading.Lock:
        """Return the lock of the receiving thread. ToolkitError when another thread holds it, or the Socket is closed.

        Use it in a with statement: a KeyboardInterrupt between acquire() and try would leave it locked.
        """
        core = self._core
        guard = self._guard
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
        if self._unfinished or (self._batch is not None and self._batch.unsettled):
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

    def _take_back(self, taking: int = 0) -> None:
        """Post the frames of the last Batch again, as far as the kernel may have them; the others are free.

        taking: packets that are about to be taken from the RX ring.
        """
        batch = self._batch
        if batch is None:
            return
        if batch.borrowed:
            frames, rx_index = batch.frames, (self._rx.next_index + taking) & U32
            if self._umem.poison:
                batch.release()
            elif frames is None:
                addresses = batch.addresses
                batch.expire()
                self._give_back_each(addresses, rx_index)
            else:
                batch.expire()  # before its frames go, so that an interrupt leaves none that seems to have them
                if not self._fill.give_back(frames, rx_index, self._limit):
                    self._give_back_each(np.frombuffer(frames[2], np.uint64), rx_index)
            batch.invalidate()
        self._batch = None

    def _give_back_each(self, addresses: npt.NDArray[np.uint64], rx_index: int) -> None:
        fill = self._fill
        # What the user has reserved is his to publish first.
        room = 0 if fill.unpublished else max(self._limit - ((fill.next_index - rx_index) & U32), 0)
        try:
            posted = fill.put(addresses[:room], distinct=True, was=self._rx.received) if room else 0
            self._umem.recycle(addresses[posted:], distinct=True, was=self._rx.received)
        except FrameError:  # the user has freed, posted or sent one himself: the others are free
            self._recover()
            raise

    def _refill(self) -> None:
        """Post frames again, if more than `_tolerated` are missing. The reserve for sending stays free."""
        # The kernel has every frame that was posted and has not come back in the RX ring.
        missing = self._limit - ((self._fill.next_index - self._rx.next_index) & U32)
        # What the user has reserved is his to publish first.
        if missing > self._tolerated and not self._fill.unpublished and (postable := self._umem.postable(missing)):
            self._fill.fill_all(self._umem, postable)

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
        self._rx.resync()
        self._fill.resync()
        self._core.receive_account.free_received()
