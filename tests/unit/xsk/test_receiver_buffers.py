# SPDX-License-Identifier: Apache-2.0
"""Packets of several buffers over plain rings: a batch never ends in the middle of one, whatever the kernel does."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.helpers.interrupts import Interrupt, every_line
from tests.helpers.receiver_rig import Receiver as Rig
from tests.helpers.receiver_rig import recovered
from toolkit.abi.if_xdp import XDP_PKT_CONTD

PIECE = 100  # bytes of a buffer


class Buffers(Rig):
    """A receiving Socket that takes packets of several buffers, and the kernel that delivers them."""

    SG = True

    def __init__(self) -> None:
        super().__init__()
        assert len(self.sock.poll_once()) == 0
        self.kernel(0)

    def deliver(self, *options: int) -> None:
        """One buffer each, filled with its number."""
        memory = self.umem.memory
        assert memory is not None
        for one in options:
            address = self.in_kernel.pop(0) + 256
            memory[address : address + PIECE] = self.sequence
            entry = struct.pack("=QII", address, PIECE, one)
            self.rx_memory.bytes[(self.delivered & 31) << 4 : ((self.delivered & 31) << 4) + 16] = entry
            self.delivered = (self.delivered + 1) & 0xFFFFFFFF
            self.sequence += 1
        self.rx_memory.producer[0] = self.delivered

    def taken(self, limit: int | None = None) -> list[list[int]]:
        """The numbers of the buffers of each packet."""
        batch = self.sock.poll_once(limit)
        assert all(len(one) % PIECE == 0 for one in batch)
        numbers = [np.frombuffer(one, np.uint8)[::PIECE].tolist() for one in batch]
        self.kernel(0)
        return numbers


MORE = XDP_PKT_CONTD


def test_whole_packets() -> None:
    rig = Buffers()
    rig.deliver(MORE, MORE, 0, 0, MORE, 0)
    assert rig.taken(16) == [[0, 1, 2], [3], [4, 5]]
    assert rig.taken() == []


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_limit_in_the_middle_of_a_packet_takes_all_of_it(limit: int) -> None:
    rig = Buffers()
    rig.deliver(MORE, MORE, MORE, 0, 0)
    assert rig.taken(0) == []
    assert rig.taken(limit) == [[0, 1, 2, 3]]
    assert rig.taken(limit) == [[4]]


def test_what_is_not_whole_yet_waits() -> None:
    """A driver may publish one buffer after the other."""
    rig = Buffers()
    rig.deliver(0, MORE)
    assert rig.taken() == [[0]]
    assert rig.taken() == []
    rig.deliver(MORE)
    assert rig.taken() == []
    rig.deliver(0, 0)
    assert rig.taken(4) == [[1, 2, 3], [4]]
    audit = rig.umem.audit()
    assert audit["received"] <= 1, audit


def test_interrupted_at_every_line() -> None:
    def at(k: int) -> bool:
        rig, interrupt = Buffers(), Interrupt(k)
        rig.deliver(MORE, 0, MORE)
        rig.taken(2)
        rig.deliver(MORE, 0, 0)
        came = interrupt.run(rig.sock.poll_once)
        try:
            # What was taken in that moment is lost, as ever; what comes is whole.
            assert [one for _ in range(3) for one in rig.taken(4)] in ([], [[5]], [[2, 3, 4], [5]])
            rig.sock.take_back()
            recovered(rig)
        except Exception as failure:
            raise AssertionError(f"after an interrupt at line {k}, {interrupt.where}") from failure
        return came

    assert every_line(at) > 50
