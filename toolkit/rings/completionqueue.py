# SPDX-License-Identifier: Apache-2.0
"""CompletionQueue: the kernel reports which frames were sent. Mirrors gVisor's pkg/xdp/completionqueue.go."""

from __future__ import annotations

import struct

from toolkit.rings.consumer import Consumer
from toolkit.rings.frames import Addresses, FrameStore

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
        addresses = self.take()
        if len(addresses):
            umem.free_frames(addresses)
        return len(addresses)
