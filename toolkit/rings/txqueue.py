# SPDX-License-Identifier: Apache-2.0
"""TXQueue: the process passes frames to the kernel to be sent. Mirrors gVisor's pkg/xdp/txqueue.go."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.abi.if_xdp import XDPDesc
from toolkit.rings.frames import FrameStore
from toolkit.rings.producer import Producer

__all__ = ["TXQueue", "as_descs"]

_DESC = struct.Struct("=QII")


class TXQueue(Producer):
    """The TX ring: descriptors of packets to send. Not thread-safe: one thread sends.

    Unlike gVisor's, wake() and notify() report a kick that fails.
    """

    def reserve(self, n: int, umem: FrameStore | None = None) -> tuple[int, int]:
        """Reserve `n` entries, all or none: (n, index of the first) or (0, 0).

        With `umem`, as in gVisor, only when it has at least `n` free frames.
        """
        if umem is not None and umem.n_free_frames < n:
            return 0, 0
        return super().reserve(n)

    def set(self, index: int, desc: XDPDesc) -> None:
        """Write the descriptor `desc` at `index`, which reserve() returned."""
        try:
            _DESC.pack_into(self._memory.bytes, (index & self.mask) << 4, desc.addr, desc.len, desc.options)
        except struct.error as refused:
            raise cannot_be("desc", desc, "an XDPDesc with an addr of 64 bits, len and options of 32") from refused
        except (TypeError, ValueError):  # which one released memory raises depends on the Python version
            if not self._memory.closed:
                raise
            raise self._memory.closed_error() from None

    def get(self, index: int) -> XDPDesc:
        """Return a copy of the descriptor at `index`."""
        try:
            return XDPDesc._make(_DESC.unpack_from(self._memory.bytes, (index & self.mask) << 4))
        except ValueError:
            raise self._memory.closed_error() from None

    def set_batch(self, index: int, descs: npt.NDArray[Any]) -> None:
        """Write descriptors from `index` on: shape (n,) dtype XDP_DESC, or (n, 2) u64 (addr, len | options << 32)."""
        self._memory.write(index, as_descs(descs))

    def put(self, entries: npt.NDArray[Any]) -> int:
        """Reserve, write and publish as many descriptors as fit; return how many. Does not kick."""
        return super().put(as_descs(entries))


def as_descs(descs: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return descriptors as shape (n, 2), u64. `descs` is of that form, or of dtype XDP_DESC; else ArgumentError."""
    if not isinstance(descs, np.ndarray):
        raise cannot_be("descs", descs, "an array of dtype XDP_DESC, or of shape (n, 2) and dtype uint64")
    if descs.dtype == np.uint64 and descs.ndim == 2 and descs.shape[1] == 2:
        return descs
    if descs.dtype.itemsize == 16 and descs.dtype.names == ("addr", "len", "options"):
        return np.ascontiguousarray(descs).view(np.uint64).reshape(-1, 2)
    raise cannot_be("descs", descs, "an array of dtype XDP_DESC, or of shape (n, 2) and dtype uint64")
