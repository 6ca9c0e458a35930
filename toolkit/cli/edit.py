# SPDX-License-Identifier: Apache-2.0
"""The edits that `xsk forward` offers, put together to one edit function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit import edits

if TYPE_CHECKING:
    from toolkit.editing import EditableBatch
    from toolkit.forward import Edit

__all__ = ["Edits"]

_MACS, _TAGGED, _NETWORK = 12, 18, 62  # bytes of head: both addresses; with a VLAN tag; all of an IP header behind two

Heads = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Edits:
    """What is to be changed in every packet."""

    mac_swap: bool = False
    ttl: bool = False
    vlan_push: int | None = None
    vlan_pop: bool = False

    def __str__(self) -> str:
        """Name them, in the order in which they are done."""
        names = {
            "TTL - 1": self.ttl,
            "MAC addresses swapped": self.mac_swap,
            "VLAN tag removed": self.vlan_pop,
            f"VLAN tag {self.vlan_push} added": self.vlan_push is not None,
        }
        return ", ".join(name for name, wanted in names.items() if wanted) or "unchanged"

    @property
    def function(self) -> Edit | None:
        """What a Forwarder is given; None when nothing is to be changed."""
        if self == Edits():
            return None
        return _swap_macs if self == Edits(mac_swap=True) else self._edit

    def _edit(self, batch: EditableBatch) -> npt.NDArray[np.bool_] | None:
        """Change a batch in place; which packets are to be sent, or None for all."""
        keep = None
        width = _NETWORK if self.ttl else _MACS if self.mac_swap else 0
        if width:
            heads = batch.head(width)
            if self.ttl:
                keep = edits.decrement_ttl(heads)
            if self.mac_swap:
                edits.swap_macs(heads)
            _put(batch, heads)
        if self.vlan_pop:
            _pop_vlan(batch)
        if self.vlan_push is not None:
            batch.grow_front(4)
            batch.put_head(edits.push_vlan(batch.head(16), self.vlan_push))
        return keep


def _pop_vlan(batch: EditableBatch) -> None:
    lengths, heads = batch.lengths, batch.head(_TAGGED)
    cut = edits.pop_vlan(heads)
    cut[lengths < _TAGGED] = 0  # a tag without what it announces: too little would be left of the packet
    if cut.all():
        batch.put_head(heads)
        batch.grow_front(-4)
    elif cut.any():
        # A start can be moved for all packets of a batch only: here the bytes behind the tag move.
        rows = np.flatnonzero(cut)
        whole = batch.head(int(lengths[rows].max()))[rows]
        whole[:, _MACS:-4] = whole[:, _MACS + 4 :].copy()
        for length in np.unique(lengths[rows]).tolist():
            same = lengths[rows] == length
            batch.put_head(whole[same, : length - 4], rows[same])
        batch.set_lengths(lengths - cut)


def _swap_macs(batch: EditableBatch) -> None:
    batch.put_head(edits.swap_macs(batch.head(_MACS)))


def _put(batch: EditableBatch, heads: Heads) -> None:
    """Write heads back, of packets that are shorter as far as they go: usually these are all of one length."""
    width, lengths = heads.shape[1], batch.lengths
    held = np.minimum(lengths, width)
    for length in np.unique(held).tolist():
        rows = np.flatnonzero(held == length)
        if len(rows) == len(lengths):
            batch.put_head(np.ascontiguousarray(heads[:, :length]))
        else:
            batch.put_head(heads[rows, :length], rows)
