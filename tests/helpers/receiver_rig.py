# SPDX-License-Identifier: Apache-2.0
"""A Socket that receives over plain rings, with a kernel on the other side that the test plays."""

from __future__ import annotations

import struct
import threading
import types
from typing import Any

import numpy as np

from tests.helpers.rings_oracle import U32
from toolkit.batch.batch import Batch
from toolkit.rings import RingMemory
from toolkit.umem.descriptor_check import rx_limits
from toolkit.umem.ledger import RECEIVED, RX, owner_code
from toolkit.umem.receiving import OwnedFill, OwnedRX, ReceiveAccount
from toolkit.umem.umem import UMEM
from toolkit.xsk.socket import Socket

FRAMES = 16
START = U32 - 20


class Receiver:
    """A Socket over plain rings, and the kernel on the other side of them."""

    SG = False  # whether a packet may come in several buffers

    def __init__(self) -> None:
        self.umem = UMEM(FRAMES, 2048)
        self.fill_memory = RingMemory.plain(32, 8, start=START)
        self.rx_memory = RingMemory.plain(32, 16, start=START)
        account = ReceiveAccount(self.umem.ledger, self.umem.new_holder())
        sock: Any = Socket.__new__(Socket)
        sock.fill = OwnedFill(self.fill_memory, account)
        core = types.SimpleNamespace(
            rx_guard=threading.Lock(),
            receive_account=account,
            closed=False,
            where="queue 0 of a test",
            sock=None,
            options=types.SimpleNamespace(sg=self.SG),
            check_open=lambda: None,
            rx=OwnedRX(self.rx_memory, account, sock.fill.order, rx_limits(2048, self.SG)),
        )
        sock._core, sock.umem, sock.queue = core, self.umem, 0
        sock._receiver._next_gone_check, sock.rx_limit = 1 << 62, FRAMES * 3 // 4
        self.sock: Socket = sock
        self.in_kernel: list[int] = []  # frames that the kernel took from the fill ring
        self.filled = self.delivered = START
        self.sequence = 0  # packets that arrived

    def kernel(self, packets: int) -> None:
        """Take everything from the fill ring, and deliver packets, numbered, as far as there are frames."""
        fill, rx = self.fill_memory, self.rx_memory
        while self.filled != fill.producer[0]:
            (address,) = struct.unpack_from("=Q", fill.bytes, (self.filled & 31) << 3)
            assert address not in self.in_kernel, "the same frame was posted twice"
            self.in_kernel.append(address)
            self.filled = (self.filled + 1) & U32
        fill.consumer[0] = self.filled
        for _ in range(min(packets, len(self.in_kernel))):
            address = self.in_kernel.pop(0)
            self.umem._mapping[address + 256 : address + 260] = struct.pack("=I", self.sequence)
            struct.pack_into("=QII", rx.bytes, (self.delivered & 31) << 4, address + 256, 4, 0)
            self.delivered = (self.delivered + 1) & U32
            self.sequence += 1
        rx.producer[0] = self.delivered

    def unread(self) -> list[int]:
        """Frames in the RX ring."""
        n = (self.delivered - self.rx_memory.consumer[0]) & U32
        entries = self.rx_memory.read(self.rx_memory.consumer[0], n)
        return [int(address) & ~2047 for address in entries[:, 0]]

    def unfilled(self) -> list[int]:
        """Frames in the fill ring."""
        n = (self.fill_memory.producer[0] - self.filled) & U32
        return [int(address) for address in self.fill_memory.read(self.filled, n)]

    def check(self, batch: Batch | None = None) -> None:
        """The ledger says of every frame what is true."""
        audit = self.umem.audit()
        owner = self.umem.ledger.owner
        kernels = self.unread() + self.unfilled() + self.in_kernel
        assert len(set(kernels)) == len(kernels), "a frame is in two places"
        posted = {int(n) * 2048 for n in np.flatnonzero(owner == owner_code(RX, 1))}
        assert posted == set(kernels), "the ledger and the rings disagree about what the kernel has"
        received = {int(n) * 2048 for n in np.flatnonzero(owner == owner_code(RECEIVED, 1))}
        borrowed = {int(address) & ~2047 for address in batch.addresses} if batch else set()
        assert received == borrowed, "frames are with nobody"
        assert audit["free"] == FRAMES - len(posted) - len(received) - audit["user"]
        assert audit["free"] == self.umem.n_free_frames


def recovered(receiver: Receiver) -> None:
    """After an interrupt, receiving goes on as if nothing had been: every frame circulates."""
    sock = receiver.sock
    for packets in (0, 3, 1, 20, 0):
        receiver.kernel(packets)
        batch = sock.poll_once()
        receiver.check(batch)
    sock.take_back()
    receiver.check()
    free = receiver.umem.n_free_frames
    assert free + len(receiver.in_kernel) + len(receiver.unfilled()) + len(receiver.unread()) == FRAMES
