# SPDX-License-Identifier: Apache-2.0
"""Packets for two: the kernel gets each one as if nobody looked, and a copy of those that a filter takes comes here.

An Interface takes packets away from the kernel. A Tee has the XDP program pass them on, and copy them first, into a BPF
ring buffer. So the kernel loses nothing, whatever happens here; when this process is too slow, it is the copy that is
lost, and counted. docs/tee.md has the figures, and what else was tried.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
import weakref
from typing import Any

import numpy as np

from toolkit import lifecycle
from toolkit.abi.if_xdp import Statistics
from toolkit.abi.xsk_tee import slot_size
from toolkit.batch import Batch
from toolkit.clock import clock
from toolkit.coalesce import LONGEST_REST, Coalescer
from toolkit.copies import Columns, by_queue
from toolkit.device import Device
from toolkit.errors import (
    ClosedError,
    DeviceGoneError,
    ToolkitError,
    kernel_error,
)
from toolkit.one_receiver import OneReceiver
from toolkit.program import Link, Program
from toolkit.program.query import link_info
from toolkit.ringbuf import RingBuffer, Rows

__all__ = ["Tee"]

_SLICE = 0.2  # seconds: nothing wakes a reader whose interface is gone, so it looks that often


class Tee(OneReceiver):
    """Copies of an interface's packets, which the kernel gets as well. Made by `toolkit.tee()`.

    It receives as an Interface does: one thread calls receive(), close() may come from any. It sends nothing.
    """

    _SUBJECT = "the tee of {} is"

    def __init__(
        self,
        device: Device,
        program: Program,
        link: Link,
        *,
        snaplen: int,
        queues: list[int],
        filter: str,
        coalesce: float = LONGEST_REST,
    ) -> None:
        """Take over a `xsk_tee.c` program, attached by `link`, which copies `snaplen` bytes of a packet."""
        super().__init__(device, program, link)
        self.filter: str | None = filter
        self.snaplen = snaplen
        """Bytes of a packet that are copied, at most; Batch.wire_lengths tells how long it was."""
        self._queues = queues
        self._table = program.maps["copies"]
        self._ring = RingBuffer(self._table, slot_size(snaplen))
        # What was taken from the ring, and what of it receive() has not returned yet. One assignment changes both, so
        # that an interrupt between two steps can neither lose a packet nor bring it twice.
        self._held: tuple[Rows | None, list[Columns]] = (None, [])
        self._returned = 0  # packets, by receive(); written by that only
        self._lent: weakref.ref[Batch] | None = None  # the last Batch
        self._coalescer = Coalescer(coalesce, self._ring.records)
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # written by close(), from any thread
        self._event_finalizer = weakref.finalize(self, os.close, self._event)
        self._poll = select.poll()
        self._poll.register(self._table.fd, select.POLLIN)
        self._poll.register(self._event, select.POLLIN)
        lifecycle.track(self)

    def __repr__(self) -> str:
        """Show what came about."""
        if self._why_dead:
            return f"<Tee {self.name}, {self._why_dead}>"
        return f"<Tee {self.name}: {self.mode}, filter {self.filter!r}, {self._ring.records} slots>"

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def zero_copy(self) -> bool:
        """False: what is not taken away has to be copied."""
        return False

    def fileno(self) -> int:
        """The descriptor to wait for elsewhere: readable when copies wait, once receive() returned an empty Batch."""
        self._check_open()
        return self._table.fd

    def info(self) -> dict[str, Any]:
        """Return what came about, for people and for JSON: the keys of Interface.info(), as far as they apply."""
        return {
            "interface": self.name,
            "driver": self.device.driver,
            "mode": self.mode,
            "fallback_reason": self.link.fallback_reason,
            "zero_copy": False,
            "queues": list(self._queues),
            "filter": self.filter,
            "tee": True,
            "slots": self._ring.records,
            "snaplen": self.snaplen,
            "ring_bytes": self._ring.size,
            "wait": "poll",
        }

    def statistics(self) -> Statistics:
        """Return the drops as an Interface does: `rx_ring_full` are packets whose copy found no room.

        counters() has them as `lost`; `redirected` are all that were to be copied, and the others come here.
        """
        return Statistics(0, 0, 0, self.counters()["lost"], 0, 0)

    def waiting(self) -> int | None:
        """Return how many copies receive() has not returned yet; None if it has returned none at all."""
        if not self._returned:
            return None
        counters = self.counters()
        return max(counters["redirected"] - counters["lost"] - self._returned, 0)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """Return waiting copies of one queue, at most `limit`, as a Batch; see Interface.receive().

        The next receive() ends the loan of this Batch. DeviceGoneError when the interface vanished, ClosedError after
        (or during) close().
        """
        self._check_open()
        if not self._guard.acquire(blocking=False):
            raise ToolkitError(
                f"two threads receive from the tee of {self.name} at once (or a signal handler interrupted receive()). "
                "Next step: receive from one of them."
            )
        try:
            batch = self._receive(timeout, limit)
        finally:
            self._guard.release()
        if not batch:
            self._check_open()
        elif self._flows:
            self._count(batch)
        return batch

    def _receive(self, timeout: float | None, limit: int | None) -> Batch:
        if not self._end_loan():
            if rest := self._coalescer.rest(timeout):
                time.sleep(rest)
                self._check_open()
            if not self._take() and timeout != 0:
                self._coalescer.idle()
                deadline = None if timeout is None else time.monotonic() + timeout
                # More than once: the kernel tells of a copy that another CPU is still at.
                while self._wait(None if deadline is None else max(deadline - time.monotonic(), 0.0)):
                    self._check_open()
                    if self._take() or (deadline is not None and time.monotonic() >= deadline):
                        break
        batch = self._next(limit)
        self._coalescer.note(len(batch))
        self._returned += len(batch)
        return batch

    def _end_loan(self) -> bool:
        """Make the last Batch stale. Whether packets taken with it are still to be returned; else the slots go back."""
        last = self._lent() if self._lent is not None else None
        if last is not None:
            last.expire()
        self._lent = None
        rows, waiting = self._held
        if waiting:
            return True
        if rows is not None:
            self._ring.release(rows)
            self._held = (None, [])
        return False

    def _take(self) -> bool:
        """Look into the ring: whether anything was there."""
        rows = self._ring.take()
        if rows.records:
            clock.pair()  # now, while the packets are young: the times may be asked for much later
            self._held = (rows, by_queue(rows))
        return rows.records > 0

    def _next(self, limit: int | None) -> Batch:
        rows, waiting = self._held
        if not waiting:
            return Batch(None, np.empty((0, 2), np.uint64), memory=np.empty(0, np.uint8))
        columns, others = waiting[0], waiting[1:]
        if limit is not None and limit < len(columns.descs):
            columns, others = columns.part(slice(limit)), [columns.part(slice(limit, None)), *others]
        batch = columns.batch()
        self._lent = weakref.ref(batch)
        self._held = (rows, others)
        return batch

    def wait(self, timeout: float | None = None) -> bool:
        """Block until copies wait (True) or `timeout` seconds passed (False); raises as receive() does.

        Ends the loan of the last Batch, as receive() does: while its slots are lent, the kernel tells of nothing new.
        """
        self._check_open()
        with self._guard:
            ready = self._end_loan() or self._wait(timeout)
        self._check_open()
        return ready

    def _wait(self, timeout: float | None) -> bool:
        """Sleep until copies wait (True), `timeout` seconds passed or close() was called (False)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE if deadline is None else min(_SLICE, deadline - time.monotonic())
            for fd, _ in self._poll.poll(max(left, 0.0) * 1000):
                return fd != self._event
            self._check_device()
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def _check_device(self) -> None:
        """Raise when the interface is gone: its link tells, and nothing else does."""
        if self.link.closed:  # by detach()
            return
        with contextlib.suppress(ClosedError):  # by another thread, just now
            link = link_info(self.link.fd)
            if (link is None or link.ifindex == 0) and not self.link.ending:
                refused = kernel_error(
                    "wait",
                    errno.ENETDOWN,
                    f"cannot receive on {self.name} any more",
                    cause="the interface was deleted",
                    remedy="check `ip link`, then open it again",
                )
                raise DeviceGoneError(errno.ENETDOWN, refused.strerror)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _wake_receiver(self) -> None:
        os.eventfd_write(self._event, 1)
        self.link.close()  # whatever comes next: nothing of ours stays in the packets' way

    def _take_down(self) -> None:
        last = self._lent() if self._lent is not None else None
        if last is not None:
            last.expire()
        self._held = (None, [])
        self._ring.close()
        self.program.close()
        self._event_finalizer()

    def _after_fork_in_child(self) -> None:
        if not self._why_dead:
            self._why_dead = "dead: it belongs to the parent of a fork"
            self._event_finalizer()
