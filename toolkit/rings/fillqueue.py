# SPDX-License-Identifier: Apache-2.0
"""FillQueue: the process posts empty frames to the kernel. Mirrors gVisor's pkg/xdp/fillqueue.go."""

from __future__ import annotations

import struct

import numpy as np

from toolkit._base.arguments import cannot_be, whole
from toolkit.rings.frames import Addresses, FrameStore
from toolkit.rings.producer import Producer

__all__ = ["FillQueue"]

_ADDRESS = struct.Struct("=Q")


class FillQueue(Producer):
    """The fill ring: addresses of empty frames to receive into. Not thread-safe: the receiving thread fills it."""

    def set(self, index: int, addr: int) -> None:
        """Write the frame address `addr` at `index`, which reserve() returned."""
        try:
            _ADDRESS.pack_into(self._memory.bytes, (index & self.mask) << 3, addr)
        except struct.error as refused:
            raise cannot_be("addr", addr, "an address in the UMEM, an integer of 64 bits") from refused
        except (TypeError, ValueError):  # which one released memory raises depends on the Python version
            if not self._memory.closed:
                raise
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
        self._memory.write(index, as_addresses(addresses))

    def put(self, entries: Addresses) -> int:
        """Reserve, write and publish as many addresses as fit; return how many. Does not wake the kernel."""
        return super().put(as_addresses(entries))

    def fill_all(self, umem: FrameStore, limit: int | None = None) -> int:
        """Post as many free frames of `umem` as fit, at most `limit`; return how many.

        Wakes the driver when it asks for that, which gVisor's FillAll does not.
        """
        n = self._postable(umem, limit)
        if n:
            self._post(umem, n)
            if self.needs_wakeup:
                self.wake()
        return n

    def _postable(self, umem: FrameStore, limit: int | None) -> int:
        """Return how many free frames there are, and room for, at most `limit`."""
        wanted = umem.n_free_frames
        if limit is not None:
            wanted = min(wanted, max(whole("limit", limit), 0))
        n = min(self.free(wanted), wanted)
        if n and self.unpublished:
            raise self.reserved_before("fill_all")
        return n

    def _post(self, umem: FrameStore, n: int) -> None:
        index = self._cached_producer
        self._memory.write(index, umem.alloc_frames(n))
        self._publish(index, n)


def as_addresses(addresses: Addresses) -> Addresses:
    """Return `addresses` if they are of shape (n,) and u64; else ArgumentError."""
    if not isinstance(addresses, np.ndarray):
        raise cannot_be("addresses", addresses, "an array of shape (n,) and dtype uint64")
    if addresses.dtype == np.uint64 and addresses.ndim == 1:
        return addresses
    raise cannot_be("addresses", addresses, "an array of shape (n,) and dtype uint64")
