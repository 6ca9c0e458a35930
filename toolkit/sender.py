# SPDX-License-Identifier: Apache-2.0
"""Sender: the sending side of a Socket. Free stack → frame → TX ring → kick → completion ring → free stack."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.abi.if_xdp import XDPDesc
from toolkit.errors import ArgumentError, ToolkitError
from toolkit.packets import as_matrix
from toolkit.rings import TXQueue
from toolkit.rings.custody import Addresses
from toolkit.xsk_core import Core

__all__ = ["Sender"]

_SHORTEST = 14  # bytes: an Ethernet header; the kernel refuses less
_CHUNK = 1024  # packets written and published at a time: the cache holds them, and sent frames come back meanwhile
_PATIENCE = (20e-6, 1e-3)  # seconds to sleep, at first and at most, while the kernel is busy


class Sender:
    """Sends on one Socket. Not thread-safe: one thread sends, whichever it is."""

    def __init__(self, core: Core, tx: TXQueue) -> None:
        self._core = core
        self._tx = tx
        self._unfinished = False  # set while frames change hands: an interrupt leaves it set

    def send(
        self, packets: Any, lengths: npt.ArrayLike | None = None, timeout: float | None = None, *, kick: bool = True
    ) -> int:
        """Copy packets into frames and put them into the TX ring; returns how many of them, from the first on.

        See Socket.send() for the forms of `packets`. timeout: seconds to wait for room when the ring is full or no
        frame is free; None waits as long as it takes, 0 not at all.
        """
        matrix, sizes = as_matrix(packets, lengths)
        self._check(sizes)
        with self._sending():
            deadline = None if timeout is None else time.monotonic() + timeout
            done, pause = 0, _PATIENCE[0]
            while done < len(matrix):
                accepted = self._put(matrix[done : done + _CHUNK], sizes[done : done + _CHUNK])
                done += accepted
                if kick:
                    self._kick()
                if accepted:
                    pause = _PATIENCE[0]
                    continue
                if deadline is not None and time.monotonic() >= deadline:
                    break
                time.sleep(pause)
                pause = min(2 * pause, _PATIENCE[1])
        return done

    def flush(self, timeout: float | None = None) -> bool:
        """Kick until the kernel has sent everything and returned every frame (True), or `timeout` seconds passed."""
        with self._sending():
            deadline = None if timeout is None else time.monotonic() + timeout
            pause = _PATIENCE[0]
            while True:
                if self._tx.outstanding:
                    self._kick()
                if not self.reclaim() and not self._core.send_custody.sending_frames:
                    return True
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, _PATIENCE[1])

    def pass_on(self, descs: npt.NDArray[np.uint64], patience: float) -> npt.NDArray[np.uint64]:
        """Put frames that the caller holds into the TX ring and kick; returns those that found no room in time."""
        with self._sending():
            if self._unfinished:
                self._recover()
            self._unfinished = True
            deadline = 0.0
            while True:
                descs = descs[self._hand_over(descs) :]
                self._kick()
                if not len(descs):
                    break
                now = time.monotonic()
                deadline = deadline or now + patience
                if now >= deadline:
                    break
                self.reclaim()  # a completion ring that nobody drains would stop the kernel
            self._unfinished = False
        return descs

    def pass_on_one(self, desc: XDPDesc) -> bool:
        """Put one frame that the caller holds into the TX ring, without a kick. False: there is no room."""
        tx = self._tx
        if self._unfinished:
            self._recover()
        self._unfinished = True
        reserved, index = tx.reserve(1)
        if reserved:
            custody = self._core.send_custody
            custody.pending = (index, (desc.addr,))
            tx.set(index, desc)
            tx.submit(1)
            custody.sent()
        self._unfinished = False
        return reserved == 1

    def _hand_over(self, descs: npt.NDArray[np.uint64]) -> int:
        self._core.send_custody.pending = (self._tx.next_index, descs[:, 0])
        accepted = self._tx.put(descs, distinct=True)
        self._core.send_custody.sent()
        return accepted

    def reclaim(self) -> int:
        """Put frames that were sent on the free stack again; how many."""
        return self._core.completion.free_all(self._core.umem)

    def kick(self) -> bool:
        """Have the kernel look at the TX ring, where it asks for that. False: it was busy, or has more to do."""
        with self._sending():
            return self._kick()

    def _kick(self) -> bool:
        tx = self._tx
        if self._core.options.need_wakeup and not tx.needs_wakeup:
            return True
        return tx.wake()

    def _put(self, matrix: npt.NDArray[np.uint8], sizes: npt.NDArray[np.uint32]) -> int:
        """Write and publish as many packets as there is room for now."""
        if self._unfinished:
            self._recover()
        self._unfinished = True
        core, tx = self._core, self._tx
        wanted = len(matrix)
        # Sent frames come back first: on a busy socket the next packets go into the warmest frames.
        self.reclaim()
        n = min(wanted, tx.free(wanted), core.umem.ledger.count_free())
        if n:
            addresses = core.send_custody.prepare(n, tx.next_index)
            self._write(addresses, matrix[:n])
            descs = np.empty((n, 2), dtype=np.uint64)
            descs[:, 0] = addresses
            descs[:, 1] = sizes[:n]
            tx.put(descs, distinct=True)
            core.send_custody.sent()
        self._unfinished = False
        return n

    def _write(self, addresses: Addresses, matrix: npt.NDArray[np.uint8]) -> None:
        """Copy rows of bytes to frames: one memmove a packet, none of it in Python."""
        umem, width = self._core.umem, matrix.shape[1]
        memory = umem.memory
        if memory is None:
            self._core.check_open()
            raise ToolkitError("the UMEM is closed")
        frames: npt.NDArray[np.void] = np.ndarray(
            (umem.frames,), dtype=f"V{width}", buffer=memory.data, strides=(umem.frame_size,)
        )
        frames[umem.ledger.numbers(addresses)] = np.ascontiguousarray(matrix).view(f"V{width}").reshape(-1)

    def _check(self, sizes: npt.NDArray[np.uint32]) -> None:
        if not len(sizes):
            return
        longest, shortest = int(sizes.max()), int(sizes.min())
        if longest > self._core.umem.frame_size:
            raise ArgumentError(
                f"a packet of {longest} bytes does not fit a frame of {self._core.umem.frame_size}. Nothing was sent. "
                "Next step: send shorter packets, or make the UMEM with frame_size=4096."
            )
        if shortest < _SHORTEST:
            raise ArgumentError(
                f"a packet of {shortest} bytes has no whole Ethernet header ({_SHORTEST} bytes), and the kernel would "
                f"refuse it. Nothing was sent. It is number {int(sizes.argmin())}."
            )

    def _sending(self) -> threading.Lock:
        """Return the lock that the sending thread holds; an error when another holds it, or the Socket is closed."""
        guard = self._core.tx_guard
        self._core.check_open()
        if guard.locked():
            raise ToolkitError(
                f"two threads send on {self._core.where} at once (or a signal handler interrupted send()). A ring has "
                "one producer. Next step: send from one thread, or give each thread a queue of its own."
            )
        return guard

    def _recover(self) -> None:
        """Put every frame back in its place after a send() that an exception (KeyboardInterrupt) cut short."""
        completion, tx = self._core.completion, self._tx
        completion.resync()
        waiting = completion.available(completion.size)
        tx.resync()
        self._core.send_custody.recover(tx.next_index, completion.addresses(completion.next_index, waiting))
