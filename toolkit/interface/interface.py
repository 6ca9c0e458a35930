# SPDX-License-Identifier: Apache-2.0
"""Interface: an XDP program, a UMEM, and a Socket on every queue. `toolkit.open()` returns one."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import numpy.typing as npt

from toolkit.batch.batch import Batch
from toolkit.errors import ArgumentError, DeviceGoneError, ToolkitError
from toolkit.interface.nic import Nic
from toolkit.interface.receiving import OneReceiver
from toolkit.net.device import Device
from toolkit.net.napi import Deferral
from toolkit.program import Link, Program
from toolkit.program.link import wait_for_readers
from toolkit.umem.umem import UMEM
from toolkit.wait.coalesce import LONGEST_DELAY, Coalescer
from toolkit.wait.waiter import Waiter, WaitMode
from toolkit.xsk.socket import Socket
from toolkit.xsk.statistics import Statistics

__all__ = ["Interface"]

_LAST_FRAMES = 0.1  # seconds that close() waits for frames that are being sent, as for those in copy mode
_EVERYTHING = 1 << 31  # entries: more than a ring has


class Interface(OneReceiver):
    """A network interface whose packets come to this process: `receive()` returns them as Batches.

    One thread receives; close() may come from any thread. Use it as a context manager. Made by `toolkit.open()`.
    """

    _SUBJECT = "the interface {}"

    def __init__(
        self,
        device: Device,
        program: Program,
        link: Link,
        umem: UMEM,
        sockets: list[Socket],
        *,
        own_program: bool,
        own_umem: bool,
        filter: str | None,
        nic: Nic,
        wait: WaitMode = "poll",
        coalesce: float = LONGEST_DELAY,
        deferral: Deferral | None = None,
    ) -> None:
        """Take over parts that belong together. own_program, own_umem: whether to close them with the Interface.

        nic: closed with the Interface. deferral: restored at close(). The sockets must be made with the same `wait`.
        """
        waiter = Waiter([sock._core.sock for sock in sockets], device.name)
        ring_size = min(sock.rx_limit for sock in sockets)
        coalescer = Coalescer(coalesce if wait == "poll" else 0.0, ring_size, len(sockets))
        super().__init__(device, program, link, nic, waiter, coalescer)
        self.umem = umem
        self.sockets = tuple(sockets)  # in order of their queues
        self.filter = filter
        self._own_program = own_program
        self._own_umem = own_umem
        waiter.configure(wait, [sock.rx for sock in sockets])
        # A driver asks for frames when a socket is bound, and those of a shared UMEM get them right after that.
        self._empty_at_first = self._counted().rx_fill_ring_empty_descs
        self._deferral = deferral
        if deferral is not None:
            waiter.on_undriven = deferral.restore
            weakref.finalize(self, deferral.finalize)
        # The program refers to its links, so a garbage-collected Interface on the user's own program would otherwise
        # stay attached for as long as that program exists.
        weakref.finalize(self, link.close)
        self._only = sockets[0]._receiver if len(sockets) == 1 else None
        self._next = 0  # position of the socket to poll first, so that each gets its turn
        self._last: Socket | None = None  # the one whose frames the last Batch borrows; written by receive() only

    def __repr__(self) -> str:
        """Show mode, copy or zero-copy, queues and filter."""
        if self._why_dead:
            return f"<Interface {self.name}, {self._why_dead}>"
        copying = "zero-copy" if self.zero_copy else "copy mode"
        return f"<Interface {self.name}: {self.mode}, {copying}, {len(self.sockets)} queue(s), filter {self.filter!r}>"

    def _repr_html_(self) -> str:
        """Show the same as a table, in a notebook."""
        if self._why_dead:
            return repr(self).replace("<", "&lt;").replace(">", "&gt;")
        from toolkit._base.html import table_html

        return table_html(repr(self), {**self.info(), **self.counters(), **self.statistics()._asdict()})

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def zero_copy(self) -> bool:
        """Whether the driver writes into the UMEM itself on every queue, as the kernel reports."""
        return all(sock.zero_copy for sock in self.sockets)

    def info(self) -> dict[str, Any]:
        """Return the options in effect, for display and for JSON."""
        return {
            **self._about(),
            "zero_copy": self.zero_copy,
            "frags": all(sock.sg for sock in self.sockets),
            "need_wakeup": all(sock.need_wakeup for sock in self.sockets),
            "queues": [sock.queue for sock in self.sockets],
            "filter": self.filter,
            "frames": self.umem.frames,
            "frame_size": self.umem.frame_size,
            "ring_size": self.umem.fill_size,
            "wait": self._waiter.mode,
            "busy_polling": None if self._why_dead else self._waiter.drives,
        }

    def statistics(self) -> Statistics:
        """Return the kernel's six counters, summed over the queues, and `missed`: what the NIC lost before them."""
        self._check_open()
        total = self._counted()
        starved = self.zero_copy and total.rx_fill_ring_empty_descs > self._empty_at_first
        return self._nic.with_missed(total, starved=starved)

    def _counted(self) -> Statistics:
        return sum((sock.statistics() for sock in self.sockets), Statistics(0, 0, 0, 0, 0, 0))

    def waiting(self) -> int | None:
        """Return how many packets are in the RX rings; None if none was ever taken from them."""
        self._check_open()
        rings = [sock.rx for sock in self.sockets]
        if not any(ring.next_index for ring in rings):
            return None
        return sum(ring.available(_EVERYTHING) for ring in rings)

    # --- receiving --------------------------------------------------------------------------------------------------

    def _begin(self, limit: int | None, timeout: float | None) -> Batch | None:
        """Between two delays, poll the queues that were not polled since the last delay."""
        pace = self._coalescer
        if pace.active and pace.turns and timeout != 0:
            return self._poll(limit, pace.turns)
        return None

    def _poll(self, limit: int | None, turns: int | None = None) -> Batch:
        """Poll `turns` queues (one or more), beginning after the last that had packets."""
        if self._only is not None:
            self._coalescer.turns = 0
            try:
                return self._only.poll_once(limit)
            except DeviceGoneError as error:
                raise self.loss() or error from None
        last, sockets = self._last, self.sockets
        turns = len(sockets) if turns is None else turns
        gone: DeviceGoneError | None = None
        for turn in range(turns):
            at = (self._next + turn) % len(sockets)
            sock = sockets[at]
            if last is not None and last is not sock:
                last.take_back()
                self._last = last = None
            try:
                batch = sock.poll_once(limit)
            except DeviceGoneError as error:  # packets that wait on other queues are returned first
                gone = error
                continue
            if batch:
                self._last, self._next = sock, at + 1
                self._coalescer.turns = turns - turn - 1
                return batch
        self._last = None
        if gone is None:
            return batch
        if turns < len(sockets):
            return self._poll(limit)
        raise self.loss() or gone

    def loss(self) -> DeviceGoneError | None:
        """Return the error with which receiving ends, if the program was taken off or the interface is gone."""
        for sock in self.sockets:
            if sock.feed.left is not None:
                return sock.feed.left.error(f"cannot receive on {self.name} any more")
        return super().loss()

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(
        self,
        packets: Any,
        lengths: npt.ArrayLike | None = None,
        timeout: float | None = None,
        *,
        queue: int | None = None,
    ) -> int:
        """Send packets on one queue (by default the first that is open): see Socket.send().

        Packets are sent as they are. Those that were received from a veth, a tap or a virtio NIC may have checksums
        that
        their sender left to its device: toolkit.packets.finish_checksums() finishes them.
        """
        return self._socket_of(queue).send(packets, lengths, timeout)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every queue has sent everything (True), or `timeout` seconds passed for one of them."""
        self._check_open()
        empty = [sock.flush(timeout) for sock in self.sockets]  # all of them, even after one that took too long
        return all(empty)

    def _socket_of(self, queue: int | None) -> Socket:
        self._check_open()
        for sock in self.sockets:
            if queue is None or sock.queue == queue:
                return sock
        raise ArgumentError(
            f"queue {queue} of {self.name} is not open; open are {', '.join(str(s.queue) for s in self.sockets)}. "
            "Next step: name one of these, or open it with `queues=...`."
        )

    # --- the end ----------------------------------------------------------------------------------------------------

    def stop_taking(self) -> None:
        """Let all packets go on to the kernel from here on: no new one comes, and waiting ones can be received.

        The program stays attached, which a driver needs to send zero-copy. So this comes before detach() where waiting
        packets are to be answered or forwarded. Repeatable.
        """
        self._check_open()
        for sock in self.sockets:
            self.program.unregister(sock.queue)
        wait_for_readers()

    def _release(self) -> None:
        with contextlib.ExitStack() as parts:  # all of them, even if one raises; in reverse order
            if self._own_umem:
                parts.callback(self.umem.close)
            if self._own_program:
                parts.callback(self.program.close)
            for sock in self.sockets:
                parts.callback(sock.close)
            parts.callback(self.link.close)
            parts.callback(self._nic.close)
            if self._deferral is not None:
                parts.callback(self._deferral.restore)
            for sock in self.sockets:
                if sock.zero_copy:  # the driver sends no more without the program
                    parts.callback(_send_what_waits, sock)


def _send_what_waits(sock: Socket) -> None:
    with contextlib.suppress(ToolkitError):  # another thread sends, or the device is gone: close() sees to the frames
        sock.flush(_LAST_FRAMES)
