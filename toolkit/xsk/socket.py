# SPDX-License-Identifier: Apache-2.0
"""Socket: an AF_XDP socket on one queue of one interface, with its UMEM and four rings (gVisor's ControlBlock)."""

from __future__ import annotations

import contextlib
import errno
import functools
import weakref
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from toolkit._base import fork
from toolkit._base.arguments import cannot_be, whole
from toolkit._base.netns import Home, NetNS, entered
from toolkit._base.uninterrupted import uninterrupted
from toolkit.abi.if_xdp import SOL_XDP, XDP_STATISTICS, parse_statistics
from toolkit.abi.libxdp import (
    XSK_RING_CONS__DEFAULT_NUM_DESCS,
    XSK_RING_PROD__DEFAULT_NUM_DESCS,
    libxdp,
)
from toolkit.batch.batch import Batch
from toolkit.errors import ArgumentError, SystemCallError, ToolkitError, explained, kernel_error
from toolkit.net.device import Device, check_ethernet, check_queue, describe
from toolkit.program.loss import Location
from toolkit.umem.receiving import OwnedFill, OwnedRX
from toolkit.umem.sending import OwnedCompletion, OwnedTX
from toolkit.umem.umem import UMEM
from toolkit.wait.feed import Feed
from toolkit.wait.waiter import WaitMode
from toolkit.xsk.core import Core
from toolkit.xsk.options import SocketOptions
from toolkit.xsk.receiver import Receiver
from toolkit.xsk.refused import with_mtu
from toolkit.xsk.replier import Replier
from toolkit.xsk.sender import Sender
from toolkit.xsk.statistics import Statistics

__all__ = ["Socket"]


class Socket(fork.NotCopied):
    """An AF_XDP socket: one queue of one interface, a UMEM and the rings `rx`, `tx`, `fill` and `completion`.

    One thread receives and one sends; close() may come from any thread. Use it as a context manager.
    """

    def __init__(
        self,
        interface: str,
        queue: int = 0,
        umem: UMEM | None = None,
        *,
        rx_size: int = XSK_RING_CONS__DEFAULT_NUM_DESCS,
        tx_size: int = XSK_RING_PROD__DEFAULT_NUM_DESCS,
        zero_copy: bool | Literal["auto"] = "auto",
        need_wakeup: bool | Literal["auto"] = "auto",
        sg: bool | Literal["auto"] = "auto",
        rx: bool = True,
        tx: bool = True,
        prefill: int = 0,
        wait: WaitMode = "poll",
        netns: NetNS = None,
    ) -> None:
        """Create the socket and bind it; it receives once a Program is attached that redirects to it (register()).

        umem: shared with other Sockets, or None for one of its own (closed with the Socket).
        rx_size, tx_size: ring entries, powers of two. rx=False or tx=False leaves that ring out.
        zero_copy: True demands it, False forbids it, "auto" uses it if the driver supports it and runs an XDP program
        now: without one in native mode drivers do not send zero-copy. So attach first, then make the Socket.
        need_wakeup: the driver sets a flag in the ring when it needs a system call to go on; calls are made only then
        ("auto": True).
        sg: packets larger than a frame arrive as several descriptors (XDP_PKT_CONTD). A Batch has them in one piece,
        and is then a copy ("auto": False).
        The properties of these names report the result. Sockets of one UMEM may differ in them: the memory is then
        registered with the kernel once for each way of binding, and counts as often against RLIMIT_MEMLOCK.
        prefill: frames to post before binding (some zero-copy drivers need that).
        wait: how wait() and receive() wait: "poll" sleeps in poll(2); "busy-poll" (the driver polls its NIC queue, by
        recvfrom(2)) and "spin" (the rings are polled) each take a whole core.
        netns: the network namespace of the interface: a pid, a path, a name of `ip netns`, or an object with fileno().

        SystemCallError when the kernel refuses: no such interface (ENODEV), interface down (ENETDOWN), queue out of
        range (EINVAL) or taken (EBUSY), no privilege (EPERM), no memory to lock (ENOBUFS), no zero-copy (EOPNOTSUPP).
        """
        options = SocketOptions.checked(
            rx_size=rx_size,
            tx_size=tx_size,
            zero_copy=zero_copy,
            need_wakeup=need_wakeup,
            sg=sg,
            rx=rx,
            tx=tx,
            wait=wait,
        )
        if umem is not None and not isinstance(umem, UMEM):
            raise cannot_be("umem", umem, "a toolkit.UMEM, or None for one of its own")
        self._own_umem = umem is None
        self.interface = interface
        self.queue = queue = whole("queue", queue)

        def bind() -> None:
            with explained(f"cannot open a socket on queue {queue} of {interface}"), entered(netns):
                self.device: Device = describe(interface)
                _check_device(self.device, queue)
                self.umem: UMEM = UMEM() if umem is None else umem
                try:
                    feed = Feed(Location(Home(netns), self.device.ifindex))
                    self._core = Core(interface, queue, self.umem, options, whole("prefill", prefill), feed)
                except BaseException as refused:
                    if self._own_umem:
                        self.umem.close()
                    if isinstance(refused, SystemCallError) and options.zero_copy:
                        tried = f"cannot bind zero-copy to queue {queue} of {interface}"
                        shape = {"frame_size": self.umem.frame_size, "headroom": self.umem.headroom}
                        raise with_mtu(refused, self.device, tried, sg=bool(options.sg), **shape) from None
                    raise
            self._finalizer = weakref.finalize(self, self._core.finalize)
            self.fill: OwnedFill = self._core.fill
            self.completion: OwnedCompletion = self._core.completion

        uninterrupted(bind, dispose=lambda _: self.close())

    def __enter__(self) -> Socket:
        """Close at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Show where it is bound, and how."""
        state = self._core._why_dead or ("zero-copy" if self.zero_copy else "copy mode")
        return f"<Socket {self.interface} queue {self.queue}, {state}>"

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def rx(self) -> OwnedRX:
        """The RX ring. ToolkitError on a socket made with rx=False."""
        if self._core.rx is None:
            raise ToolkitError(f"the socket on {self._core.where} has no RX ring. Next step: make it with rx=True.")
        return self._core.rx

    @property
    def tx(self) -> OwnedTX:
        """The TX ring. ToolkitError on a socket made with tx=False."""
        if self._core.tx is None:
            raise ToolkitError(f"the socket on {self._core.where} has no TX ring. Next step: make it with tx=True.")
        return self._core.tx

    @property
    def zero_copy(self) -> bool:
        """Whether the driver reads and writes the UMEM itself, as the kernel reports (XDP_OPTIONS)."""
        return self._core.zero_copy

    @property
    def sg(self) -> bool:
        """Whether a packet may come as several descriptors (XDP_USE_SG)."""
        return bool(self._core.options.sg)

    @property
    def need_wakeup(self) -> bool:
        """Whether the kernel asks for system calls when it needs them (XDP_USE_NEED_WAKEUP)."""
        return bool(self._core.options.need_wakeup)

    @property
    def closed(self) -> bool:
        """Whether close() has begun, or this process is a fork of the owner."""
        return self._core.closed

    def fileno(self) -> int:
        """Return the descriptor, for select, poll and epoll: readable when packets wait. Closed with the Socket."""
        self._core.check_open()
        return self._core.fd

    def statistics(self) -> Statistics:
        """Return the kernel's six counters of this socket, since it was made (XDP_STATISTICS)."""
        self._core.check_open()
        try:
            return Statistics(*parse_statistics(self._core.sock.getsockopt(SOL_XDP, XDP_STATISTICS, 48)))
        except OSError as refused:
            self._core.check_open()
            raise kernel_error(
                "statistics", refused.errno or 0, f"cannot read the statistics of {self._core.where}"
            ) from None

    def update_xskmap(self, map_fd: int) -> None:
        """Enter this socket in an XSKMAP under its queue (xsk_socket__update_xskmap). Program.register() calls it."""
        self._core.check_open()
        number = libxdp().xsk_socket__update_xskmap(self._core.pointer, map_fd)
        if number:
            raise kernel_error(
                "xskmap",
                number,
                f"cannot enter the socket on {self._core.where} in the XSKMAP",
                cause=f"the map has no slot {self.queue}" if abs(number) == errno.E2BIG else "",
                remedy='build the program with map_entries={"xsks_map": …}' if abs(number) == errno.E2BIG else "",
            )

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have close() call `callback` first, to remove this socket's entry from an XSKMAP."""
        self._core.check_open()
        self._core.on_close(callback)

    @property
    def feed(self) -> Feed:
        """The device and program that bring packets to this socket; Program.register() sets the program."""
        return self._core.feed

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """Return the packets that wait, at most `limit`, as a Batch that borrows their frames until the next receive().

        timeout: seconds to wait for the first packet; None waits without limit, 0 not at all. After it the Batch is
        empty (and falsy). limit: packets, by default a quarter of rx_limit.
        Raises what wait() does; FrameError when the RX ring names frames that the kernel does not own.
        """
        batch = self.poll_once(limit)
        if not batch and timeout != 0 and self.wait(timeout):
            batch = self.poll_once(limit)
        return batch

    def poll_once(self, limit: int | None = None) -> Batch:
        """Do receive(timeout=0): poll the RX ring once."""
        return self._receiver.poll_once(limit)

    def taking(self, limit: int | None = None) -> contextlib.AbstractContextManager[npt.NDArray[np.uint64]]:
        """Take up to `limit` descriptors for a `with` block: shape (n, 2), u64. The block frees or sends every frame.

        When the block raises, the frames that it has not sent or freed are freed. For Forwarder and the like.
        """
        return self._receiver.taking(limit)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until packets wait (True) or `timeout` seconds passed (False).

        DeviceGoneError when the device vanished, DetachedError when the registered Program was taken off; both only
        when no packet is left in the ring. ClosedError when another thread calls close().
        """
        return self._receiver.wait(timeout)

    def take_back(self) -> None:
        """Take back the frames of the last Batch: it is stale from here on."""
        self._receiver.take_back()

    @property
    def rx_limit(self) -> int:
        """Most frames that the kernel may have for receiving: the others are for Batches and for sending."""
        return self._receiver.limit

    @rx_limit.setter
    def rx_limit(self, frames: int) -> None:
        frames = whole("rx_limit", frames, 1)
        self._receiver.limit = frames

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(self, packets: Any, lengths: npt.ArrayLike | None = None, timeout: float | None = None) -> int:
        """Send packets; return how many were accepted, counted from the first: all of them, unless the time ran out.

        packets: a list of bytes-like objects; an array, shape (n, width), u8, with `lengths`, shape (n,), the bytes of
        each row to send; or a Batch. They are copied into free frames: the arguments can be reused at once.
        timeout: seconds to wait for room in the TX ring and for free frames; None waits without limit.

        Accepted packets are in the TX ring and the kernel was kicked; flush() waits until they are sent. ArgumentError
        for packets shorter than 14 bytes or longer than a frame: then none was sent. FrameError when no frame was free
        for 5 s. SystemCallError (ENETDOWN, ENXIO) when the interface is down or gone: packets in the ring stay there,
        and are sent with the next send() or flush() once it is up again.
        """
        return self._sender.send(packets, lengths, timeout)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the kernel has sent everything and returned the frames (True), or `timeout` seconds passed."""
        return self._sender.flush(timeout)

    def reply(self, answer: Callable[[memoryview], bool], limit: int = 2, polls: int | None = None) -> tuple[int, int]:
        """Take up to `limit` packets one at a time; `answer` changes each in place and returns whether to send it back.

        Returns (taken, sent back). The short path for ping-pong, without NumPy's fixed costs. polls: how often to poll
        the RX ring, by default `limit` times; a larger number spins. Raises what wait() does.
        """
        if self.sg:
            raise ArgumentError(
                f"{self!r} receives packets of several frames, and reply() would pass each frame to `answer` alone. "
                "Next step: make the Socket with sg=False (longer packets are then dropped, and counted)."
            )
        return self._replier.reply(answer, limit, limit if polls is None else polls)

    def replied(self) -> tuple[int, int]:
        """Return (packets that reply() took so far, those that it sent back), also where it raised."""
        return self._replier.taken, self._replier.sent

    def reclaim(self) -> int:
        """Put frames that were sent on the free stack again, and return how many. send() and flush() do it as well."""
        return self._sender.reclaim()

    def pass_on(
        self, descs: npt.NDArray[np.uint64], timeout: float, *, distinct: bool = False
    ) -> npt.NDArray[np.uint64]:
        """Put received frames of this UMEM into the TX ring; return the descriptors that found no room: still yours.

        descs: shape (n, 2), u64, like the result. timeout: seconds to wait for room. distinct: the caller knows that no
        frame is named twice; otherwise that is checked. For Forwarder and the like.
        FrameError, and nothing is sent, if a frame is not the caller's, a frame is named twice, or a descriptor reaches
        beyond its frame.
        """
        return self._sender.pass_on(descs, timeout, distinct=distinct)

    @functools.cached_property
    def _receiver(self) -> Receiver:
        return Receiver(self._core, self.umem, self.rx, self.fill, self.queue)

    @functools.cached_property
    def _sender(self) -> Sender:
        return Sender(self._core, self.tx)

    @functools.cached_property
    def _replier(self) -> Replier:
        return Replier(self.umem, self.rx, self.tx, self._receiver, self._sender)

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the XSKMAP, free the queue and all frames. Waits for a thread inside receive() or send().

        Repeatable.
        """
        self._core.close()
        self._finalizer.detach()
        if self._core.rx is not None:
            self._receiver.forget_batch()
        if self._own_umem:
            self.umem.close()


def _check_device(device: Device, queue: int) -> None:
    check_ethernet(device)
    if not device.up:
        raise kernel_error(
            "bind",
            errno.ENETDOWN,
            f"cannot bind to queue {queue} of {device.name}",
            interface=device.name,
        )
    check_queue(device, queue)
