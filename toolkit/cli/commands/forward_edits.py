# SPDX-License-Identifier: Apache-2.0
"""The edits that `xsk forward` offers, put together to one edit function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.forward import edits

if TYPE_CHECKING:
    from toolkit.batch.editable import EditableBatch
    from toolkit.forward.forwarder import Edit

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
        """Return the edit function for a Forwarder; None if nothing is to be changed."""
        if self == Edits():
            return None
        return _swap_macs if self == Edits(mac_swap=True) else self._edit

    def _edit(self, batch: EditableBatch) -> npt.NDArray[np.bool_] | None:
        """Change a batch in place. Return a mask of the packets to send, or None for all."""
        keep = None
        width = _NETWORK if self.ttl else _TAGGED if self.vlan_pop else _MACS if self.mac_swap else 0
        if width:
            heads = batch.head(width)
            if self.ttl:
                keep = edits.decrement_ttl(heads)
            if self.mac_swap:
                edits.swap_macs(heads)
            cut = _pop_vlan(heads, batch.lengths) if self.vlan_pop else None
            _put(batch, heads)
            if cut is not None:
                batch.grow_front(-cut)
        if self.vlan_push is not None:
            batch.grow_front(4)
            batch.put_head(edits.push_vlan(batch.head(16), self.vlan_push))
        return keep


def _pop_vlan(heads: Heads, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Take VLAN tags out of heads. Return the bytes to cut from the front of each packet: 0 if it ends with the tag."""
    whole = lengths >= _TAGGED
    if whole.all():
        return edits.pop_vlan(heads)
    some = heads[whole]
    cut = np.zeros(len(heads), dtype=np.int64)
    cut[whole] = edits.pop_vlan(some)
    heads[whole] = some
    return cut


def _swap_macs(batch: EditableBatch) -> None:
    batch.put_head(edits.swap_macs(batch.head(_MACS)))


def _put(batch: EditableBatch, heads: Heads) -> None:
    """Write heads back; of a shorter packet, only as much as it has."""
    width, lengths = heads.shape[1], batch.lengths
    held = np.minimum(lengths, width)
    for length in np.unique(held).tolist():
        rows = np.flatnonzero(held == length)
        if len(rows) == len(lengths):
            batch.put_head(np.ascontiguousarray(heads[:, :length]))
        else:
            batch.put_head(heads[rows, :length], rows)
