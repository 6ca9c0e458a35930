# SPDX-License-Identifier: Apache-2.0
"""Batch: the packets of one receive() as arrays. It borrows their frames until the next receive; copy() keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import whole
from toolkit._base.clock import clock
from toolkit.abi.if_xdp import XDP_PKT_CONTD
from toolkit.abi.xsk_meta import NO_RULE
from toolkit.batch.meta import LENGTH, RULE, Meta, no_meta, read_meta
from toolkit.errors import StaleBatchError
from toolkit.umem.receiving import Borrowed, OwnedRX
from toolkit.umem.umem import UMEM

if TYPE_CHECKING:
    from toolkit.decode import Columns
    from toolkit.tables.cells import PacketTable
    from toolkit.tables.schema import Addresses

__all__ = ["Batch"]

Descs = npt.NDArray[np.uint64]  # shape (n, 2): columns addr, len | options << 32


class Batch:
    """Packets as arrays. `len()` is their number; an empty Batch is falsy. Not thread-safe.

    A Batch borrows its frames: they go back at release(), at the end of a `with` block, or at the next receive() of the
    same Socket or Interface. After that the Batch is stale, and its methods raise StaleBatchError. The arrays that it
    returned are copies and stay valid; `packet(i)` is a view of the frame itself, valid while it is borrowed.
    """

    __slots__ = (
        "__weakref__",
        "_arrival",
        "_borrowed",
        "_descs",
        "_memory",
        "_meta",
        "_rule_numbers",
        "_rx",
        "_stale",
        "_umem",
        "_utc",
        "_wire",
        "frames",
        "queue",
    )

    def __init__(
        self,
        umem: UMEM | None,
        descs: Descs,
        *,
        queue: int = 0,
        borrowed: bool = False,
        rx: OwnedRX | None = None,
        frames: Borrowed | None = None,
        memory: npt.NDArray[np.uint8] | None = None,
        arrival_ns: npt.NDArray[np.int64] | None = None,
        wire_lengths: npt.NDArray[np.integer[Any]] | None = None,
        rule_numbers: npt.NDArray[np.uint32] | None = None,
        utc_ns: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Make a Batch of descs, shape (n, 2), u64, in the frames of `umem` or in `memory`, shape (m,), u8.

        borrowed: whether to give the frames back. rx, frames: who received them, and what its borrow() returned.
        The other arrays have shape (n,): arrival_ns in ns of CLOCK_MONOTONIC (0: none), wire_lengths in bytes,
        rule_numbers, and utc_ns in ns since 1970 (NaT's int64: none); None: as in the frames.
        """
        self._umem = umem
        self._descs = descs
        self._memory = memory
        # Each None is replaced at first use: from struct xsk_meta in the frames, _utc from the arrival times.
        self._arrival = arrival_ns
        self._wire = wire_lengths
        self._rule_numbers = rule_numbers
        self._utc = utc_ns
        self._meta: Meta | None = None  # see _read_meta()
        self._borrowed = borrowed and len(descs) > 0  # whether frames are to be given back
        self._rx = rx
        self.frames: Borrowed | None = frames  # the frames, where they are remembered as a whole
        self._stale = False  # true once the frames were given back
        self.queue: int = queue  # the receive queue that they came from
        if umem is not None and len(descs):
            clock.pair()  # now, close to the arrival: the times may be asked for much later

    def __len__(self) -> int:
        """Return the number of packets; also of a stale Batch."""
        return len(self._descs)

    def __bool__(self) -> bool:
        """Return whether there is any packet."""
        return len(self._descs) > 0

    def __enter__(self) -> Batch:
        """Release at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Release."""
        self.release()

    def __iter__(self) -> Iterator[memoryview]:
        """Return each packet in turn, as packet() does: simple, but slow. Use the arrays where rates matter."""
        for i in range(len(self)):
            yield self.packet(i)

    def __getitem__(self, i: int) -> memoryview:
        """Return packet `i`, as packet() does."""
        return self.packet(i)

    def __repr__(self) -> str:
        """Show packets, bytes, queue, and whether the frames are borrowed."""
        if self.stale:
            return f"<Batch of {len(self)} packets, stale: its frames went back>"
        if not self:
            return "<Batch, empty>"
        kind = f"from queue {self.queue}, borrowed" if self._borrowed else "a copy"
        return f"<Batch of {len(self)} packets, {int(self.lengths.sum())} bytes, {kind}>"

    def _repr_html_(self) -> str:
        """Show the first packets, decoded, in a notebook."""
        if self.stale or not self:
            return repr(self).replace("<", "&lt;").replace(">", "&gt;")
        from toolkit.decode.notebook import batch_html

        html: str = batch_html(repr(self), self.head(128), self.lengths, self.timestamps)
        return html

    # --- arrays -----------------------------------------------------------------------------------------------------

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Bytes of each packet: shape (n,), i64, a copy. Signed, so that differences are right."""
        return self._words()[:, 2].astype(np.int64)

    @property
    def addresses(self) -> npt.NDArray[np.uint64]:
        """Offset of each packet's first byte in the UMEM: shape (n,), u64, a copy."""
        return self._checked()[:, 0].copy()

    @property
    def options(self) -> npt.NDArray[np.uint32]:
        """Descriptor options of each packet (XDP_PKT_CONTD): shape (n,), u32, a copy."""
        return self._words()[:, 3].copy()

    @property
    def arrival_ns(self) -> npt.NDArray[np.int64]:
        """Arrival times, read by the XDP program: shape (n,), i64, ns of CLOCK_MONOTONIC; 0 where there is none."""
        self._checked()
        if self._arrival is None:
            meta, good = self._read_meta()
            self._arrival = np.where(good, meta.view(np.int64)[:, 0], 0)
        return self._arrival.copy()

    @property
    def wire_lengths(self) -> npt.NDArray[np.int64]:
        """Bytes of each packet as it arrived, before snaplen cut it: shape (n,), i64; `lengths` where not known."""
        return self._on_wire().astype(np.int64)

    @property
    def rule_numbers(self) -> npt.NDArray[np.uint32]:
        """Number of the rule that took each packet: shape (n,) u32, 0 for a plain filter; 2**32 - 1 where unknown.

        It counts the rules given to toolkit.open() or Program.build() from 0 on: 1 stands for the second.
        """
        self._checked()
        if self._rule_numbers is None:
            meta, good = self._read_meta()
            self._rule_numbers = np.where(good, meta[:, RULE], np.uint32(NO_RULE))
        return self._rule_numbers.copy()

    @property
    def timestamps(self) -> npt.NDArray[np.datetime64]:
        """Arrival times in UTC: shape (n,), datetime64[ns]; NaT where there is none."""
        self._checked()
        if self._utc is None:
            self._utc = clock.to_utc(self.arrival_ns)
        return self._utc.astype("datetime64[ns]")

    def head(self, n: int = 64) -> npt.NDArray[np.uint8]:
        """Return the first `n` bytes of every packet: shape (len(batch), n), u8, zeros past a packet's end."""
        from toolkit.decode import head

        return head(self._bytes(), self._offsets(), self._words()[:, 2], n)

    def decode(self, columns: Iterable[str] | None = None) -> Columns:
        """Return the headers of all packets as columns (only those named in `columns`): see toolkit.decode."""
        from toolkit.decode import decode

        return decode(self._bytes(), self._offsets(), self._words()[:, 2], columns=columns)

    def to_arrow(self, columns: Iterable[str] | None = None, *, addresses: Addresses = "text", head: int = 0) -> Any:
        """Return the packets as a pyarrow.RecordBatch, one row each (extra `arrow`).

        columns: only these, in this order. By default time (timestamp[ns, UTC]), length, wire_length, queue, rule, and
        then those of decode(), with null where a packet has none. Numbers are signed, so that differences are right:
        byte counts and 32-bit fields are int64, so that sums are right too; ports, types and the like are int32 or
        int16.
        addresses: "text" has IPv4 and IPv6 as text in one column (ip_src, ip_dst), which every engine can join and
        sort; "dictionary" the same as dictionary columns, with each distinct address once: the least memory; "binary"
        is fastest: IPv4 and Ethernet as int64, IPv6 as 16 bytes in ip6_src and ip6_dst.
        head: the first `head` bytes of each packet, in a column `head`; 0: no such column.
        """
        from toolkit.tables.arrow import record_batch
        from toolkit.tables.cells import packet_cells

        return record_batch(packet_cells(self.tabular(head), columns, addresses))

    def to_pandas(self, columns: Iterable[str] | None = None, *, addresses: Addresses = "text", head: int = 0) -> Any:
        """Return the packets as a pandas.DataFrame, one row each (extra `pandas`): arguments and columns of to_arrow().

        Columns with missing values have pandas' nullable types, with pandas.NA; text is of dtype "string", with
        addresses="dictionary" of dtype "category".
        """
        from toolkit.tables.cells import packet_cells
        from toolkit.tables.data_frame import data_frame

        return data_frame(packet_cells(self.tabular(head), columns, addresses))

    def tabular(self, head: int = 0) -> PacketTable:
        """Return the arrays that a table of the packets is made from, and `head` bytes of each.

        For to_arrow(), files.
        """
        from toolkit.tables.cells import PacketTable

        head = whole("head", head, 0)
        queues = np.full(len(self), self.queue, dtype=np.uint32)
        first = self.head(head) if head else None
        return PacketTable(self.decode(), self.timestamps, self.wire_lengths, queues, self.rule_numbers, first)

    def packet(self, i: int) -> memoryview:
        """Return packet `i` (negative: from the end): a read-only view of the frame, valid while it is borrowed."""
        descs = self._checked()
        if not -len(descs) <= i < len(descs):
            raise IndexError(f"packet {i} of a Batch of {len(descs)}")
        words = descs[i].view(np.uint32)
        offset, length = int(descs[i, 0]), int(words[2])
        return memoryview(self._bytes()[offset : offset + length]).toreadonly()

    # --- borrowed frames --------------------------------------------------------------------------------------------

    @property
    def stale(self) -> bool:
        """Whether the frames went back."""
        return self._stale or (self._umem is not None and self._umem.closed)

    def copy(self) -> Batch:
        """Return the same packets in memory of their own, to keep and to pickle: never stale."""
        lengths = self._words()[:, 2].astype(np.int64)
        offsets = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1], out=offsets[1:])
        memory = np.empty(int(lengths.sum()), dtype=np.uint8)
        if len(lengths):
            # One row a packet, as wide as the longest; the mask takes the bytes of the packets, row after row.
            width = int(lengths.max())
            memory[:] = self.head(width)[np.arange(width) < lengths[:, None]]
        descs = self._checked().copy()
        descs[:, 0] = offsets
        return Batch(
            None,
            descs,
            queue=self.queue,
            memory=memory,
            arrival_ns=self.arrival_ns,
            wire_lengths=self._on_wire(),
            rule_numbers=self.rule_numbers,
            utc_ns=self.timestamps.view(np.int64),
        )

    def joined(self) -> Batch:
        """Return a copy in which the buffers of each packet are one piece. Otherwise each buffer counts as a packet.

        A packet continues in the next buffer where the options have XDP_PKT_CONTD.
        """
        kept = self.copy()
        if not len(kept):
            return kept
        goes_on = kept.options & XDP_PKT_CONTD != 0
        first = np.flatnonzero(~np.concatenate(([False], goes_on[:-1])))
        # In the copy the buffers lie one behind the other, so the first one's start and the sum of lengths are enough.
        lengths = np.add.reduceat(kept.lengths, first)
        descs = np.stack((kept.addresses[first], lengths.astype(np.uint64)), axis=1)
        return Batch(
            None,
            descs,
            queue=self.queue,
            memory=kept._memory,
            arrival_ns=kept.arrival_ns[first],
            # Where the program wrote no length, wire_lengths has that of the first buffer.
            wire_lengths=np.maximum(kept.wire_lengths[first], lengths).astype(np.uint32),
            rule_numbers=kept.rule_numbers[first],
            utc_ns=kept.timestamps.view(np.int64)[first],
        )

    def release(self) -> None:
        """Give the frames back; the Batch is stale from here on. Repeatable; without effect on a copy."""
        if self._borrowed and not self._stale:
            self._stale = True
            assert self._umem is not None
            if not self._umem.closed:
                was = None if self._rx is None else self._rx.received
                # That no frame is named twice was checked when the ring returned them. One that the user has freed, and
                # perhaps taken again, is no longer of this Batch.
                self._umem.recycle(self._descs[:, 0], distinct=True, was=was)
            self._borrowed = False

    @property
    def borrowed(self) -> bool:
        """Whether there are frames to give back."""
        return self._borrowed

    @property
    def unsettled(self) -> bool:
        """Whether a KeyboardInterrupt cut release() short: the Socket's next receive() recovers the frames."""
        return self._stale and self._borrowed

    def expire(self) -> None:
        """Make the Batch stale; the caller frees or sends its frames."""
        self._stale = True

    def invalidate(self) -> None:
        """Make the Batch stale; its Socket has taken the frames back already."""
        if self._borrowed:
            self._stale = True
            self._borrowed = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a copy."""
        # The memory of a copy has its packets only; a Batch from a file shares a larger piece with others.
        compact = self._memory is not None and self._memory.size <= int(self.lengths.sum())
        kept = self if compact else self.copy()
        return _unpickle, (
            kept._descs,
            kept.queue,
            kept._memory,
            kept._arrival,
            kept._wire,
            kept._rule_numbers,
            kept._utc,
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _checked(self) -> Descs:
        if self.stale:
            raise StaleBatchError(
                "this Batch is stale: its frames went back to the kernel (at release(), at the end of its with block, "
                "at the next receive(), or at close()). Next step: use it before that, or keep batch.copy()."
            )
        return self._descs

    def _on_wire(self) -> npt.NDArray[np.integer[Any]]:
        """Return wire_lengths as they are kept, of any integer dtype: not a copy."""
        self._checked()
        if self._wire is None:
            meta, good = self._read_meta()
            self._wire = np.where(good, meta[:, LENGTH], self._words()[:, 2])
        return self._wire

    def _words(self) -> npt.NDArray[np.uint32]:
        return self._checked().view(np.uint32).reshape(-1, 4)

    def _offsets(self) -> npt.NDArray[np.int64]:
        return self._checked()[:, 0].view(np.int64)

    def _bytes(self) -> npt.NDArray[np.uint8]:
        self._checked()
        memory = self._memory if self._umem is None else self._umem.memory
        assert memory is not None
        return memory

    def _read_meta(self) -> Meta:
        """Return what the program wrote in front of the packets."""
        if self._meta is None:
            if self._umem is None or not len(self):
                self._meta = no_meta(len(self))
            else:
                self._meta = read_meta(self._bytes(), self._offsets(), self._umem.ledger.shift, self._posted_ns)
        return self._meta

    def _posted_ns(self) -> npt.NDArray[np.int64]:
        """Return when the frames were posted: shape (n,), i64, ns of CLOCK_MONOTONIC."""
        if self._rx is not None and self.frames is not None:
            return self._rx.posted_ns(self.frames[1], len(self))
        assert self._umem is not None
        ledger = self._umem.ledger
        posted: npt.NDArray[np.int64] = ledger.posted_at[self._offsets() >> ledger.shift]
        return posted


def _unpickle(
    descs: Descs,
    queue: int,
    memory: npt.NDArray[np.uint8],
    arrival_ns: npt.NDArray[np.int64] | None,
    wire_lengths: npt.NDArray[np.integer[Any]] | None = None,
    rule_numbers: npt.NDArray[np.uint32] | None = None,
    utc_ns: npt.NDArray[np.int64] | None = None,
) -> Batch:
    return Batch(
        None,
        descs,
        queue=queue,
        memory=memory,
        arrival_ns=arrival_ns,
        wire_lengths=wire_lengths,
        rule_numbers=rule_numbers,
        utc_ns=utc_ns,
    )


_unpickle.__module__ = "toolkit.batch"  # pickles name the package: a file in it may move
