# SPDX-License-Identifier: Apache-2.0
"""CompletionQueue: the kernel reports which frames were sent. Mirrors gVisor's pkg/xdp/completionqueue.go."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from toolkit.rings.consumer import Consumer
from toolkit.rings.memory import U32
from toolkit.rings.owners import Addresses, FrameStore

__all__ = ["CompletionQueue"]

_ADDRESS = struct.Struct("=Q")


class CompletionQueue(Consumer):
    """The completion ring: addresses of frames that were sent. Not thread-safe: the sending thread consumes it."""

    def get(self, index: int) -> int:
        """Return the frame address at `index` (any u32; the ring masks it)."""
        try:
            address: int = _ADDRESS.unpack_from(self._memory.bytes, (index & self.mask) << 3)[0]
        except ValueError:
            raise self._memory.closed_error() from None
        return address

    def get_batch(self, index: int, n: int) -> Addresses:
        """Return copies of `n` addresses from `index` on: shape (n,), u64."""
        return self._memory.read(index, n)

    def free_all(self, umem: FrameStore) -> int:
        """Put every frame that was sent on the free stack of `umem`; return how many."""
        n, index = self.available(self.size), self._cached_consumer
        if not n:
            return 0
        if self._owners is None or self.unreleased:
            addresses = self.take()
            umem.recycle(addresses)
            return len(addresses)
        addresses = self._memory.read(index, n)

        def release() -> None:
            self._cached_consumer = (index + n) & U32
            self.release(n)

        self._owners.reclaim(umem, addresses, release)
        return n

    def _addresses_of(self, entries: npt.NDArray[np.uint64]) -> Addresses:
        return entries

    def _address_at(self, index: int) -> int:
        return self.get(index)
