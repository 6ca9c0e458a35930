# SPDX-License-Identifier: Apache-2.0
"""The producer side of a ring, shared by TXQueue and FillQueue: we produce, the kernel consumes."""

from __future__ import annotations

from collections.abc import Callable
from operator import index as index_of  # NumPy's integers would overflow where a Python int wraps at 2**32

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.abi.if_xdp import XDP_RING_NEED_WAKEUP
from toolkit.errors import RING_LIES, ArgumentError, FrameError
from toolkit.rings.atomics import fence
from toolkit.rings.memory import U32, RingMemory

__all__ = ["Producer"]


class Producer:
    """A ring that the kernel empties. Not thread-safe: one thread produces.

    Semantics: gVisor's pkg/xdp (reserve all or nothing, set, notify), with libxdp's submit, and put() for arrays.
    """

    def __init__(self, memory: RingMemory, wake: Callable[[], bool] | None = None) -> None:
        """Produce into the ring in `memory`.

        wake: makes the system call after which the kernel polls the ring; False when the kernel was busy.
        """
        self._memory = memory
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
        self._cached_producer = (self._cached_producer - self._reserved(n, "give back")) & U32

    def submit(self, n: int) -> None:
        """Publish the first `n` reserved entries: the kernel owns their frames from here on (libxdp's submit)."""
        n = self._reserved(n, "submit")
        self._memory.store(self._memory.producer, self._memory.load(self._memory.producer) + n)

    def put(self, entries: npt.NDArray[np.uint64]) -> int:
        """Reserve, write and publish in one call as many of `entries` as fit; return how many. For batch code.

        entries: shape (n,) or (n, 2), u64. Does not wake the kernel.
        """
        entries, index = self._fitting(entries)
        n = len(entries)
        if n:
            self._memory.write(index, entries)
            self._publish(index, n)
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

    def wake(self) -> bool:
        """Make the system call after which the kernel polls this ring. False when it was busy: call again."""
        if self._memory.closed:
            raise self._memory.closed_error()
        return self._wake() if self._wake is not None else True

    def forget_wake(self) -> None:
        """Drop the wake-up call: it refers to the socket that owns this ring, and the socket is closing."""
        self._wake = None

    def resync(self) -> None:
        """Drop the reservations that were not published."""
        self._cached_producer = self._memory.load(self._memory.producer)

    def _fitting(self, entries: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], int]:
        """Return those of `entries` that fit, and the index of the first."""
        free = self.free(len(entries))
        if self.unpublished:
            if not min(free, len(entries)):
                return entries[:0], self._cached_producer
            raise self.reserved_before("put")
        return entries[:free] if free < len(entries) else entries, self._cached_producer

    def reserved_before(self, tried: str) -> ArgumentError:
        """Build the error for a call that needs all entries to be published."""
        return ArgumentError(
            f"cannot {tried}(): {self.unpublished} entries are reserved and not published. Next step: notify() or "
            "unreserve() them first."
        )

    def _publish(self, index: int, n: int) -> None:
        """Publish `n` entries that were written from `index` on, the next one to reserve."""
        self._cached_producer = index = (index + n) & U32
        self._memory.store(self._memory.producer, index)

    def _reserved(self, n: int, tried: str) -> int:
        """Return `n`, a number of entries that are reserved and not published; else ArgumentError."""
        n, unpublished = index_of(n), self.unpublished
        if not 0 <= n <= unpublished:
            raise ArgumentError(
                f"cannot {tried} {n} entries: {unpublished} are reserved and not published. "
                f"Next step: {tried} these at most."
            )
        return n
