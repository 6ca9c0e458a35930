# SPDX-License-Identifier: Apache-2.0
"""FillQueue: how a process lends empty frames to the kernel. Mirrors gVisor's pkg/xdp/fillqueue.go."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from toolkit.errors import ArgumentError
from toolkit.rings.custody import Addresses, FrameStore
from toolkit.rings.memory import U32
from toolkit.rings.producer import Producer

__all__ = ["FillQueue"]

_ADDRESS = struct.Struct("=Q")


class FillQueue(Producer):
    """The fill ring: addresses of empty frames for packets to come.

    Not thread-safe: the receiving thread fills it.
    """

    def set(self, index: int, addr: int) -> None:
        """Write the frame address at `index`, which was reserved."""
        try:
            _ADDRESS.pack_into(self._memory.bytes, (index & self.mask) << 3, addr)
        except struct.error as refused:
            raise ArgumentError(f"cannot write the address {addr!r} into the fill ring: {refused}") from None
        except ValueError:
            raise self._memory.closed_error() from None

    def get(self, index: int) -> int:
        """Return the frame address at `index`."""
        try:
            address: int = _ADDRESS.unpack_from(self._memory.bytes, (index & self.mask) << 3)[0]
        except ValueError:
            raise self._memory.closed_error() from None
        return address

    def set_batch(self, index: int, addresses: Addresses) -> None:
        """Write frame addresses from `index` on: shape (n,), u64."""
        self._memory.write(index, addresses)

    def fill_all(self, umem: FrameStore, limit: int | None = None) -> int:
        """Lend as many free frames of `umem` as fit, at most `limit`; returns how many.

        Wakes the driver where it asks for that, which gVisor's FillAll does not.
        """
        wanted = umem.n_free_frames
        if limit is not None and limit < wanted:
            wanted = max(limit, 0)
        n = min(self.free(wanted), wanted)
        if n == 0:
            return 0
        if self.unpublished:
            raise ArgumentError("entries that were reserved before must be published or given back before fill_all()")
        index = self._cached_producer
        custodian = self._custodian
        addresses = umem.alloc_frames(n) if custodian is None else custodian.lend(umem, n, index)
        self.republish(index, addresses)
        if custodian is not None:
            custodian.lent()
        if self.needs_wakeup:
            self.wake()
        return n

    def republish(self, index: int, addresses: Addresses) -> None:
        """Write and publish frames at `index` whatever was reserved there; custody is not touched. For fill_all() and
        for recovery after an interrupt: doing it twice is the same as once.
        """
        published = self._memory.load(self._memory.producer)
        if (published - index) & U32 == 0:
            self._memory.write(index, addresses)
            self._memory.store(self._memory.producer, index + len(addresses))
        self._cached_producer = self._memory.load(self._memory.producer)

    def _addresses_of(self, entries: npt.NDArray[np.uint64]) -> Addresses:
        return entries

    def _address_at(self, index: int) -> int:
        return self.get(index)
