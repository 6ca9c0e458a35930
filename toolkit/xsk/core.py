# SPDX-License-Identifier: Apache-2.0
"""Core: what a Socket owns in libxdp and the kernel, and the order in which it is taken down.

It has no reference to the Socket, so that a Socket that is garbage-collected without close() is taken down as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import socket as stdlib_socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Protocol

from toolkit._base import fork
from toolkit._base.closing import CLOSED, Closable
from toolkit.abi.if_xdp import (
    AF_XDP,
    SOL_XDP,
    XDP_MAX_TX_SKB_BUDGET,
    XDP_MMAP_OFFSETS,
    XDP_OPTIONS,
    XDP_OPTIONS_ZEROCOPY,
    MmapOffsets,
    parse_mmap_offsets,
)
from toolkit.abi.libc import munmap
from toolkit.abi.libxdp import XskRing, libxdp
from toolkit.errors import FrameError, kernel_error
from toolkit.net.device import describe
from toolkit.rings import RingMemory
from toolkit.rings.memory import ADDRESS_BYTES, DESC_BYTES
from toolkit.umem.descriptor_check import rx_limits, tx_limits
from toolkit.umem.receiving import OwnedFill, OwnedRX, ReceiveAccount
from toolkit.umem.sending import OwnedCompletion, OwnedTX, SendAccount
from toolkit.umem.umem import UMEM
from toolkit.wait.feed import Feed
from toolkit.wait.waiter import DeviceSocket, Waiter
from toolkit.xsk.bind import EBUSY_TIMEOUT, bind, not_bound
from toolkit.xsk.options import SocketOptions
from toolkit.xsk.registration import Registration, ways
from toolkit.xsk.wakeup import Wakeup

__all__ = ["Core"]


_DRAIN_TIMEOUT = 0.1  # seconds that close() waits for frames that are being sent


class Borrowed(Protocol):
    """A Batch, as far as Core needs it."""

    def invalidate(self) -> None:
        """Make the Batch stale."""


class Core(Closable):
    """The kernel's socket, libxdp's handle, the memory of the four rings, and the Socket's accounts in the ledger.

    One thread receives (rx_guard), one sends (tx_guard); close() may come from any thread and waits for both.
    """

    _fork_order = 0

    def __init__(
        self, interface: str, queue: int, umem: UMEM, options: SocketOptions, prefill: int, feed: Feed
    ) -> None:
        """Create and bind, in the calling thread's network namespace.

        prefill: frames to post: before bind on the first socket of a UMEM, right after it on the others (libxdp maps
        their fill rings only then).
        """
        self.where = f"queue {queue} of {interface}"
        self.queue = queue
        self.umem = umem
        self.options = options
        self.feed = feed
        self._memories: list[RingMemory] = []
        self._on_close: list[Callable[[], None]] = []
        self.rx_guard = threading.Lock()  # held by the thread that is inside receive() or wait()
        self.tx_guard = threading.Lock()  # held by the thread that is inside send()
        super().__init__(f"the socket on {self.where}", self.rx_guard, self.tx_guard)
        self.batch: Borrowed | None = None  # the Batch that borrows frames; written by the receiving thread
        self.fd = -1
        self.pointer = ctypes.c_void_p()
        with self._serialised():
            self.holder = umem.new_holder()
            self.receive_account = ReceiveAccount(umem.ledger, self.holder)
            self.send_account = SendAccount(umem.ledger, self.holder)
            try:
                self._open(interface, queue, prefill)
            except BaseException:
                self._undo_open()
                raise
        fork.track(self)

    def _open(self, interface: str, queue: int, prefill: int) -> None:
        self._check_not_held_here(queue)  # of two on one UMEM, libxdp says EINVAL, or nothing at all
        left = ways(self.umem, self.options, describe(interface))
        while number := self._bind(interface, queue, left.pop(0), prefill):
            if number == errno.EBUSY or not left:
                raise not_bound(number, self.where, interface)
            self._forget_registration()
        self.fd = libxdp().xsk_socket__fd(self.pointer)
        os.set_inheritable(self.fd, False)
        self._registration.join(self)
        self.sock = DeviceSocket(AF_XDP, stdlib_socket.SOCK_RAW, 0, fileno=self.fd)
        self.sock.feed = self.feed
        # Made together with the socket: if receive() made it, a close() before that would wake nobody, and an interrupt
        # could leak its descriptor.
        self.waiter = Waiter([self.sock], self.where)
        self._offsets = parse_mmap_offsets(self.sock.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, 128))
        self.zero_copy = bool(self._option(XDP_OPTIONS) & XDP_OPTIONS_ZEROCOPY)
        if self.options.zero_copy and not self.zero_copy:
            raise kernel_error("bind", errno.EOPNOTSUPP, f"cannot bind zero-copy to {self.where}")
        self._registration.zero_copy = self.zero_copy
        busy_polled = self.options.wait == "busy-poll"
        self._wakeup = Wakeup(self.sock, interface, queue, self.feed, zero_copy=self.zero_copy, busy_polled=busy_polled)
        if not self._first:
            if not self._structs[2].ring:  # libxdp made it share the rings of another socket on the same queue
                raise not_bound(errno.EBUSY, self.where, interface)
            self._map_fill_and_completion()
            self.fill.fill_all(self.umem, prefill)
        self._map_rx_and_tx()
        self.waiter.configure(self.options.wait, [] if self.rx is None else [self.rx])
        if self.options.tx:
            # Without it one sendto() sends at most 32 packets in copy mode. Older kernels do not have it.
            with contextlib.suppress(OSError):
                self.sock.setsockopt(SOL_XDP, XDP_MAX_TX_SKB_BUDGET, max(self.options.tx_size, 32))
        self._registration.opening -= 1

    def _bind(self, interface: str, queue: int, options: SocketOptions, prefill: int) -> int:
        """Try one way to bind; return errno or 0."""
        self.options = options
        self._structs = [XskRing() for _ in range(4)]  # rx, tx, fill, comp: libxdp keeps their addresses
        registration = self._registration = Registration.of(self.umem, options)
        registration.opening += 1
        self._first = registration.first
        if self._first:
            self._structs[2], self._structs[3] = registration.fill, registration.comp
            self._map_fill_and_completion()
            self.fill.fill_all(self.umem, prefill)
        # A Socket that was garbage-collected may still hold the queue: take it down when the kernel says EBUSY.
        return bind(
            self.pointer,
            interface,
            queue,
            registration.pointer,
            self._structs,
            options,
            on_busy=self._finalize_unreachable,
        )

    def _check_not_held_here(self, queue: int) -> None:
        """Raise EBUSY where an open Socket of this process is on the same queue. One that nobody holds is none."""
        for one in fork.tracked(Core):
            if one.queue == queue and not one.closed and one.feed.location == self.feed.location:
                raise kernel_error(
                    "bind",
                    errno.EBUSY,
                    f"cannot bind to {self.where}",
                    cause="another AF_XDP socket of this process holds this queue",
                    remedy="close() the Socket or Interface that has it, or take another queue",
                )

    def _map_fill_and_completion(self) -> None:
        fill = RingMemory.from_libxdp(self._structs[2], ADDRESS_BYTES)
        comp = RingMemory.from_libxdp(self._structs[3], ADDRESS_BYTES)
        self._memories += [fill, comp]
        self.fill = OwnedFill(fill, self.receive_account, self._wake_receiving, headroom=self.umem.headroom)
        self.completion = OwnedCompletion(comp, self.send_account)

    def _map_rx_and_tx(self) -> None:
        self.rx: OwnedRX | None = None
        self.tx: OwnedTX | None = None
        if self.options.rx:
            memory = RingMemory.from_libxdp(self._structs[0], DESC_BYTES)
            self._memories.append(memory)
            limits = rx_limits(self.umem.frame_size, bool(self.options.sg))
            self.rx = OwnedRX(memory, self.receive_account, self.fill.order, limits)
        if self.options.tx:
            memory = RingMemory.from_libxdp(self._structs[1], DESC_BYTES)
            self._memories.append(memory)
            limits = tx_limits(self.umem.frame_size, bool(self.options.sg), self.umem.tx_metadata_len)
            self.tx = OwnedTX(memory, self.send_account, limits, self._wakeup.waking(memory))
            self.umem.senders.add(self.holder)

    def _wake_receiving(self) -> bool:
        return self.fd < 0 or self._wakeup.receiving()  # filled before bind: there is no driver to wake yet

    def _undo_open(self) -> None:
        self._why_dead = CLOSED
        for memory in self._memories:
            memory.close()
        if hasattr(self, "sock"):
            self.sock.detach()  # libxdp closes the descriptor; its number may be reused
        self._forget_registration()
        self._close_accounts()
        self._close_waiter()

    def _option(self, option: int) -> int:
        return int.from_bytes(self.sock.getsockopt(SOL_XDP, option, 4), "little")

    # --- the end ----------------------------------------------------------------------------------------------------

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have close() call `callback` first: the XSKMAP entry must be removed before the socket is."""
        self._on_close.append(callback)

    check_open = Closable._check_open  # for the Receiver and the Sender

    def _wake(self) -> None:
        self.waiter.wake()

    def _take_down(self) -> None:
        with self._serialised():
            self._release()

    @contextlib.contextmanager
    def _serialised(self) -> Iterator[None]:
        """Hold the UMEM's registration lock; take down what finalizers left, before and after."""
        with self.umem.registration_lock:
            self._finalize_unreachable()
            try:
                yield
            finally:
                self._finalize_unreachable()

    def _finalize_unreachable(self) -> None:
        """Take down Sockets that were garbage-collected while the registration lock was held. The caller holds it."""
        while self.umem.unreachable:
            core: Core = self.umem.unreachable.popleft()
            if not core._down:
                core._finalize()

    def _release(self, *, finalizing: bool = False) -> None:
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            try:
                callback()
            except Exception as failure:  # the user's code: the socket is closed all the same
                warnings.warn(f"{callback!r} failed while the socket on {self.where} closed: {failure!r}", stacklevel=2)
        if self.batch is not None:
            self.batch.invalidate()
            self.batch = None
        all_sent = not self.send_account.sending_frames if finalizing else self._drain()
        for memory in self._memories:
            memory.close()
        for ring in (self.fill, self.tx):
            if ring is not None:
                ring.forget_wake()
        self.sock.detach()
        self._leave_libxdp()
        # A zero-copy driver may write to the frames until the kernel has stopped it, about 26 ms after the socket.
        self._close_accounts(linger=EBUSY_TIMEOUT if self.zero_copy else 0.0, retire=not all_sent)
        self._close_waiter()

    def _close_accounts(self, *, linger: float = 0.0, retire: bool = False) -> None:
        self.receive_account.close(linger=linger)
        self.send_account.close(retire=retire)
        self.umem.rx_limits.pop(self.holder, None)
        self.umem.senders.discard(self.holder)

    def _close_waiter(self) -> None:
        waiter: Waiter | None = getattr(self, "waiter", None)
        if waiter is not None:
            waiter.close()

    def finalize(self) -> None:
        """Take down a Socket that was garbage-collected. Never waits for a lock: the collector may run in its holder.

        While the lock is held, the Socket is left to the next call that holds it.
        """
        if self.closed:
            return
        if not self.umem.registration_lock.acquire(blocking=False):
            self.umem.unreachable.append(self)
            return
        try:
            self._finalize()
        finally:
            self.umem.registration_lock.release()

    def _finalize(self) -> None:
        self._why_dead = CLOSED
        self._release(finalizing=True)
        self._down = True

    def _drain(self) -> bool:
        """Collect frames that are being sent. False when the kernel did not return them all within 0.1 s."""
        if self.tx is None:
            return True
        deadline = time.monotonic() + _DRAIN_TIMEOUT
        while True:
            with contextlib.suppress(OSError):
                if self.tx.outstanding:
                    self.tx.wake()
            try:
                self.completion.free_all(self.umem)
            except FrameError:  # the ring names other frames than were sent: its entries cannot be trusted
                return False
            if not self.send_account.sending_frames:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)

    def _leave_libxdp(self) -> None:
        registration: Registration | None = getattr(self, "_registration", None)
        if registration is None:
            return
        if self.pointer:
            libxdp().xsk_socket__delete(self.pointer)
            self.pointer = ctypes.c_void_p()
            if self in registration.members:
                registration.leave(self)
        self.fd = -1
        if not registration.members and not registration.opening:
            registration.delete()

    def _forget_registration(self) -> None:
        """End what _bind() began."""
        if hasattr(self, "_registration"):
            self._registration.opening -= 1
            self._leave_libxdp()
            del self._registration

    # --- fork -------------------------------------------------------------------------------------------------------

    def _abandon(self) -> None:
        whole = [memory.abandon() for memory in self._memories]
        # Otherwise the child's mappings keep the kernel's socket alive after the parent closed it.
        if all(whole):
            for struct, layout, entry in zip(self._structs, self._layouts(), _ENTRY_BYTES, strict=True):
                _unmap(struct, layout, entry)
        # Not by libxdp, which would also change what the parent still uses.
        for fd in {self.fd, self._registration.fd}:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.sock.detach()
        self._close_waiter()

    def _layouts(self) -> tuple[int, int, int, int]:
        offsets: MmapOffsets = self._offsets
        return offsets.rx.desc, offsets.tx.desc, offsets.fr.desc, offsets.cr.desc


_ENTRY_BYTES = (DESC_BYTES, DESC_BYTES, ADDRESS_BYTES, ADDRESS_BYTES)


def _unmap(struct: XskRing, desc_offset: int, entry_bytes: int) -> None:
    if struct.ring:
        length = desc_offset + struct.size * entry_bytes
        with contextlib.suppress(OSError):  # libc was found when the UMEM was mapped: no lock here
            munmap(struct.ring - desc_offset, -(-length // mmap.PAGESIZE) * mmap.PAGESIZE)
