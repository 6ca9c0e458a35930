# SPDX-License-Identifier: Apache-2.0
"""Tee: receive copies of packets; the kernel gets every packet as well, unchanged.

An Interface takes packets from the kernel. With a Tee the XDP program copies them into a BPF ring buffer and passes
them on. So the kernel never loses a packet; when this process is too slow, the copy is lost, and counted. docs/tee.md
has the figures, and the alternatives that were tried.
"""

from __future__ import annotations

import select
import weakref
from typing import Any

import numpy as np

from toolkit._base.clock import clock
from toolkit.abi.tee_slot import slot_size
from toolkit.batch.batch import Batch
from toolkit.interface.nic import Nic
from toolkit.interface.receiving import OneReceiver
from toolkit.interface.ringbuf import RingBuffer, Rows
from toolkit.interface.tee_batch import TeeColumns, by_queue
from toolkit.net.device import Device
from toolkit.program import Link, Program
from toolkit.wait.coalesce import LONGEST_DELAY, Coalescer
from toolkit.wait.feed import ASK_EVERY
from toolkit.wait.waiter import Waiter
from toolkit.xsk.statistics import Statistics

__all__ = ["Tee"]


class TeeWaiter(Waiter):
    """A Waiter whose one descriptor is a ring buffer's. It sleeps ("poll"), and never drives anything."""

    def __init__(self, ring: int, link: Link, where: str) -> None:
        """`ring`: the ring buffer's descriptor, the caller's. `link`: what tells whether the program runs."""
        super().__init__([], where)
        self._ring = ring
        self._link = link
        self._poll.register(ring, select.POLLIN)

    def fds(self) -> tuple[int, ...]:
        """Return the descriptor to wait for elsewhere than in wait()."""
        return (self._ring,)

    def _raise_if_unfed(self) -> None:
        """Raise when no copies come any more, as the link tells: nothing else does."""
        if not self._link.closed and (loss := self._link.loss(ASK_EVERY)) is not None:
            raise loss.error(f"cannot receive on {self._where} any more")


class Tee(OneReceiver):
    """Copies of an interface's packets, which the kernel gets as well. Made by `toolkit.tee()`.

    It receives as an Interface does: one thread calls receive(), close() may come from any. It sends nothing.
    """

    _SUBJECT = "the tee of {}"

    def __init__(
        self,
        device: Device,
        program: Program,
        link: Link,
        *,
        snaplen: int,
        queues: list[int],
        filter: str,
        nic: Nic,
        coalesce: float = LONGEST_DELAY,
    ) -> None:
        """Take over a `xsk_tee.c` program, attached by `link`, which copies `snaplen` bytes of a packet.

        nic: closed with the Tee.
        """
        self._table = program.maps["copies"]
        self._ring = RingBuffer(self._table, slot_size(snaplen))
        waiter = TeeWaiter(self._table.fd, link, device.name)
        super().__init__(device, program, link, nic, waiter, Coalescer(coalesce, self._ring.records))
        self.filter: str | None = filter
        self.snaplen = snaplen
        """Most bytes of a packet that are copied; Batch.wire_lengths has the original length."""
        self._queues = queues
        # The slots taken from the ring, and those of them that receive() has not yet returned. One assignment changes
        # both, so that an interrupt can neither lose a packet nor return it twice.
        self._held: tuple[Rows | None, list[TeeColumns]] = (None, [])
        self._returned = 0  # packets returned by receive(), which alone writes it
        self._last: weakref.ref[Batch] | None = None  # the last Batch

    def __repr__(self) -> str:
        """Show mode, queues and filter."""
        if self._why_dead:
            return f"<Tee {self.name}, {self._why_dead}>"
        return f"<Tee {self.name}: {self.mode}, filter {self.filter!r}, {self._ring.records} slots>"

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def zero_copy(self) -> bool:
        """False: a Tee copies."""
        return False

    def fileno(self) -> int:
        """Return a descriptor for poll(2) and the like: readable when copies wait, after receive() was empty once."""
        self._check_open()
        return self._table.fd

    def info(self) -> dict[str, Any]:
        """Return the options in effect, for display and for JSON: those keys of Interface.info() that apply."""
        return {
            **self._about(),
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
        """Return the drops in the form of Interface.statistics(): `rx_ring_full` has the packets whose copy was lost.

        counters() has them as `lost`; `redirected` counts all packets to be copied, including these.
        """
        return self._nic.with_missed(Statistics(0, 0, 0, self.counters()["lost"], 0, 0), starved=False)

    def waiting(self) -> int | None:
        """Return how many copies receive() has not yet returned; None if it has not returned any."""
        if not self._returned:
            return None
        counters = self.counters()
        return max(counters["redirected"] - counters["lost"] - self._returned, 0)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def _begin(self, limit: int | None, timeout: float | None) -> Batch | None:
        return self._next(limit) if self._take_back() else None

    def _poll(self, limit: int | None, turns: int | None = None) -> Batch:
        # The ring may be empty though the Waiter returned: the kernel also wakes for a copy that is not finished yet.
        if not self._take():
            self._waiter.check_feed()
        return self._next(limit)

    def _holds(self) -> bool:
        """Whether copies were taken with the last Batch, which ends here: before that the kernel tells of no others."""
        return self._take_back()

    def _take_back(self) -> bool:
        """Make the last Batch stale. Return whether copies taken with it are left; if none is, the slots are freed."""
        self._expire_last()
        self._last = None
        rows, waiting = self._held
        if waiting:
            return True
        if rows is not None:
            self._ring.release(rows)
            self._held = (None, [])
        return False

    def _take(self) -> bool:
        """Take all copies from the ring; return whether there was one."""
        rows = self._ring.take()
        if rows.records:
            clock.pair()  # now, close to the arrival: the times may be asked for much later
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
        self._last = weakref.ref(batch)
        self._held = (rows, others)
        self._returned += len(batch)
        return batch

    # --- the end ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        super()._wake()
        self.link.close()  # first, so that the program is off the interface even if a later step fails

    def _abandon(self) -> None:
        super()._abandon()
        self._expire_last()  # its memory is not mapped in the child

    def _expire_last(self) -> None:
        last = self._last() if self._last is not None else None
        if last is not None:
            last.expire()

    def _release(self) -> None:
        self._expire_last()
        self._held = (None, [])
        self._ring.close()
        self._nic.close()
        self.program.close()
