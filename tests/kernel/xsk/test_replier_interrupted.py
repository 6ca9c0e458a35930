# SPDX-License-Identifier: Apache-2.0
"""KeyboardInterrupt at every line of an answer, over plain rings: each frame stays in one place."""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np
import pytest

from tests.helpers.interrupts import Interrupt, every_line
from tests.helpers.sending import RING, PlainCore
from tests.helpers.wire import frame, number_of
from toolkit import XDPDesc
from toolkit.errors import ArgumentError, FrameError
from toolkit.rings import RingMemory
from toolkit.rings.memory import U32
from toolkit.umem.descriptor_check import rx_limits
from toolkit.umem.receiving import OwnedFill, OwnedRX, ReceiveAccount
from toolkit.umem.umem import UMEM
from toolkit.xsk.receiver import Receiver
from toolkit.xsk.replier import Replier
from toolkit.xsk.sender import Sender

FRAMES, QUESTIONS, ANSWERED = 24, 5, 1000


class PingPong:
    """A Socket's both sides over plain rings. Questions are numbered; an answer is the number plus ANSWERED."""

    def __init__(self) -> None:
        self.umem = UMEM(FRAMES, 2048)
        self.core: Any = PlainCore(self.umem, U32 - 2)
        self.core.closed, self.core.rx_guard, self.core.batch = False, threading.Lock(), None
        self.core.receive_account = ReceiveAccount(self.umem.ledger, self.core.holder)
        self._fill = RingMemory.plain(32, 8, start=U32 - 5)
        self._rx = RingMemory.plain(RING, 16, start=U32 - 2)
        self.fill = OwnedFill(self._fill, self.core.receive_account)
        self.rx = OwnedRX(self._rx, self.core.receive_account, self.fill.order, rx_limits(2048, False))
        self.sender = Sender(self.core, self.core.tx)
        self.receiver = Receiver(self.core, self.umem, self.rx, self.fill, 0)
        self.receiver.limit, self.receiver._next_gone_check = FRAMES // 2, 1 << 62
        self.replier = Replier(self.umem, self.rx, self.core.tx, self.receiver, self.sender)
        self.fill.fill_all(self.umem, FRAMES // 2)
        self._filled, self._delivered, self.asked = U32 - 5, U32 - 2, 0
        self._in_kernel: list[int] = []
        self.ask(QUESTIONS)

    def ask(self, count: int) -> None:
        """Deliver as the kernel does: into the frames of the fill ring."""
        while self._filled != self._fill.producer[0]:
            (address,) = struct.unpack_from("=Q", self._fill.bytes, (self._filled & 31) << 3)
            assert address not in self._in_kernel, "the same frame was posted twice"
            self._in_kernel.append(address)
            self._filled = self._fill.consumer[0] = (self._filled + 1) & U32
        assert self.umem.memory is not None
        for _ in range(count):
            address = self._in_kernel.pop(0) + 256
            self.umem.memory[address : address + 64] = np.frombuffer(frame(self.asked), np.uint8)
            struct.pack_into("=QII", self._rx.bytes, (self._delivered & self.rx.mask) << 4, address, 64, 0)
            self._delivered = self._rx.producer[0] = (self._delivered + 1) & U32
            self.asked += 1

    @staticmethod
    def answer(packet: memoryview) -> bool:
        """Every third question gets none."""
        number = number_of(packet)
        if number % 3 == 2 or number >= ANSWERED:
            return False
        packet[:] = frame(number + ANSWERED)
        return True

    def reply(self) -> tuple[int, int]:
        return self.replier.reply(self.answer, 4, 8)

    def __enter__(self) -> PingPong:
        return self

    def __exit__(self, *_: object) -> None:
        self.core.receive_account.close()
        self.core.send_account.close(retire=False)
        self.umem.close()
        self.core.sock.close()

    def settled(self, interrupted: bool) -> None:
        """All goes on, and at the end every frame is free or lent; nobody was answered twice, or without a question."""
        while self.reply()[0]:
            pass
        self.ask(QUESTIONS)
        while self.reply()[0]:
            pass
        assert self.sender.flush(2.0)
        audit = self.umem.audit()
        assert audit["received"] == audit["tx"] == audit["user"] == 0, audit
        posted = (self._fill.producer[0] - self._filled) & U32
        assert audit["rx"] == posted + len(self._in_kernel), audit
        numbers = [number_of(packet) for packet in self.core.left]
        wanted = [number + ANSWERED for number in range(self.asked) if number % 3 != 2]
        assert numbers == sorted(set(numbers)), "an answer left twice, or out of order"
        assert set(numbers) <= set(wanted), "something left that is no answer"
        assert len(numbers) >= len(wanted) - (1 if interrupted else 0)
        assert (self.replier.taken, self.replier.sent) == (self.asked, len(numbers)), "counted short, or twice"


@pytest.mark.parametrize("afterwards", ["reply", "send", "receive"])
def test_an_interrupt_at_every_line(afterwards: str) -> None:
    def one_line(k: int) -> bool:
        interrupt = Interrupt(k)
        with PingPong() as one:
            try:
                struck = interrupt.run(one.reply)
                assert not one.core.tx_guard.locked()
                assert not one.core.rx_guard.locked()
                if afterwards == "send":
                    one.sender.reclaim()
                elif afterwards == "receive":
                    one.receiver.poll_once(0)
                one.settled(struck)
            except BaseException as failure:
                raise AssertionError(f"after an interrupt at line {k}, {interrupt.where}") from failure
        return struck

    assert every_line(one_line) > 50


def test_answers_to_what_waits_and_no_more() -> None:
    with PingPong() as one:
        assert one.reply() == (1, 1), "when packets queue up, the batch form is better"
        assert one.replier.reply(one.answer, 1, 8) == (1, 1)
        one.settled(False)


def test_a_frame_that_is_not_the_kernel_s_is_refused_before_it_is_changed() -> None:
    """A descriptor that the kernel cannot have had: here of a frame that is free."""
    with PingPong() as one:
        free = int(one.umem.ledger.top(1)[0])
        struct.pack_into("=QII", one._rx.bytes, (one.rx.next_index & one.rx.mask) << 4, free, 64, 0)
        with pytest.raises(FrameError, match="unexpectedly"):
            one.reply()
        assert one.umem.memory is not None
        assert not one.umem.memory[free : free + 64].any()


def test_one_entry_forms_mind_what_was_peeked_and_reserved() -> None:
    with PingPong() as one:
        one.rx.peek(1)
        with pytest.raises(ArgumentError, match="peeked and not released"):
            one.rx.take_one()
        one.core.tx.reserve(1)
        with pytest.raises(ArgumentError, match="put_one"):
            one.core.tx.put_one(XDPDesc(0, 64, 0))
