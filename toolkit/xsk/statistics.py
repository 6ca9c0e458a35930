# SPDX-License-Identifier: Apache-2.0
"""Statistics: what the kernel counts of an AF_XDP socket, or of several, and what it comes to."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Statistics"]


class Statistics(NamedTuple):
    """Why packets were dropped, counted by the kernel since the socket was made; of several sockets, the sums.

    rx_dropped: no frame in the fill ring, or the packet was larger than a frame. rx_ring_full: the RX ring had no room,
    the program did not keep up. rx_invalid_descs, tx_invalid_descs: entries of the fill ring and of the TX ring that
    the kernel refused. rx_fill_ring_empty_descs, tx_ring_empty_descs: times that the kernel found that ring empty (of
    the fill ring, in copy mode, rx_dropped has them too).
    missed: packets that the NIC lost before any program saw them, on all its queues, since the Interface or Tee was
    opened: in zero-copy mode, those for which the fill ring had no frame. None: not known, as of a single Socket, and
    in zero-copy mode when the fill ring was empty and the NIC counts none all the same. All others are int.
    """

    rx_dropped: int
    rx_invalid_descs: int
    tx_invalid_descs: int
    rx_ring_full: int
    rx_fill_ring_empty_descs: int
    tx_ring_empty_descs: int
    missed: int | None = None

    def __sub__(self, earlier: Statistics) -> Statistics:
        """Return what was counted since `earlier`."""
        missed = None if self.missed is None else self.missed - (earlier.missed or 0)
        return Statistics._make([*(now - then for now, then in zip(self[:6], earlier[:6], strict=True)), missed])

    def __add__(self, other: Statistics) -> Statistics:  # type: ignore[override]  # a tuple's + joins; counters add
        """Return the sums, field by field: several sockets as one."""
        known = [one.missed for one in (self, other) if one.missed is not None]
        missed = sum(known) if known else None
        return Statistics._make([*(mine + theirs for mine, theirs in zip(self[:6], other[:6], strict=True)), missed])

    @property
    def dropped(self) -> int:
        """Packets that were redirected to this socket and not delivered. Those `missed` are not among them."""
        return self.rx_dropped + self.rx_ring_full

    def _repr_html_(self) -> str:
        """Show the counters, and what they come to, as a table in a notebook."""
        from toolkit._base.html import table_html

        rows = {**self._asdict(), "dropped": self.dropped}
        rows = {name: "not known" if count is None else f"{count:,}" for name, count in rows.items()}
        return table_html("What the kernel counted", rows)
