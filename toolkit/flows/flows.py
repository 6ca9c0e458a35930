# SPDX-License-Identifier: Apache-2.0
"""Flows: packets and bytes of every flow (or address, port, protocol), added up batch by batch."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import one_of, whole
from toolkit._base.clock import NAT
from toolkit.errors import ArgumentError
from toolkit.flows.keys import COLUMNS, GROUPS, Group, keys_of
from toolkit.flows.rows import Flow, flow_cells, flow_list
from toolkit.flows.table import COUNTERS, FlowTable, Sums, grouped

if TYPE_CHECKING:
    from toolkit.batch.batch import Batch
    from toolkit.flows.keys import FlowKeys

__all__ = ["Evicted", "Flow", "Flows", "Order"]

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]

Order = Literal["bytes", "packets", "last"]

_SHOWN = 10  # rows of a repr
_HALF, _LAST = np.array(32, dtype=np.uint64), np.array(29, dtype=np.uint64)  # arrays cost less than numbers


class Evicted(NamedTuple):
    """Rows that were removed to make room, and the packets and bytes that were counted in them."""

    flows: int
    packets: int
    bytes: int


class Flows:
    """Packets, bytes, first and last time, and TCP flags of every flow in the Batches that are added.

    Thread-safe: add() and the methods that read may be called from different threads.

    group: what makes a row. "flow": addresses, protocol and ports (Ethernet addresses and ethertype of packets that are
    not IP). "source", "destination": one address. "port": the lower of the two ports, which is most often the service,
    with its protocol. "protocol": the protocol.
    bidirectional: both directions of a flow are one row, whose source is that of its first packet; the packets of the
    other direction are also counted in back_packets and back_bytes. max_flows: the most rows. When it is reached, the
    rows that were idle longest are removed, an eighth of all at a time; `evicted` has what was counted in them.
    """

    def __init__(self, max_flows: int = 1 << 16, *, group: Group = "flow", bidirectional: bool = False) -> None:
        """Begin without rows. ArgumentError for arguments that are not as above."""
        one_of("group", group, *GROUPS)
        if bidirectional and group != "flow":
            raise ArgumentError(
                f"bidirectional=True puts both directions of a flow in one row, and a {group} has no directions. "
                'Next step: leave bidirectional out, or take group="flow".'
            )
        max_flows = whole("max_flows", max_flows, 1, 1 << 24)
        self.group: Group = group
        self.bidirectional = bidirectional
        self.packets = 0  # of all Batches, including those of evicted rows; written by add()
        self.bytes = 0  # the sum of wire_lengths; written by add()
        self._table = FlowTable(max_flows)
        self._lock = threading.Lock()
        self._torn = False  # true while add() changes the table; only an interrupt leaves it true
        # Odd and random: a sender who knew them could send packets whose hashes collide.
        self._factors = np.frombuffer(os.urandom(48), dtype=np.uint64) | np.uint64(1)

    # --- counting ---------------------------------------------------------------------------------------------------

    def add(self, batch: Batch) -> None:
        """Count the packets of a Batch. A packet without a time gets the present one.

        A KeyboardInterrupt may leave that Batch counted in part; all else stays correct.
        """
        if not batch:
            return
        names = COLUMNS[self.group] + (("tcp_flags",) if self.group == "flow" else ())
        columns = batch.decode(columns=names)
        columns.to_dict()  # all at once is quicker
        keys = keys_of(columns, self.group, both_ways=self.bidirectional)
        times = batch.timestamps.view(np.int64)
        missing = times == NAT
        if missing.any():
            times = np.where(missing, time.time_ns(), times)
        flags = np.maximum(columns["tcp_flags"], 0).astype(np.uint16) if "tcp_flags" in names else None
        sizes = batch.wire_lengths
        counted = self._counted(keys, times, sizes, flags)
        with self._lock:
            self._mend()
            self._torn = True
            self._table.add(counted)
            self.packets += len(batch)
            self.bytes += int(sizes.sum())
            self._torn = False

    def _mend(self) -> None:
        """Repair what an interrupted add() left. The caller holds the lock."""
        if self._torn:
            table = self._table
            table.repair()
            counters = table.counters
            self.packets = int(counters["packets"][: table.size].sum()) + table.evicted_packets
            self.bytes = int(counters["octets"][: table.size].sum()) + table.evicted_octets
            self._torn = False

    def mark(self) -> None:
        """Begin an interval: `recent_packets` and `recent_bytes` count from here."""
        with self._lock:
            self._mend()
            self._table.mark()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._table = FlowTable(self._table.capacity)
            self.packets = self.bytes = 0
            self._torn = False

    def _counted(self, keys: FlowKeys, times: Array, sizes: Array, flags: Array | None) -> Sums:
        """Sum the packets by key."""
        n = len(times)
        held = [at for at, word in enumerate(keys.words) if word is not None]
        matrix = np.array([keys.words[at] for at in held])
        hashes = self._hashes(matrix, held)
        varying = matrix[(matrix != matrix[:, :1]).any(axis=1)]
        order, starts = grouped(hashes, varying) if len(varying) else (np.arange(n), np.zeros(1, dtype=np.int64))
        firsts = order[starts]
        words = np.zeros((5, len(starts)), dtype=np.uint64)
        words[held] = matrix.take(firsts, axis=1)
        packets, octets = np.diff(starts, append=n), np.add.reduceat(sizes[order], starts)
        back = dict.fromkeys(("back_packets", "back_octets"), np.zeros(len(starts), dtype=np.int64))
        turned = np.zeros(len(starts), dtype=np.bool_)
        if keys.swapped is not None:
            swapped = keys.swapped[order]
            back["back_packets"] = np.add.reduceat(swapped.astype(np.int64), starts)
            back["back_octets"] = np.add.reduceat(sizes[order] * swapped, starts)
            turned = keys.swapped[np.minimum.reduceat(order, starts)]
        ranked = times[order]
        return Sums(
            words,
            hashes[firsts],
            np.minimum.reduceat(ranked, starts),
            np.maximum.reduceat(ranked, starts),
            np.zeros(len(starts), np.uint16) if flags is None else np.bitwise_or.reduceat(flags[order], starts),
            turned,
            {"packets": packets, "octets": octets, **back},
        )

    def _hashes(self, words: Words, held: list[int]) -> Words:
        """Hash keys to 64 bits; words: shape (k, n), those of the keys' words that `held` names.

        A word of 0 contributes nothing, so words that are 0 in all packets can be left out.
        """
        mixed = words * self._factors[held][:, None]
        mixed ^= mixed >> _HALF
        mixed *= self._factors[5]
        hashes: Words = np.add.reduce(mixed)
        hashes ^= hashes >> _LAST
        return hashes

    # --- reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of rows that are kept."""
        return self._table.size

    @property
    def evicted(self) -> Evicted:
        """What was removed to make room. `packets` is the sum over all rows and this."""
        table = self._table
        return Evicted(table.evicted, table.evicted_packets, table.evicted_octets)

    def top(self, n: int | None = 10, by: Order = "bytes", *, recent: bool = False) -> list[Flow]:
        """Return the `n` largest rows (None: all), the largest first; by="last": those that were seen last.

        recent: order by what was counted since mark(), and leave out rows where that is nothing.
        """
        return flow_list(*self._picked(n, by, recent), self.group)

    def to_arrow(self, n: int | None = None, by: Order = "bytes") -> Any:
        """Return all rows, or the `n` largest, as a pyarrow.RecordBatch (extra `arrow`)."""
        from toolkit.tables.arrow import record_batch

        return record_batch(flow_cells(*self._picked(n, by, False), self.group, self.bidirectional))

    def to_pandas(self, n: int | None = None, by: Order = "bytes") -> Any:
        """Return all rows, or the `n` largest, as a pandas.DataFrame (extra `pandas`)."""
        from toolkit.tables.data_frame import data_frame

        return data_frame(flow_cells(*self._picked(n, by, False), self.group, self.bidirectional))

    def _picked(self, n: int | None, by: Order, recent: bool) -> tuple[Sums, dict[str, Array]]:
        """Return copies of the rows, in order, and their counters at mark()."""
        one_of("by", by, *get_args(Order))
        with self._lock:
            self._mend()
            table = self._table
            size = table.size
            counters = {name: table.counters[name][:size] for name in COUNTERS}
            marked = {name: table.marked[name][:size] for name in COUNTERS}
            values = {name: counters[name] - marked[name] if recent else counters[name] for name in COUNTERS}
            ranks = {"bytes": (values["packets"], values["octets"]), "packets": (values["octets"], values["packets"])}
            first, second = ranks.get(by, (values["packets"], table.last[:size]))
            chosen = _largest(first, second, n)
            if recent:
                chosen = chosen[values["packets"][chosen] > 0]
            return Sums(
                table.words[:, chosen],
                table.hashes[chosen],
                table.first[chosen],
                table.last[chosen],
                table.flags[chosen],
                table.turned[chosen],
                {name: counter[chosen] for name, counter in counters.items()},
            ), {name: counter[chosen] for name, counter in marked.items()}

    def __repr__(self) -> str:
        """Show the number of rows, and the largest."""
        known = f"<Flows: {len(self)} {_plural(self.group, len(self))}, {self.packets} packets, {self.bytes} bytes"
        if evicted := self.evicted.flows:
            known += f", {evicted} evicted"
        lines = [f"  {flow.bytes:>14,} bytes  {flow.packets:>11,} packets  {flow}" for flow in self.top(_SHOWN)]
        more = [f"  … and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return "\n".join([known + ">", *lines, *more])

    def _repr_html_(self) -> str:
        """Show the largest as a table."""
        import html

        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(str(flow))}</td><td>{flow.packets:,}</td>"
            f"<td>{flow.bytes:,}</td><td>{100 * flow.bytes / max(self.bytes, 1):.1f} %</td></tr>"
            for flow in self.top(_SHOWN)
        )
        head = f"<tr><th>{self.group}</th><th>packets</th><th>bytes</th><th>share</th></tr>"
        note = html.escape(repr(self).split("\n", 1)[0])
        return f"<p>{note}</p><table><thead>{head}</thead><tbody>{rows}</tbody></table>"

    def __rich__(self) -> Any:
        """Show the largest as a table of rich."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=repr(self).split("\n", 1)[0].strip("<>"), box=None)
        table.add_column(self.group)
        for name in ("packets", "bytes", "share"):
            table.add_column(name, justify="right")
        for flow in self.top(_SHOWN):
            share = f"{100 * flow.bytes / max(self.bytes, 1):.1f} %"
            # Not str: rich takes an IPv6 address in brackets for markup, and :ab: for an emoji.
            table.add_row(Text(str(flow)), f"{flow.packets:,}", f"{flow.bytes:,}", share)
        return table


def _largest(second: Array, first: Array, n: int | None) -> Array:
    """Return the first n rows in descending order of `first`, then `second`. Sorts only rows that can be among them."""
    n = n if n is None else whole("n", n, 0)
    size = len(first)
    rows = np.arange(size)
    if n is not None and n < size // 4:
        if n == 0:
            return rows[:0]
        least = np.partition(first, size - n)[size - n]
        rows = np.flatnonzero(first >= least)
    ranked: Array = rows[np.lexsort((-second[rows], -first[rows]))]
    return ranked[:n]


def _plural(group: str, n: int) -> str:
    return group if n == 1 else group + "s"
