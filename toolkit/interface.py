# SPDX-License-Identifier: Apache-2.0
"""Interface: an XDP program, a UMEM, and a Socket on every queue. `toolkit.open()` returns one."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
import warnings
import weakref
from collections.abc import Iterable
from typing import Any, Literal

from toolkit import lifecycle
from toolkit.abi.if_xdp import XDP_PACKET_HEADROOM, Statistics
from toolkit.batch import Batch
from toolkit.device import Device, await_carrier, describe, queue_numbers
from toolkit.errors import ArgumentError, ClosedError, ToolkitError, kernel_error
from toolkit.netns import NetNS, entered
from toolkit.program import Link, Program
from toolkit.umem import UMEM, check_ring_size
from toolkit.uninterrupted import uninterrupted
from toolkit.wait import Waiter
from toolkit.xsk import Socket

__all__ = ["Interface", "open"]

_LINK_HEADERS = 14 + 2 * 4  # Ethernet and two VLAN tags, on top of the MTU
_CLOSE_PATIENCE = 5.0  # seconds that close() waits for a thread inside receive()
_IN_FLIGHT = 0.02  # seconds: a driver's poll loop that runs the program still, after it was detached, has ended by then
_MANY_QUEUES = 16  # above this the default rings are smaller, so that 64 queues do not cost a gigabyte


def open(
    interface: str,
    *,
    filter: str | None = None,
    program: Program | None = None,
    queues: Iterable[int] | Literal["all"] = "all",
    mode: Literal["auto", "native", "generic"] = "auto",
    zero_copy: bool | Literal["auto"] = "auto",
    replace: bool = False,
    ring_size: int | None = None,
    frames: int | None = None,
    frame_size: int | None = None,
    need_wakeup: bool = True,
    tx: bool = True,
    poison: bool = False,
    netns: NetNS = None,
) -> Interface:
    """Open `interface` for receiving: compile (or find) the program, bind a Socket to every queue, attach.

    filter: what to take, a tcpdump expression; everything else goes on to the kernel. "all" takes everything, the
    SSH session that you may be using included.
    program: a Program of your own with an XSKMAP, instead of a filter; it is not closed with the Interface.
    queues: numbers of receive queues; packets of other queues go on to the kernel.
    mode: "auto" attaches natively where the driver can, else generically; `Interface.mode` says which came about.
    zero_copy: True demands it, False forbids it. replace: take the place of a program that is attached already.
    ring_size: entries of each ring, a power of two; by default 8192 (16 MB a queue), with more than 16 queues 2048.
    frames: per queue; by default a quarter more than the ring, so that sending cannot starve.
    frame_size: 2048 or 4096 bytes; by default the smaller one that holds the MTU. poison: see UMEM.
    netns: the interface's network namespace: a pid, a path, a name of `ip netns`, or an object with fileno().

    Everything is undone when it fails, when the Interface is closed, and when the process ends, however it ends.
    """
    if (filter is None) == (program is None):
        raise ArgumentError(
            f"say what to take from {interface}: filter= with a tcpdump expression such as 'udp port 53', or 'all' for "
            "everything (it cuts off the SSH session that comes in there), or program= with one of your own; not both."
        )

    def work() -> Interface:
        with entered(netns):
            return _open(
                interface,
                filter,
                program,
                queues,
                mode,
                zero_copy,
                replace,
                ring_size,
                frames,
                frame_size,
                poison=poison,
                need_wakeup=need_wakeup,
                tx=tx,
            )

    # In one piece: an interrupt in the middle could leave a program attached that no object stands for.
    return uninterrupted(work, dispose=Interface.close)


def _open(
    interface: str,
    filter: str | None,
    program: Program | None,
    queues: Iterable[int] | Literal["all"],
    mode: Literal["auto", "native", "generic"],
    zero_copy: bool | Literal["auto"],
    replace: bool,
    ring_size: int | None,
    frames: int | None,
    frame_size: int | None,
    *,
    poison: bool,
    need_wakeup: bool,
    tx: bool,
) -> Interface:
    """Do what open() says, in the calling thread's network namespace."""
    with contextlib.ExitStack() as undo:
        device = describe(interface)
        if not device.up:
            raise kernel_error(
                "bind",
                errno.ENETDOWN,
                f"cannot receive on {interface}",
                remedy=f"bring it up: `ip link set dev {interface} up`",
            )
        numbers = queue_numbers(device, queues)
        umem = undo.enter_context(_umem(device, len(numbers), ring_size, frames, frame_size, poison))
        size = umem.fill_size
        rx_limit = min(size, max(umem.frames // len(numbers) * 4 // 5, 1))
        own = program is None
        if program is None:
            program = Program.build(filter=filter or "", map_entries={"xsks_map": max(64, max(numbers) + 1)})
            undo.callback(program.close)
        # Attached while the map is still empty (everything passes): zero-copy drivers want the program before the bind.
        link = undo.enter_context(program.attach(interface, mode=mode, replace=replace))
        await_carrier(device)
        sockets: list[Socket] = []
        for queue in numbers:
            sock = Socket(
                interface,
                queue,
                umem,
                rx_size=size,
                tx_size=size,
                zero_copy=zero_copy,
                need_wakeup=need_wakeup,
                tx=tx,
                prefill=rx_limit,
            )
            undo.callback(sock.close)
            sock.rx_limit = rx_limit
            sockets.append(sock)
        for sock in sockets:
            program.register(sock)
        opened = Interface(device, program, link, umem, sockets, own_program=own, filter=filter)
        undo.pop_all()
    return opened


class Interface:
    """A network interface whose packets come to this process: `receive()` returns them as Batches.

    One thread receives; close() may come from any thread. Use it as a context manager. Made by `toolkit.open()`.
    """

    def __init__(
        self,
        device: Device,
        program: Program,
        link: Link,
        umem: UMEM,
        sockets: list[Socket],
        *,
        own_program: bool,
        filter: str | None,
    ) -> None:
        """Take over parts that belong together; `own_program` closes the program with the Interface."""
        self.device = device
        self.program = program
        self.link = link
        self.umem = umem
        self.sockets = tuple(sockets)  # in order of their queues
        self.filter = filter
        self._own_program = own_program
        self._waiter = Waiter([sock._core.sock for sock in sockets], device.name)
        self._wait_finalizer = weakref.finalize(self, self._waiter.close)
        # The program knows its links as well: without this, a forgotten Interface on a program of the user's own would
        # stay attached for as long as that program.
        weakref.finalize(self, link.close)
        self._guard = threading.Lock()  # held by the thread that is inside receive()
        self._close_lock = threading.Lock()
        self._next = 0  # position of the socket to look at first: each gets its turn
        self._lender: Socket | None = None  # whose frames the last Batch holds; written by receive() only
        self._why_dead = ""
        self._down = False  # whether close() came to its end
        lifecycle.track(self)

    def __enter__(self) -> Interface:
        """Close at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Show what came about: mode, copy or zero-copy, queues, filter."""
        if self._why_dead:
            return f"<Interface {self.name}, {self._why_dead}>"
        copying = "zero-copy" if self.zero_copy else "copy mode"
        return f"<Interface {self.name}: {self.mode}, {copying}, {len(self.sockets)} queue(s), filter {self.filter!r}>"

    def _repr_html_(self) -> str:
        """Show the same as a table, in a notebook."""
        if self._why_dead:
            return repr(self).replace("<", "&lt;").replace(">", "&gt;")
        from toolkit.describe import table_html

        return table_html(repr(self), {**self.info(), **self.counters(), **self.statistics()._asdict()})

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.device.name

    @property
    def mode(self) -> str:
        """How the program runs: "native" (in the driver) or "generic" (after it, slower)."""
        return self.link.mode

    @property
    def zero_copy(self) -> bool:
        """Whether the driver writes into the UMEM itself on every queue, as the kernel reports."""
        return all(sock.zero_copy for sock in self.sockets)

    @property
    def closed(self) -> bool:
        """Whether close() has begun, or this process is a fork of the owner."""
        return bool(self._why_dead)

    def info(self) -> dict[str, Any]:
        """Return what came about, for people and for JSON."""
        return {
            "interface": self.name,
            "driver": self.device.driver,
            "mode": self.mode,
            "fallback_reason": self.link.fallback_reason,
            "zero_copy": self.zero_copy,
            "queues": [sock.queue for sock in self.sockets],
            "filter": self.filter,
            "frames": self.umem.frames,
            "frame_size": self.umem.frame_size,
            "ring_size": self.umem.fill_size,
        }

    def statistics(self) -> Statistics:
        """Return the kernel's six counters, summed over the queues."""
        self._check_open()
        total = Statistics(0, 0, 0, 0, 0, 0)
        for sock in self.sockets:
            total += sock.statistics()
        return total

    def counters(self) -> dict[str, int]:
        """Return what the XDP program counted, summed over the CPUs: `redirected`, `passed`, …"""
        self._check_open()
        return self.program.counters

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """Return waiting packets of one queue, at most `limit`, as a Batch; the queues get their turns.

        timeout: seconds to wait for the first packet; None waits for ever, 0 not at all. On time-out the Batch is empty
        (and falsy). The next receive() ends the loan of this Batch.
        DeviceGoneError when the interface vanished, ClosedError after (or during) close().
        """
        self._check_open()
        if self._guard.locked():
            raise ToolkitError(
                f"two threads receive on {self.name} at once (or a signal handler interrupted receive()). "
                "Next step: receive from one thread."
            )
        with self._guard:
            batch = self._look(limit)
            if not batch and timeout != 0 and self._waiter.wait(timeout):
                self._check_open()
                batch = self._look(limit)
        if not batch:
            self._check_open()
        return batch

    def _look(self, limit: int | None) -> Batch:
        """Look at every queue once, beginning after the last that had packets."""
        lender, sockets = self._lender, self.sockets
        for turn in range(len(sockets)):
            at = (self._next + turn) % len(sockets)
            sock = sockets[at]
            if lender is not None and lender is not sock:
                lender.end_loan()
                self._lender = lender = None
            batch = sock.poll_once(limit)
            if batch:
                self._lender, self._next = sock, at + 1
                return batch
        self._lender = None
        return batch

    def detach(self) -> None:
        """Take the program off the interface: nothing new is redirected, what waits in the rings can be received.

        To reconcile counters: detach, receive until nothing comes, then received + statistics().dropped equals
        counters()["redirected"], to the packet. Repeatable.
        """
        self._check_open()
        self.link.close()
        time.sleep(_IN_FLIGHT)

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Detach the program, free the queues, give the memory back. Repeatable; waits for a thread in receive()."""
        if self._why_dead.startswith("dead"):
            return
        self._why_dead = "closed"
        if not self._down:
            uninterrupted(self._close, patience=2 * _CLOSE_PATIENCE, stuck=f"cannot close {self._stuck}")

    def _close(self) -> None:
        with self._close_lock:  # another thread may be closing: return when it is done
            if not self._down:
                self._waiter.wake()
                self._take_down()

    def _take_down(self) -> None:
        if not self._guard.acquire(timeout=_CLOSE_PATIENCE):
            raise ToolkitError(f"cannot close {self._stuck}")
        try:
            with contextlib.ExitStack() as parts:  # all of them, whatever one of them raises; last in, first out
                parts.callback(self.umem.close)
                if self._own_program:
                    parts.callback(self.program.close)
                for sock in self.sockets:
                    parts.callback(sock.close)
                parts.callback(self.link.close)
                parts.callback(self._wait_finalizer)
            self._down = True
        finally:
            self._guard.release()

    @property
    def _stuck(self) -> str:
        return (
            f"{self.name}: receive() is still inside it after {_CLOSE_PATIENCE:.0f} s. Likely cause: close() was "
            "called from a signal handler that interrupted it. Next step: set a flag in the handler, close outside of "
            "it."
        )

    def _after_fork_in_child(self) -> None:
        if not self._why_dead:
            self._why_dead = "dead: it belongs to the parent of a fork"
            self._waiter.close()

    def _check_open(self) -> None:
        if self._why_dead:
            raise ClosedError(f"the interface {self.name} is {self._why_dead}")


def _umem(
    device: Device, queues: int, ring_size: int | None, frames: int | None, frame_size: int | None, poison: bool
) -> UMEM:
    """Make the memory that the Sockets of an Interface share."""
    size = ring_size if ring_size is not None else 8192 if queues <= _MANY_QUEUES else 2048
    check_ring_size("ring_size", size)
    per_queue = frames if frames is not None else max(size + size // 4, 2)
    return UMEM(per_queue * queues, frame_size or _frame_size(device), fill_size=size, comp_size=size, poison=poison)


def _frame_size(device: Device) -> int:
    longest = device.mtu + _LINK_HEADERS
    if longest <= 2048 - XDP_PACKET_HEADROOM:
        return 2048
    if longest > 4096 - XDP_PACKET_HEADROOM:
        warnings.warn(
            f"{device.name} has an MTU of {device.mtu}: packets longer than {4096 - XDP_PACKET_HEADROOM} bytes do not "
            "fit a frame and will be dropped (rx_dropped counts them).",
            stacklevel=3,
        )
    return 4096
