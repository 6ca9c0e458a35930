# SPDX-License-Identifier: Apache-2.0
"""The consumer side of a ring, shared by RXQueue and CompletionQueue: the kernel produces, we consume."""

from __future__ import annotations

from operator import index as index_of  # NumPy's integers would overflow where a Python int wraps at 2**32

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import whole
from toolkit.errors import RING_LIES, ArgumentError, FrameError
from toolkit.rings.memory import U32, RingMemory

__all__ = ["Consumer"]


class Consumer:
    """A ring that the kernel fills. Not thread-safe: one thread consumes.

    Semantics: gVisor's pkg/xdp (peek, get, release), with libxdp's limit and cancel, and take() for arrays.
    """

    def __init__(self, memory: RingMemory) -> None:
        """Consume the ring in `memory`."""
        self._memory = memory
        self.size: int = memory.size  # entries; a power of 2
        # Always size - 1: lets the free-running indices wrap around the ring.
        self.mask: int = memory.size - 1
        # The shared producer index as last read. Only the kernel writes the shared one.
        self._cached_producer: int = memory.consumer[0]
        # The next entry to peek: ahead of the shared consumer index by the entries that were peeked and not released.
        # Only release() and take() write the shared one.
        self._cached_consumer: int = memory.consumer[0]

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
            memory = self._memory
            producer = memory.load(memory.producer)
            entries = (producer - self._cached_consumer) & U32
            if entries > self.size:
                raise FrameError(
                    f"the producer index of this ring ({producer}) is {entries} ahead of what was taken "
                    f"({self._cached_consumer}), and the ring has {self.size} entries. {RING_LIES}"
                )
            self._cached_producer = producer
        elif self._memory.entries is None:  # `closed`, without the cost of a property
            raise self._memory.closed_error()
        return entries

    def peek(self, limit: int | None = None) -> tuple[int, int]:
        """Return (n, index) of the next entries, at most `limit`; each entry is returned once.

        Process the n entries from `index` on, then release() them. The shared producer index is read again only when
        no entry is known (gVisor's peek).
        """
        n = self._wanted(self.available(), limit)
        index = self._cached_consumer
        self._cached_consumer = (index + n) & U32
        return n, index

    def cancel(self, n: int) -> None:
        """Undo the peek of the last `n` unreleased entries: the next peek returns them again (libxdp's cancel)."""
        self._cached_consumer = (self._cached_consumer - self._peeked(n, "cancel")) & U32

    def release(self, n: int) -> None:
        """Publish that `n` more entries were processed: the kernel may write their slots again."""
        n = self._peeked(n, "release")
        self._memory.store(self._memory.consumer, self._memory.load(self._memory.consumer) + n)

    def take(self, limit: int | None = None) -> npt.NDArray[np.uint64]:
        """Peek, copy and release in one call: up to `limit` entries, shape (n,) or (n, 2), u64. For batch code.

        Unlike peek(), it reads the shared index again when fewer than `limit` entries are known.
        """
        limit = self.size if limit is None else whole("limit", limit, 0)
        n = min(self.available(limit), limit)
        index = self._cached_consumer
        entries = self._memory.read(index, n)
        self._cached_consumer = (index + n) & U32
        self.release(n)
        return entries

    def resync(self) -> None:
        """Drop every peek that was not released: the next peek returns those entries again."""
        # With no entry known, the next call reads the shared producer index and checks it.
        self._cached_consumer = self._cached_producer = self._memory.load(self._memory.consumer)

    @staticmethod
    def _wanted(entries: int, limit: int | None) -> int:
        return entries if limit is None else min(entries, whole("limit", limit, 0))

    def _peeked(self, n: int, tried: str) -> int:
        """Return `n`, a number of entries that are peeked and not released; else ArgumentError."""
        n, unreleased = index_of(n), self.unreleased
        if not 0 <= n <= unreleased:
            raise ArgumentError(
                f"cannot {tried} {n} entries: {unreleased} are peeked and not released. "
                f"Next step: {tried} what peek() returned, once."
            )
        return n
