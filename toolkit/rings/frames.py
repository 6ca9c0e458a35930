# SPDX-License-Identifier: Apache-2.0
"""What the rings know of frames: their addresses, and the free stack of a UMEM. Who owns a frame, they do not know."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Addresses", "FrameStore"]

Addresses = npt.NDArray[np.uint64]  # shape (n,): offsets into the UMEM; any byte of a frame names the frame


class FrameStore(Protocol):
    """The free stack of a UMEM, as far as rings use it."""

    @property
    def n_free_frames(self) -> int:
        """Frames on the free stack."""

    def alloc_frames(self, n: int, /) -> Addresses:
        """Take n frames off the free stack."""

    def free_frames(self, addresses: Addresses, /) -> None:
        """Put frames on the free stack."""
