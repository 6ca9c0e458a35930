# SPDX-License-Identifier: Apache-2.0
"""Owners: the protocol by which a ring reports that frames change owner.

The rings do not import the UMEM; they know only this protocol, which toolkit.umem.accounts implements. A ring without
owners (over plain memory, say) moves numbers and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Addresses", "FrameStore", "Owners"]

Addresses = npt.NDArray[np.uint64]  # shape (n,): offsets into the UMEM; any byte of a frame names the frame


class Owners(Protocol):
    """Records the owner of every frame that passes through one ring. Each call is all or nothing, else FrameError."""

    def taken(self, addresses: Addresses) -> None:
        """Record that entries were peeked: the user owns their frames now, no longer the kernel."""

    def taken_one(self, address: int) -> None:
        """Do taken() for one frame, without NumPy's fixed costs."""

    def put_back(self, addresses: Addresses) -> None:
        """Record that a peek was cancelled: the kernel owns the frames again."""

    def restore(self, addresses: Addresses) -> None:
        """Undo a peek that an interrupt cut short: those of the frames that it took are the kernel's again."""

    def given(self, addresses: Addresses, *, distinct: bool = False) -> None:
        """Record that entries are about to be published: the kernel owns their frames from here on.

        distinct: the caller knows that no frame is named twice; otherwise that is checked.
        """

    def given_one(self, address: int) -> None:
        """Do given() for one frame."""

    def post(self, store: FrameStore, n: int, index: int) -> Addresses:
        """Take `n` free frames of `store` for the kernel, to be published from ring index `index` on.

        They are pending until settle(), so that an interrupt in between loses none.
        """

    def settle(self, producer: int) -> None:
        """End the pending state: the frames were published if the ring's `producer` index moved, else they are free."""

    def reclaim(self, store: FrameStore, addresses: Addresses, release: Callable[[], None]) -> None:
        """Free the frames that a completion ring returned in one batch; `release` releases their ring entries."""


class FrameStore(Protocol):
    """The free stack of a UMEM, as far as rings use it."""

    @property
    def n_free_frames(self) -> int:
        """Frames on the free stack."""

    def alloc_frames(self, n: int, /) -> Addresses:
        """Take n frames off the free stack."""

    def recycle(self, addresses: Addresses, owner: int | None = None, /) -> None:
        """Put frames on the free stack; each must belong to the owner with code `owner`."""
