# SPDX-License-Identifier: Apache-2.0
"""The consumer side of a ring, shared by RXQueue and CompletionQueue: the kernel produces, we consume."""

from __future__ import annotations

from abc import ABC, abstractmethod
from operator import index as index_of  # NumPy's integers would overflow where a Python int wraps at 2**32

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be, whole
from toolkit.errors import RING_LIES, ArgumentError, FrameError
from toolkit.rings.descriptor_check import Limits
from toolkit.rings.memory import U32, RingMemory
from toolkit.rings.owners import Addresses, Owners

__all__ = ["Consumer"]


class Consumer(ABC):
    """A ring that the kernel fills. Not thread-safe: one thread consumes.

    Semantics: gVisor's pkg/xdp (peek, get, release), with libxdp's limit and cancel.
    """

    def __init__(self, memory: RingMemory, owners: Owners | None = None, limits: Limits | None = None) -> None:
        """Consume the ring in `memory`; report to `owners` every frame that changes owner.

        limits: the check of the descriptors that take() returns, on an RX ring. get() does not check: UMEM.get() does.
        """
        self._memory = memory
        self._owners = owners
        self._limits = limits
        self.size: int = memory.size  # entries; a power of 2
        # Always size - 1: lets the free-running indices wrap around the ring.
        self.mask: int = memory.size - 1
        # The shared producer index as last read. Only the kernel writes the shared one.
        self._cached_producer: int = memory.consumer[0]
        # The next entry to peek: ahead of the shared consumer index by the entries that were peeked and not released.
        # Only release() and take() write the shared one.
        self._cached_consumer: int = memory.consumer[0]
        # (index, n) while peek() changes the owners of n entries; only an interrupt leaves it set.
        self._peeking: tuple[int, int] | None = None

    def __repr__(self) -> str:
        """Show the ring's size and fill."""
        if self._memory.closed:
            return f"<{type(self).__name__} closed>"
        waiting = (self._memory.producer[0] - self._cached_consumer) & U32
        return f"<{type(self).__name__} size={self.size} waiting={waiting} unreleased={self.unreleased}>"

    @property
    def next_index(self) -> int:
        """Index of the next entry to peek: the number of entries ever peeked, modulo 2**32."""
        return self._cached_consumer

    def addresses(self, index: int, n: int) -> Addresses:
        """Return a copy of the frame addresses of `n` entries from `index` on: shape (n,), u64."""
        return self._addresses_of(self._memory.read(index, n))

    @property
    def unreleased(self) -> int:
        """Entries that were peeked and not yet released."""
        return (self._cached_consumer - self._memory.load(self._memory.consumer)) & U32

    def available(self, wanted: int = 1) -> int:
        """Return how many entries can be peeked. Reads the shared index only when fewer than `wanted` are known.

        FrameError when the shared index has moved further than the ring is long.
        """
        entries = (self._cached_producer - self._cached_consumer) & U32
        if entries < wanted or entries == 0:
            entries = self._load_producer()
        elif self._memory.closed:
            raise self._memory.closed_error()
        return entries

    def peek(self, limit: int | None = None) -> tuple[int, int]:
        """Return (n, index) of the next entries, at most `limit`; each entry is returned once.

        Process the n entries from `index` on, then release() them. The shared producer index is read again only when
        no entry is known (gVisor's peek).
        """
        entries = (self._cached_producer - self._cached_consumer) & U32
        if entries == 0:
            entries = self._load_producer()
        elif self._memory.entries is None:  # `closed`, without the cost of a property
            raise self._memory.closed_error()
        if limit is not None and entries > limit:
            if limit < 0:
                raise cannot_be("limit", limit, "a whole number from 0 on")
            entries = index_of(limit)
        if self._peeking is not None:
            self._forget_peek()
        index = self._cached_consumer
        if entries and self._owners is not None:
            self._peeking = (index, entries)
            try:
                self._record_owners(index, entries)
            except FrameError:  # refused as a whole: nothing to undo
                self._peeking = None
                raise
        self._cached_consumer = (index + entries) & U32
        self._peeking = None
        return entries, index

    def _load_producer(self) -> int:
        """Read the shared producer index and return how many entries can be peeked."""
        producer = self._memory.load(self._memory.producer)
        entries = (producer - self._cached_consumer) & U32
        if entries > self.size:
            raise FrameError(
                f"the producer index of this ring ({producer}) is {entries} ahead of what was taken "
                f"({self._cached_consumer}), and the ring has {self.size} entries. {RING_LIES}"
            )
        self._cached_producer = producer
        return entries

    def _forget_peek(self) -> None:
        """Undo a peek that an interrupt cut short: its entries were not returned, so the next peek returns them."""
        assert self._peeking is not None
        index, n = self._peeking
        if self._owners is not None:
            self._owners.restore(self._addresses_of(self._memory.read(index, n)))
        self._cached_consumer = index
        self._peeking = None

    def cancel(self, n: int) -> None:
        """Undo the peek of the last `n` unreleased entries: the next peek returns them again (libxdp's cancel)."""
        n = index_of(n)
        if n < 0 or n > self.unreleased:
            raise ArgumentError(
                f"cannot cancel {n} entries: {self.unreleased} are peeked and not released. Next step: cancel these "
                "at most."
            )
        index = (self._cached_consumer - n) & U32
        if n and self._owners is not None:
            self._owners.put_back(self._addresses_of(self._memory.read(index, n)))
        self._cached_consumer = index

    def release(self, n: int) -> None:
        """Publish that `n` more entries were processed: the kernel may write their slots again."""
        n = index_of(n)
        done = self._memory.load(self._memory.consumer)
        peeked = (self._cached_consumer - done) & U32
        if not 0 <= n <= peeked:
            raise ArgumentError(
                f"cannot release {n} entries: {peeked} are peeked and not released. "
                "Next step: release what peek() returned, once."
            )
        self._memory.store(self._memory.consumer, done + n)

    def take(self, limit: int | None = None) -> npt.NDArray[np.uint64]:
        """Peek, copy and release in one call: up to `limit` entries, shape (n,) or (n, 2), u64. For batch code.

        Unlike peek(), it reads the shared index again when fewer than `limit` entries are known.
        FrameError when an entry leaves its frame, or names a frame twice or one that the kernel does not own. Then no
        entry is taken, and each later call raises the same.
        """
        limit = None if limit is None else whole("limit", limit)
        n = self.available(self.size if limit is None else limit)
        if limit is not None and n > limit:
            if limit < 0:
                raise cannot_be("limit", limit, "a whole number from 0 on")
            n = limit
        index = self._cached_consumer
        entries = self._memory.read(index, n)
        if n:
            if self._limits is not None:
                self._limits.check(entries)
            if self._owners is not None:
                self._owners.taken(self._addresses_of(entries))
            self._cached_consumer = (index + n) & U32
            self.release(n)
        return entries

    def resync(self) -> None:
        """Drop every peek that was not released; no frame changes owner. For recovery after an interrupt."""
        # With no entry known, the next call reads the shared producer index and checks it.
        self._cached_consumer = self._cached_producer = self._memory.load(self._memory.consumer)

    @abstractmethod
    def _addresses_of(self, entries: npt.NDArray[np.uint64]) -> Addresses:
        """Return the frame addresses in entries that read() copied: shape (n,), u64."""

    @abstractmethod
    def _address_at(self, index: int) -> int:
        """Return the frame address of one entry."""

    def _record_owners(self, index: int, n: int) -> None:
        assert self._owners is not None
        if n == 1:
            self._owners.taken_one(self._address_at(index))
        else:
            self._owners.taken(self._addresses_of(self._memory.read(index, n)))
