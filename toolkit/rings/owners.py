# SPDX-License-Identifier: Apache-2.0
"""Custody: what a ring tells the UMEM when frames change hands.

The rings stand below the UMEM and know only this protocol. A ring without a owners (over plain memory, say) moves
numbers and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Addresses", "FrameStore", "Owners"]

Addresses = npt.NDArray[np.uint64]  # shape (n,): offsets into the UMEM; any byte of a frame names the frame


class Owners(Protocol):
    """Keeps the owner of every frame that passes one ring. Each call is all or nothing."""

    def taken(self, addresses: Addresses) -> None:
        """Note that the ring's entries were peeked: the kernel's frames are ours now."""

    def taken_one(self, address: int) -> None:
        """The same for one frame, without NumPy's fixed cost."""

    def put_back(self, addresses: Addresses) -> None:
        """Note that a peek was cancelled: the frames are the kernel's again."""

    def restore(self, addresses: Addresses) -> None:
        """Note that a peek that an interrupt cut short is forgotten: the frames are the kernel's, as before it."""

    def given(self, addresses: Addresses, *, distinct: bool = False) -> None:
        """Note that the ring's entries are about to be published: our frames become the kernel's.

        distinct: no frame is named twice, the caller knows; it is looked for otherwise.
        """

    def given_one(self, address: int) -> None:
        """The same for one frame."""

    def post(self, store: FrameStore, n: int, index: int) -> Addresses:
        """Take `n` free frames of `store` for the kernel, to be published from ring index `index` on.

        They are remembered as pending until settle(): an interrupt in between delays them, it does not lose them.
        """

    def settle(self, producer: int) -> None:
        """Forget the pending frames: published if the ring's `producer` index moved, else free again."""

    def reclaim(self, store: FrameStore, addresses: Addresses, release: Callable[[], None]) -> None:
        """Free the frames that a completion ring returned in one batch; `release` gives up their entries."""


class FrameStore(Protocol):
    """The free stack of a UMEM, as far as rings use it."""

    @property
    def n_free_frames(self) -> int:
        """Frames on the free stack."""

    def alloc_frames(self, n: int, /) -> Addresses:
        """Take n frames off the free stack."""

    def recycle(self, addresses: Addresses, owner: int | None = None, /) -> None:
        """Put frames on the free stack; `owner`: the code of whom each must belong to."""
