# SPDX-License-Identifier: Apache-2.0
"""Sender: the sending side of a Socket. Free stack → frame → TX ring → kick → completion ring → free stack."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import seconds
from toolkit.abi.if_xdp import XDPDesc
from toolkit.errors import ArgumentError, FrameError, ToolkitError, closed_error
from toolkit.packets.matrix import as_matrix
from toolkit.rings.frames import Addresses
from toolkit.rings.txqueue import as_descs
from toolkit.umem.ledger import FREE
from toolkit.umem.sending import OwnedTX
from toolkit.wait.waiter import raise_if_gone
from toolkit.xsk.core import Core

__all__ = ["Sender"]

_SHORTEST = 14  # bytes: an Ethernet header; the kernel refuses less
_CHUNK = 1024  # packets written and published at a time: they fit the CPU's cache, and sent frames return meanwhile
_PAUSE = (20e-6, 1e-3)  # seconds to sleep, at first and at most, while the kernel is busy
_GONE_CHECK = 0.1  # seconds between two checks that the device of a waiting sender is still there
_LAST_KICK = 1.0  # seconds that send() goes on kicking a busy kernel when all packets are in the ring
_STARVED = 5.0  # seconds that send() waits for a free frame while none is being sent
_LOCK_TIMEOUT = 0.1  # seconds to wait for the ledger's lock: this finalizer may have interrupted its holder


class _Pauses:
    """The pauses of a sender that waits: each twice as long as the last, until the timeout."""

    def __init__(self, core: Core, timeout: float | None) -> None:
        self._core = core
        self._deadline = None if timeout is None else time.monotonic() + seconds("timeout", timeout)
        self._next_check = 0.0  # monotonic seconds
        self._pause = _PAUSE[0]

    def progress(self) -> None:
        """Start again with short pauses."""
        self._pause = _PAUSE[0]

    def sleep(self) -> bool:
        """Sleep a little; False after the timeout.

        ClosedError or DeviceGoneError when the socket or its device went.
        """
        self._core.check_open()  # close() waits for this thread to notice
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            return False
        if now >= self._next_check:  # where no kick is needed, no kick can report that the device is gone
            self._next_check = now + _GONE_CHECK
            raise_if_gone(self._core.sock, self._core.where)
        left = self._pause if self._deadline is None else min(self._pause, self._deadline - now)
        time.sleep(left)
        self._pause = min(2 * self._pause, _PAUSE[1])
        return True


class Sender:
    """Sends on one Socket. Not thread-safe: one thread at a time sends, any thread."""

    def __init__(self, core: Core, tx: OwnedTX) -> None:
        self._core = core
        self._tx = tx
        self._unfinished = False  # true while frames change owner; only an interrupt leaves it true
        self._starved_since = 0.0  # CLOCK_MONOTONIC seconds; 0 while frames are free or being sent
        self._waits = False  # whether the call in progress waits for a free frame
        core.on_close(self._settle)

    def send(
        self, packets: Any, lengths: npt.ArrayLike | None = None, timeout: float | None = None, *, kick: bool = True
    ) -> int:
        """Copy packets into frames and put them into the TX ring; return how many, counted from the first.

        See Socket.send() for the forms of `packets`. timeout: seconds to wait when the ring is full or no frame is
        free; None waits without limit, 0 not at all. kick: whether to make the system call that has the kernel send.
        FrameError when waiting is of no use: no frame was free and none was being sent for 5 s, or what lacks is in a
        Batch that only this thread could give back.
        """
        matrix, sizes = as_matrix(packets, lengths, longest=self._core.umem.frame_size)
        width = self._check(sizes)
        if matrix.shape[1] > width:
            matrix = matrix[:, :width]  # rows may be wider than the packets, and must not reach into the next frame
        with self.sending():
            pauses = _Pauses(self._core, timeout)
            self._starved_since = 0.0
            self._waits = timeout != 0
            done, kicked = 0, True
            while done < len(matrix):
                self._core.check_open()
                accepted = self._put(matrix[done : done + _CHUNK], sizes[done : done + _CHUNK])
                done += accepted
                kicked = self._kick() if kick else True
                if accepted:
                    pauses.progress()
                elif not pauses.sleep():
                    return done
            if not kicked:
                self._kick_until_taken(timeout)
        return done

    def _kick_until_taken(self, timeout: float | None) -> None:
        """Kick a busy kernel until it has begun to send what is in the ring, for a second at most."""
        pauses = _Pauses(self._core, _LAST_KICK if timeout is None else min(timeout, _LAST_KICK))
        while pauses.sleep() and not self._kick():
            pass

    def flush(self, timeout: float | None = None) -> bool:
        """Kick until the kernel has sent everything and returned every frame (True), or `timeout` seconds passed."""
        with self.sending():
            pauses = _Pauses(self._core, timeout)
            while True:
                self._reclaim()
                if not self._core.send_account.sending_frames:
                    return True
                self._kick()  # also with an empty TX ring: some drivers return sent frames only when they are kicked
                if not self._reclaim() and not pauses.sleep():
                    return False

    def pass_on(
        self, descs: npt.NDArray[np.uint64], timeout: float, *, distinct: bool = False
    ) -> npt.NDArray[np.uint64]:
        """Put frames of the caller into the TX ring and kick; return the descriptors that found no room in time.

        descs: shape (n, 2), u64. timeout: seconds. distinct: the caller knows that no frame is named twice.
        """
        descs = as_descs(descs)
        with self.sending():
            deadline = 0.0
            while True:
                self._begin()
                descs = descs[self._tx.put(descs, distinct=distinct, otherwise=FREE) :]
                self._unfinished = False
                self._kick()
                if not len(descs):
                    break
                now = time.monotonic()
                deadline = deadline or now + timeout
                if now >= deadline:
                    break
                self._core.check_open()
                self._reclaim()  # the kernel stops sending when the completion ring is full
        return descs

    def pass_on_one(self, desc: XDPDesc) -> bool:
        """Put one frame of the caller into the TX ring and kick. False when the ring is full.

        The caller holds the lock that sending() returns.
        """
        core = self._core
        self._begin()
        accepted = self._tx.put_one(desc, otherwise=FREE)
        self._unfinished = False
        # In copy mode the kernel always needs the call: testing NEED_WAKEUP would add half of the call's cost.
        if accepted and (core.zero_copy or not self._tx.wake()):
            self._kick()
        return accepted

    def reclaim(self) -> int:
        """Put frames that were sent on the free stack again; return how many."""
        with self.sending():
            return self._reclaim()

    def _reclaim(self) -> int:
        self._begin()
        freed = self._core.completion.free_all(self._core.umem)
        self._unfinished = False
        return freed

    def kick(self) -> bool:
        """Make the kernel poll the TX ring, if it asks for that. False when it was busy, or has more to send."""
        with self.sending():
            return self._kick()

    def _kick(self) -> bool:
        """Repeat the system call as long as that makes progress: one call may send no more than 32 packets."""
        tx = self._tx
        if self._core.options.need_wakeup and not tx.needs_wakeup:
            return True
        left = tx.outstanding
        while not tx.wake():
            before, left = left, tx.outstanding
            # Reclaim first: a full completion ring stops the kernel too.
            if not self._reclaim() and left == before:
                return False
        return True

    def _put(self, matrix: npt.NDArray[np.uint8], sizes: npt.NDArray[np.uint32]) -> int:
        """Write and publish as many packets as fit now; return how many."""
        core, tx = self._core, self._tx
        # Reclaim first, so that the next packets go into frames that are still in the CPU's cache.
        self._reclaim()
        free = core.umem.ledger.count_free()
        n = min(len(matrix), tx.free(len(matrix)), free)
        if not n:
            self._check_starved(free)
            return 0
        self._begin()
        try:
            tx.put_free(n, lambda addresses: self._write(addresses, matrix[:n], sizes[:n]))
        except FrameError:  # the receiving thread took the free frames meanwhile
            self._unfinished = False
            return 0
        self._unfinished = False
        self._starved_since = 0.0
        return n

    def _write(
        self, addresses: Addresses, matrix: npt.NDArray[np.uint8], sizes: npt.NDArray[np.uint32]
    ) -> npt.NDArray[np.uint64]:
        """Copy rows of bytes to frames, one memmove a packet, inside NumPy; return their descriptors, (n, 2), u64."""
        umem, width = self._core.umem, matrix.shape[1]
        memory = umem.memory
        if memory is None:
            self._core.check_open()
            raise closed_error("the UMEM is closed")
        frames: npt.NDArray[np.void] = np.ndarray(
            (umem.frames,), dtype=f"V{width}", buffer=memory.data, strides=(umem.frame_size,)
        )
        frames[umem.ledger.numbers(addresses)] = np.ascontiguousarray(matrix).view(f"V{width}").reshape(-1)
        descs = np.empty((len(addresses), 2), dtype=np.uint64)
        descs[:, 0] = addresses
        descs[:, 1] = sizes
        return descs

    def _check(self, sizes: npt.NDArray[np.uint32]) -> int:
        """Return the length of the longest packet. ArgumentError for one too short (too long: as_matrix())."""
        if not len(sizes):
            return 0
        longest, shortest = int(sizes.max()), int(sizes.min())
        if shortest < _SHORTEST:
            raise ArgumentError(
                f"packet {int(sizes.argmin())} has {shortest} bytes, less than an Ethernet header ({_SHORTEST}): the "
                "kernel would refuse it. Nothing was sent. Next step: send whole frames, Ethernet header included."
            )
        return longest

    def _check_starved(self, free: int) -> None:
        """Raise FrameError once waiting for a free frame is of no use: see send()."""
        umem = self._core.umem
        if free or not self._waits or self._core.send_account.sending_frames:
            self._starved_since = 0.0
            return
        now = time.monotonic()
        self._starved_since = self._starved_since or now
        owners = umem.audit()
        if owners["received"] and not owners["user"] and umem.receiving_threads <= {threading.get_ident()}:
            raise FrameError(
                f"cannot send on {self._core.where}: no frame of the UMEM is free. {owners['received']:,} are in the "
                f"Batch that you hold, {owners['rx']:,} are posted for receiving. Next step: release() the Batch "
                "(or receive the next one) before you send, or make the UMEM larger."
            )
        if now - self._starved_since > _STARVED:
            raise FrameError(
                f"cannot send on {self._core.where}: for {_STARVED:.0f} s no frame of the UMEM was free, and none is "
                f"being sent. Who owns them: {owners}. Likely cause: all were posted for receiving, or were not given "
                "back. Next step: post fewer (fill_all(umem, n)), or make the UMEM larger."
            )

    def sending(self) -> threading.Lock:
        """Return the lock of the sending thread. ToolkitError when another thread holds it, or the Socket is closed."""
        guard = self._core.tx_guard
        self._core.check_open()
        if guard.locked():
            raise ToolkitError(
                f"two threads send on {self._core.where} at once (or a signal handler interrupted send()). A ring has "
                "one producer. Next step: send from one thread, or give each thread a queue of its own."
            )
        return guard

    def _begin(self) -> None:
        """Record that frames change owner from here on; first recover from an earlier interrupt."""
        if self._unfinished:
            self._recover()
        self._unfinished = True

    def _recover(self) -> None:
        """Put the owners right after a send() that an exception (KeyboardInterrupt) cut short."""
        self._core.completion.resync()
        self._tx.resync()
        self._core.send_account.free_at_hand()

    def _settle(self) -> None:
        """Do _recover() when the Socket closes: else frames that never reached the TX ring count as the kernel's."""
        lock = self._core.umem.ledger.lock
        if self._unfinished and lock.acquire(timeout=_LOCK_TIMEOUT):
            lock.release()
            with contextlib.suppress(FrameError):  # the completion ring is wrong: close() retires the frames
                self._recover()
