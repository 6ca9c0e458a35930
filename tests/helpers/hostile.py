# SPDX-License-Identifier: Apache-2.0
"""A Socket's two sides over rings of plain memory, and a "kernel" that writes into them whatever a test says."""

from __future__ import annotations

import random
import threading
import types
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers.rings_oracle import U32
from toolkit.rings import RingMemory
from toolkit.umem.descriptor_check import rx_limits, tx_limits
from toolkit.umem.receiving import OwnedFill, OwnedRX, ReceiveAccount
from toolkit.umem.sending import OwnedCompletion, OwnedTX, SendAccount
from toolkit.umem.umem import UMEM
from toolkit.xsk.receiver import Receiver
from toolkit.xsk.replier import Replier
from toolkit.xsk.sender import Sender

FRAMES, FRAME, RING = 16, 2048, 32
START = (1 << 32) - 5  # the indices wrap soon


def descs(*entries: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    """(addr, len) or (addr, len, options) each, as the rings have them: shape (n, 2) u64."""
    rows = [(addr, length | (options[0] if options else 0) << 32) for addr, length, *options in entries]
    return np.array(rows, dtype=np.uint64).reshape(-1, 2)


class Plain:
    """16 frames, of which 8 are with the kernel for receiving; rings of 32 entries."""

    def __init__(self, *, sg: bool = False, tx_metadata_len: int = 0) -> None:
        self.umem = UMEM(FRAMES, FRAME)
        self.rx_memory, self.tx_memory = (RingMemory.plain(RING, 16, start=START) for _ in range(2))
        self.fill_memory, self.completion_memory = (RingMemory.plain(RING, 8, start=START) for _ in range(2))
        holder = self.umem.new_holder()
        receive, send = ReceiveAccount(self.umem.ledger, holder), SendAccount(self.umem.ledger, holder)
        self.fill, self.completion = OwnedFill(self.fill_memory, receive), OwnedCompletion(self.completion_memory, send)
        self.rx = OwnedRX(self.rx_memory, receive, self.fill.order, rx_limits(FRAME, sg))
        self.tx = OwnedTX(self.tx_memory, send, tx_limits(FRAME, sg, tx_metadata_len), lambda: True)
        core: Any = types.SimpleNamespace(
            umem=self.umem,
            where="queue 0 of a test",
            closed=False,
            sock=None,
            zero_copy=False,
            batch=None,
            options=types.SimpleNamespace(sg=sg, need_wakeup=True),
            rx_guard=threading.Lock(),
            tx_guard=threading.Lock(),
            receive_account=receive,
            send_account=send,
            completion=self.completion,
            check_open=lambda: None,
            on_close=lambda callback: None,
        )
        self.core = core
        self.receiver = Receiver(core, self.umem, self.rx, self.fill, 0)
        self.receiver.limit, self.receiver._next_gone_check = 8, 1 << 62
        self.sender = Sender(core, self.tx)
        self.replier = Replier(self.umem, self.rx, self.tx, self.receiver, self.sender)
        assert not self.receiver.poll_once()
        self.posted: list[int] = self.fill_memory.read(START, 8).tolist()  # frames that the kernel has
        self.fill_memory.consumer[0] = self.fill_memory.producer[0]

    def delivers(self, *entries: tuple[int, ...], jump: int = 0) -> None:
        """Write descriptors into the RX ring, and the producer index, `jump` too far."""
        self._write(self.rx_memory, descs(*entries), jump)

    def completes(self, addresses: Iterable[int], jump: int = 0) -> None:
        """The same for the completion ring."""
        self._write(self.completion_memory, np.array(list(addresses), dtype=np.uint64), jump)

    def _write(self, memory: RingMemory, entries: npt.NDArray[np.uint64], jump: int) -> None:
        memory.write(memory.producer[0], entries)
        memory.producer[0] = (memory.producer[0] + len(entries) + jump) & 0xFFFFFFFF

    def owners(self) -> list[int]:
        """The owner code of each frame, once it is known that audit() finds nothing wrong."""
        assert sum(self.umem.audit()[kind] for kind in ("free", "user", "rx", "received", "tx")) == FRAMES
        owners: list[int] = self.umem.ledger.owner.tolist()
        return owners

    def ends(self) -> None:
        """Close the Socket, as far as frames go: each is free, once."""
        self.receiver.forget_batch()
        self.core.receive_account.close()
        self.core.send_account.close(retire=False)
        audit = self.umem.audit()
        assert audit["free"] + audit["user"] == FRAMES, audit
        taken = self.umem.alloc_frames(audit["free"])
        assert len(set(taken.tolist())) == audit["free"]


class Kernel(Plain):
    """Takes what is posted, and delivers it: in order, or in any other."""

    def __init__(self, *, shuffled: bool = False) -> None:
        super().__init__()
        self.random = random.Random(1) if shuffled else None

    def brings(self, n: int) -> list[int]:
        """Deliver packets into `n` of the frames that it has; returns these."""
        self.posted += self.unfilled()
        self.fill_memory.consumer[0] = self.fill_memory.producer[0]
        assert len(set(self.posted)) == len(self.posted), "a frame was posted twice"
        if self.random:
            self.random.shuffle(self.posted)
        came, self.posted = self.posted[:n], self.posted[n:]
        self.delivers(*((address + 256, 60) for address in came))
        return came

    def unfilled(self) -> list[int]:
        """Frames in the fill ring."""
        fill = self.fill_memory
        frames: list[int] = fill.read(fill.consumer[0], (fill.producer[0] - fill.consumer[0]) & U32).tolist()
        return frames

    def codes(self, addresses: list[int]) -> set[int]:
        """Owner codes of frames as the array has them, without asking anybody."""
        return {self.umem.ledger.owner_of(address) for address in addresses}
