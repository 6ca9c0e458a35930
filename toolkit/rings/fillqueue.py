# SPDX-License-Identifier: Apache-2.0
"""FillQueue: the process posts empty frames to the kernel. Mirrors gVisor's pkg/xdp/fillqueue.go."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.errors import ArgumentError
from toolkit.rings.memory import U32, RingMemory
from toolkit.rings.owners import Addresses, FrameStore, Owners
from toolkit.rings.producer import Producer

__all__ = ["FillQueue"]

_ADDRESS = struct.Struct("=Q")


class FillQueue(Producer):
    """The fill ring: addresses of empty frames to receive into. Not thread-safe: the receiving thread fills it."""

    def __init__(
        self, memory: RingMemory, owners: Owners | None = None, wake: Callable[[], bool] | None = None
    ) -> None:
        """Produce into the ring in `memory`; the arguments of Producer, without limits."""
        super().__init__(memory, owners, wake)
        self._filling = False  # true while fill_all() runs; only an interrupt leaves it true

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
        self._memory.write(index, _checked(addresses))

    def put(self, entries: Addresses, *, distinct: bool = False, noted: bool = False) -> int:
        """Reserve, write and publish as many addresses as fit; return how many. Does not wake the kernel."""
        return super().put(_checked(entries), distinct=distinct, noted=noted)

    def fill_all(self, umem: FrameStore, limit: int | None = None) -> int:
        """Post as many free frames of `umem` as fit, at most `limit`; return how many.

        Wakes the driver when it asks for that, which gVisor's FillAll does not.
        """
        if self._filling:
            self.recover()
        wanted = umem.n_free_frames
        if limit is not None and limit < wanted:
            wanted = max(limit, 0)
        n = min(self.free(wanted), wanted)
        if n == 0:
            return 0
        if self.unpublished:
            raise ArgumentError(
                f"cannot fill_all(): {self.unpublished} entries are reserved and not published. Next step: notify() or "
                "unreserve() them first."
            )
        index = self._cached_producer
        owners = self._owners
        self._filling = True
        addresses = umem.alloc_frames(n) if owners is None else owners.post(umem, n, index)
        self._memory.write(index, addresses)
        self._cached_producer = (index + n) & U32
        self._memory.store(self._memory.producer, index + n)
        if owners is not None:
            owners.settle((index + n) & U32)
        self._filling = False
        if self.needs_wakeup:
            self.wake()
        return n

    def recover(self) -> None:
        """Drop unpublished reservations; frames that an interrupted fill_all() took and did not post are free again."""
        producer = self._cached_producer = self._memory.load(self._memory.producer)
        if self._owners is not None:
            self._owners.settle(producer)
        self._filling = False

    def _addresses_of(self, entries: npt.NDArray[np.uint64]) -> Addresses:
        return entries

    def _give_one(self, owners: Owners, index: int) -> None:
        owners.given_one(self.get(index))


def _checked(addresses: Addresses) -> Addresses:
    if not isinstance(addresses, np.ndarray):
        raise cannot_be("addresses", addresses, "an array of shape (n,) and dtype uint64")
    if addresses.dtype == np.uint64 and addresses.ndim == 1:
        return addresses
    raise cannot_be("addresses", addresses, "an array of shape (n,) and dtype uint64")
