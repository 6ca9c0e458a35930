# SPDX-License-Identifier: Apache-2.0
"""The producer side of a ring, shared by TXQueue and FillQueue: we produce, the kernel consumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import index as index_of  # NumPy's integers would overflow where a Python int wraps at 2**32

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.abi.if_xdp import XDP_RING_NEED_WAKEUP
from toolkit.errors import RING_LIES, ArgumentError, FrameError
from toolkit.rings.atomics import fence
from toolkit.rings.descriptor_check import Limits
from toolkit.rings.memory import U32, RingMemory
from toolkit.rings.owners import Addresses, Owners

__all__ = ["Producer"]


class Producer(ABC):
    """A ring that the kernel empties. Not thread-safe: one thread produces.

    Semantics: gVisor's pkg/xdp (reserve all or nothing, set, notify), with libxdp's submit.
    """

    def __init__(
        self,
        memory: RingMemory,
        owners: Owners | None = None,
        wake: Callable[[], bool] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Produce into the ring in `memory`; report to `owners` every frame that changes owner.

        wake: makes the system call after which the kernel polls the ring; False when the kernel was busy.
        limits: the check of descriptors, on a TX ring: the kernel drops bad ones, and never returns their frames.
        """
        self._memory = memory
        self._owners = owners
        self._limits = limits
        self._wake = wake
        self.size: int = memory.size  # entries; a power of 2
        # Always size - 1: lets the free-running indices wrap around the ring.
        self.mask: int = memory.size - 1
        # The next entry to reserve: ahead of the shared producer index by the entries that were reserved and not
        # published. Only the calls that publish write the shared one.
        self._cached_producer: int = memory.producer[0]
        # The shared consumer index as last read, plus size, so that cached_consumer - cached_producer is the number of
        # free entries (libxdp does the same). Only the kernel writes the shared one.
        self._cached_consumer: int = (memory.consumer[0] + memory.size) & U32

    def __repr__(self) -> str:
        """Show the ring's size and fill."""
        if self._memory.closed:
            return f"<{type(self).__name__} closed>"
        return f"<{type(self).__name__} size={self.size} free={self.free(self.size)} unpublished={self.unpublished}>"

    @property
    def next_index(self) -> int:
        """Index of the next entry to reserve: the number of entries ever reserved, modulo 2**32."""
        return self._cached_producer

    @property
    def unpublished(self) -> int:
        """Entries that were reserved and not yet published."""
        return (self._cached_producer - self._memory.load(self._memory.producer)) & U32

    @property
    def outstanding(self) -> int:
        """Entries that were published and that the kernel has not consumed yet."""
        return (self._memory.load(self._memory.producer) - self._memory.load(self._memory.consumer)) & U32

    def free(self, wanted: int = 1) -> int:
        """Return how many entries are free. Reads the shared index only when fewer than `wanted` are known to be.

        FrameError when the shared index cannot be right.
        """
        entries = (self._cached_consumer - self._cached_producer) & U32
        if entries < wanted:
            consumer = self._memory.load(self._memory.consumer)
            entries = (consumer + self.size - self._cached_producer) & U32
            if entries > self.size:
                raise FrameError(
                    f"the consumer index of this ring ({consumer}) has passed what was put into it "
                    f"({self._cached_producer}), or is more than its {self.size} entries behind. {RING_LIES}"
                )
            self._cached_consumer = (consumer + self.size) & U32
        elif self._memory.entries is None:  # `closed`, without the cost of a property
            raise self._memory.closed_error()
        return entries

    def reserve(self, n: int) -> tuple[int, int]:
        """Reserve `n` entries, all or none: (n, index of the first) or (0, 0)."""
        n = index_of(n)
        if n < 0:
            raise cannot_be("n", n, "a number of entries from 0 on")
        if self.free(n) < n:
            return 0, 0
        index = self._cached_producer
        self._cached_producer = (index + n) & U32
        return n, index

    def unreserve(self, n: int) -> None:
        """Give back the last `n` entries that were reserved and not published."""
        n = index_of(n)
        if not 0 <= n <= self.unpublished:
            raise ArgumentError(
                f"cannot give back {n} entries: {self.unpublished} are reserved and not published. Next step: give "
                "back these at most."
            )
        self._cached_producer = (self._cached_producer - n) & U32

    def resync(self) -> None:
        """Drop unpublished reservations; no frame changes owner. For recovery after an interrupt."""
        self._cached_producer = self._memory.load(self._memory.producer)

    def submit(self, n: int) -> None:
        """Publish the first `n` reserved entries: the kernel owns their frames from here on (libxdp's submit)."""
        n = index_of(n)
        index = self._memory.load(self._memory.producer)
        reserved = (self._cached_producer - index) & U32
        if not 0 <= n <= reserved:
            raise ArgumentError(
                f"cannot submit {n} entries: {reserved} are reserved and not published. Next step: reserve them first."
            )
        if n and self._owners is not None:
            if n == 1:
                self._give_one(self._owners, index)
            else:
                entries = self._memory.read(index, n)
                if self._limits is not None:
                    self._limits.check(entries)
                self._owners.given(self._addresses_of(entries))
        self._memory.store(self._memory.producer, index + n)

    def put(self, entries: npt.NDArray[np.uint64], *, distinct: bool = False, noted: bool = False) -> int:
        """Reserve, write and publish in one call as many of `entries` as fit; return how many. For batch code.

        entries: shape (n,) or (n, 2), u64. distinct: the caller knows that no frame is named twice, as in a batch from
        one ring; otherwise that is checked. noted: the frames are the kernel's already by `owners`, and were checked.
        Does not wake the kernel.
        """
        n = min(self.free(len(entries)), len(entries))
        if n < len(entries):
            entries = entries[:n]
        if n:
            index = self._cached_producer
            if self.unpublished:
                raise ArgumentError(
                    f"cannot put(): {self.unpublished} entries are reserved and not published. Next step: notify() or "
                    "unreserve() them first."
                )
            if self._limits is not None and not noted:
                self._limits.check(entries)
            self._memory.write(index, entries)
            if self._owners is not None and not noted:
                self._owners.given(self._addresses_of(entries), distinct=distinct)
            self._cached_producer = (index + n) & U32
            self._memory.store(self._memory.producer, index + n)
        return n

    def notify(self) -> None:
        """Publish everything that was reserved, and wake the kernel if it asks for that."""
        self.submit(self.unpublished)
        if self.needs_wakeup:
            self.wake()

    @property
    def needs_wakeup(self) -> bool:
        """Whether the kernel needs a system call before it polls this ring again (XDP_RING_NEED_WAKEUP)."""
        fence()  # the flag must be read after the producer index is visible to the kernel
        return bool(self._memory.load(self._memory.flags) & XDP_RING_NEED_WAKEUP)

    def forget_wake(self) -> None:
        """Drop the wake-up call: it refers to the socket that owns this ring, and the socket is closing."""
        self._wake = None

    def wake(self) -> bool:
        """Make the system call after which the kernel polls this ring. False when it was busy: call again."""
        if self._memory.closed:
            raise self._memory.closed_error()
        return self._wake() if self._wake is not None else True

    @abstractmethod
    def _addresses_of(self, entries: npt.NDArray[np.uint64]) -> Addresses:
        """Return the frame addresses in entries that read() copied: shape (n,), u64."""

    @abstractmethod
    def _give_one(self, owners: Owners, index: int) -> None:
        """Record that one entry is about to be published: its frame becomes the kernel's."""
