# SPDX-License-Identifier: Apache-2.0
"""Replier: each packet goes from the RX ring to the TX ring at once, changed in place. The short path of ping-pong."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.errors import ArgumentError, FrameError
from toolkit.rings.memory import U32
from toolkit.umem.receiving import OwnedRX
from toolkit.umem.sending import OwnedTX
from toolkit.umem.umem import UMEM
from toolkit.xsk.receiver import Receiver
from toolkit.xsk.sender import Sender

__all__ = ["QUEUE", "Replier"]

QUEUE = 3  # packets that wait: from here on a batch costs less than one packet after the other


class Replier:
    """Answers packets of one Socket one by one, without NumPy's fixed costs.

    Not thread-safe: the thread that runs it is the receiving and the sending thread of the Socket.
    """

    def __init__(self, umem: UMEM, rx: OwnedRX, tx: OwnedTX, receiver: Receiver, sender: Sender) -> None:
        self._umem = umem
        self._rx = rx
        self._tx = tx
        self._receiver = receiver
        self._sender = sender
        self.taken = 0  # packets, by every reply(), also by one that raised
        self.sent = 0  # of these, sent back

    def reply(self, answer: Callable[[memoryview], bool], limit: int, polls: int) -> tuple[int, int]:
        """Poll the RX ring up to `polls` times and take up to `limit` packets; send back those for which `answer` is
        true. Returns (taken, sent back). Ends early when packets queue up: then batches are cheaper.
        """
        with self._receiver.receiving(), self._sender.sending():
            self._receiver.begin()
            return self._counted(answer, limit, polls)

    def _counted(self, answer: Callable[[memoryview], bool], limit: int, polls: int) -> tuple[int, int]:
        before = self.taken, self.sent, self._rx.next_index, self._tx.next_index
        try:
            pass_on_one, free_frame = self._sender.pass_on_one, self._umem.free_frame
            take_one, get, waiting = self._rx.take_one, self._umem.get, self._rx.available
            taken = sent = 0
            for _ in range(polls if limit > 0 else 0):
                try:
                    desc = take_one()
                except (ArgumentError, FrameError):
                    self._receiver.settled()
                    raise
                if desc is None:
                    continue
                taken += 1
                if desc.options:  # they have another meaning in a TX ring
                    desc = desc._replace(options=0)
                # Each answer is sent before anything else is done: the peer is waiting for it.
                if answer(get(desc)) and pass_on_one(desc):
                    sent += 1
                else:
                    free_frame(desc.addr)
                if taken >= limit or waiting(QUEUE) >= QUEUE:
                    break
            self._receiver.finish()
            self.taken += taken
            self.sent += sent
        except BaseException:
            self._recount(*before)
            raise
        if not taken:
            self._receiver.nothing_came()
        return taken, sent

    def _recount(self, taken: int, sent: int, received_to: int, sent_to: int) -> None:
        """Count by the ring indices: they include an answer whose kick failed, and what an interrupt left uncounted."""
        self._rx.settle()
        self._tx.settle()
        came = (self._rx.next_index - received_to) & U32
        self.taken = taken + came
        # Not more than came: an entry that an interrupted send() had left reserved may have been given back.
        self.sent = sent + min((self._tx.next_index - sent_to) & U32, came)
