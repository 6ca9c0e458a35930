# SPDX-License-Identifier: Apache-2.0
"""Replier: a packet from the RX ring to the TX ring at once, changed in place. The short path of ping-pong."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.receiver import Receiver
from toolkit.rings import RXQueue
from toolkit.sender import Sender
from toolkit.umem import UMEM

__all__ = ["QUEUE", "Replier"]

QUEUE = 3  # packets: from here on NumPy's fixed costs are less than one packet after the other costs


class Replier:
    """Answers packets of one Socket one by one: without NumPy's fixed costs, and what can wait is done afterwards.

    The thread that runs it is the receiving and the sending thread of the Socket.
    """

    def __init__(self, umem: UMEM, rx: RXQueue, receiver: Receiver, sender: Sender) -> None:
        self._umem = umem
        self._rx = rx
        self._receiver = receiver
        self._sender = sender

    def reply(self, answer: Callable[[memoryview], bool], limit: int, looks: int) -> tuple[int, int]:
        """Look at the RX ring up to `looks` times, and take up to `limit` packets; send back those that `answer`
        changed and approved: (taken, sent back). Ends early when packets queue up.
        """
        receiver, sender = self._receiver, self._sender
        take_one, get, waiting = self._rx.take_one, self._umem.get, self._rx.available
        taken = sent = 0
        with receiver.receiving(), sender.sending():
            receiver.begin()
            for _ in range(looks if limit > 0 else 0):
                desc = take_one()
                if desc is None:
                    continue
                taken += 1
                # Each answer leaves before anything else is done: somebody waits for it.
                if answer(get(desc)) and sender.pass_on_one(desc):
                    sent += 1
                else:
                    self._umem.free_frame(desc.addr)
                if taken >= limit or waiting(QUEUE) >= QUEUE:
                    break
            receiver.finish()
        return taken, sent
