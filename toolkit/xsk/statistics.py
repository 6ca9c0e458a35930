# SPDX-License-Identifier: Apache-2.0
"""Statistics: what the kernel counts of an AF_XDP socket, or of several, and what it comes to."""

from __future__ import annotations

from toolkit.abi.if_xdp import XDPStatistics

__all__ = ["Statistics"]


class Statistics(XDPStatistics):
    """Why packets were dropped, counted by the kernel since the socket was made; of several sockets, the sums.

    rx_dropped: no frame in the fill ring, or the packet was larger than a frame. rx_ring_full: the RX ring had no room,
    the program did not keep up. rx_invalid_descs, tx_invalid_descs: entries of the fill ring and of the TX ring that
    the kernel refused. rx_fill_ring_empty_descs, tx_ring_empty_descs: times that the kernel found that ring empty (of
    the fill ring, in copy mode, rx_dropped has them too). All are int.
    """

    __slots__ = ()

    def __sub__(self, earlier: tuple[int, ...]) -> Statistics:
        """Return what was counted since `earlier`."""
        return Statistics(*(now - then for now, then in zip(self, earlier, strict=True)))

    def __add__(self, other: tuple[int, ...]) -> Statistics:  # type: ignore[override]  # a tuple's joins
        """Return the sums, field by field: several sockets as one."""
        return Statistics(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def dropped(self) -> int:
        """Packets that were redirected to this socket and not delivered."""
        return self.rx_dropped + self.rx_ring_full

    def _repr_html_(self) -> str:
        """Show the counters, and what they come to, as a table in a notebook."""
        from toolkit._base.html import table_html

        rows = {**self._asdict(), "dropped": self.dropped}
        return table_html("What the kernel counted", {name: f"{count:,}" for name, count in rows.items()})
