# SPDX-License-Identifier: Apache-2.0
"""RXQueue: the kernel reports which frames hold received packets. Mirrors gVisor's pkg/xdp/rxqueue.go."""

from __future__ import annotations

import struct
from typing import Any

import numpy.typing as npt

from toolkit.abi.if_xdp import XDP_DESC, XDPDesc
from toolkit.rings.consumer import Consumer

__all__ = ["RXQueue"]

_DESC = struct.Struct("=QII")
_new_desc: Any = tuple.__new__  # NamedTuple's own constructor is Python code, and would double the cost of get()


class RXQueue(Consumer):
    """The RX ring: descriptors of packets that arrived. Not thread-safe: one thread receives.

    All methods return copies; nothing that they return refers to ring memory.
    """

    def get(self, index: int) -> XDPDesc:
        """Return a copy of the descriptor at `index` (any u32; the ring masks it)."""
        try:
            desc: XDPDesc = _new_desc(XDPDesc, _DESC.unpack_from(self._memory.bytes, (index & self.mask) << 4))
        except ValueError:
            raise self._memory.closed_error() from None
        return desc

    def get_batch(self, index: int, n: int) -> npt.NDArray[Any]:
        """Return copies of `n` descriptors from `index` on: shape (n,), dtype XDP_DESC (addr, len, options)."""
        return self._memory.read(index, n).view(XDP_DESC).reshape(-1)

    def receive(self, limit: int | None = None) -> npt.NDArray[Any]:
        """Peek, copy and release up to `limit` descriptors: shape (n,), dtype XDP_DESC (addr, len, options)."""
        return self.take(limit).view(XDP_DESC).reshape(-1)
