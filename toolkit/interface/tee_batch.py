# SPDX-License-Identifier: Apache-2.0
"""Make Batches of the slots in a BPF ring buffer (progs/xsk_tee.c), without copying the packets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit.abi.tee_slot import TEE_SLOT, TEE_SLOT_SIZE
from toolkit.batch.batch import Batch
from toolkit.interface.ringbuf import Rows

__all__ = ["Copies", "TeeColumns", "by_queue"]


class Copies(Batch):
    """A Batch that borrows slots of the ring buffer, as others borrow frames of a UMEM."""

    __slots__ = ()

    def release(self) -> None:
        """Give the packets back: the Batch is stale. Repeatable."""
        self.expire()

    def __repr__(self) -> str:
        if self.stale or not self:
            return super().__repr__()
        return f"<Batch of {len(self)} packets, {int(self.lengths.sum())} bytes, from queue {self.queue}, borrowed>"


class TeeColumns(NamedTuple):
    """The data of packets that were taken and not yet returned: copies, except for the packets themselves."""

    memory: npt.NDArray[np.uint8]
    descs: npt.NDArray[np.uint64]  # shape (n, 2): offset in memory, bytes
    arrival_ns: npt.NDArray[np.int64]
    wire_lengths: npt.NDArray[np.uint32]
    rule_numbers: npt.NDArray[np.uint32]
    queue: int

    def part(self, which: slice | npt.NDArray[np.intp]) -> TeeColumns:
        """Return the packets that `which` selects."""
        return self._replace(
            descs=self.descs[which],
            arrival_ns=self.arrival_ns[which],
            wire_lengths=self.wire_lengths[which],
            rule_numbers=self.rule_numbers[which],
        )

    def batch(self) -> Batch:
        """Return the packets as a Batch."""
        return Copies(
            None,
            self.descs,
            queue=self.queue,
            memory=self.memory,
            arrival_ns=self.arrival_ns,
            wire_lengths=self.wire_lengths,
            rule_numbers=self.rule_numbers,
        )


def by_queue(rows: Rows) -> list[TeeColumns]:
    """Read the records, and part them by the queue that they came from; each queue in its order."""
    slots = rows.fields(TEE_SLOT)
    descs = np.empty((rows.records, 2), dtype=np.uint64)
    descs[:, 0] = np.arange(rows.records) * rows.stride + (rows.start + TEE_SLOT_SIZE)
    descs[:, 1] = slots["captured"]
    queues = slots["queue"]
    columns = TeeColumns(
        rows.memory,
        descs,
        slots["time"].astype(np.int64),
        slots["length"].copy(),
        slots["rule"].copy(),
        int(queues[0]),
    )
    if (queues == queues[0]).all():
        return [columns]
    # Not np.unique(): at its first call it imports, and an interrupt there would leave Python's import lock taken.
    present = np.flatnonzero(np.bincount(queues))
    return [columns.part(np.flatnonzero(queues == one))._replace(queue=int(one)) for one in present]
