# SPDX-License-Identifier: Apache-2.0
"""Responder: a host in Python. It answers on the queue that asked; a lone question takes a short path."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from toolkit.forward.answers import Answers
from toolkit.forward.forwarder import Forwarder
from toolkit.interface.interface import Interface
from toolkit.xsk.replier import QUEUE
from toolkit.xsk.socket import Socket

__all__ = ["Responder", "ResponderStatistics"]

_RECLAIM_EVERY = 32  # answers after which frames that were sent are collected, where there are frames enough
_SOON = 0.001  # seconds to sleep at most while the kernel has yet to send answers, or to return their frames
_POLLS = 256  # at the rings, between two looks of a spinning responder at its orders
_AT_ONCE = 8  # answers between two looks at what can wait
_IDLE_CHECK = 0.01  # seconds between two looks of a spinning responder at what no packet brings to light


class ResponderStatistics(NamedTuple):
    """Packets so far."""

    received: int  # also those over which an answer raised
    answered: int


class Responder:
    """Answers what an Interface receives: see Answers. One thread runs it; questions of other kinds are freed."""

    def __init__(self, interface: Interface, answers: Answers) -> None:
        """Answer on every queue that the Interface has open."""
        self._interface = interface
        self._answers = answers
        self._many = Forwarder(interface, interface, answers.many)
        per_queue = interface.umem.frames // len(interface.sockets)
        self._reclaim_every = max(min(_RECLAIM_EVERY, per_queue // 8), 1)
        self._unreclaimed = 0  # answers of the short path since frames were collected
        self._sockets = interface.sockets
        self._before = self._replied()  # what others answered by these sockets is not ours

    def __repr__(self) -> str:
        """Show the counts."""
        received, answered = self.statistics()
        return f"<Responder on {self._interface.name}: received={received} answered={answered}>"

    def statistics(self) -> ResponderStatistics:
        """Return what was received and answered so far."""
        (taken, sent), many = self._replied(), self._many.statistics()
        return ResponderStatistics(taken - self._before[0] + many.received, sent - self._before[1] + many.forwarded)

    def _replied(self) -> tuple[int, int]:
        """(taken, sent back) by the short path of every queue."""
        counts = [sock.replied() for sock in self._sockets]
        return sum(taken for taken, _ in counts), sum(sent for _, sent in counts)

    def step(self, timeout: float | None = 0) -> int:
        """Answer what waits now; returns how many packets came. timeout: seconds to wait for one; None for ever."""
        came = self._poll()
        if came:
            return came
        behind = any(sock.tx.outstanding for sock in self._interface.sockets) or not self._interface.umem.n_free_frames
        if behind or timeout == 0:
            # The Forwarder's look collects frames, kicks a kernel that was busy, and asks whether the device is gone.
            came = self._many.step()
            if came or timeout == 0:
                return came
        if behind:
            timeout = _SOON if timeout is None else min(timeout, _SOON)
        return self._poll() if self._interface.wait(timeout) else 0

    def run(
        self, seconds: float | None = None, *, stop: Callable[[], object] = lambda: False, spin: bool = False
    ) -> None:
        """Answer until `seconds` passed or `stop()` is true. spin: look again and again instead of sleeping: the
        fastest answers, for all of one CPU.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        next_check = 0.0
        while not stop() and (deadline is None or time.monotonic() < deadline):
            if not spin:
                self.step(0.2 if deadline is None else max(min(0.2, deadline - time.monotonic()), 0))
                continue
            self._spin()
            if (now := time.monotonic()) > next_check:
                next_check = now + _IDLE_CHECK
                self._many.step()  # answers that a busy kernel left, a device that is gone

    def _spin(self) -> None:
        """Look at every ring again and again for a while, and answer at once."""
        sockets = self._interface.sockets
        polls = _POLLS if len(sockets) == 1 else 1
        for _ in range(_POLLS // polls):
            for sock in sockets:
                if not self._few(sock, _AT_ONCE, polls) or sock.rx.available(QUEUE) < QUEUE:
                    continue
                self._many.step_queue(sock)

    def _poll(self) -> int:
        came = 0
        for sock in self._interface.sockets:
            waiting = sock.rx.available(QUEUE)
            if 0 < waiting < QUEUE:
                came += self._few(sock, waiting, waiting)
            elif waiting:
                came += self._many.step_queue(sock)
        return came

    def _few(self, sock: Socket, limit: int, polls: int) -> int:
        taken, answered = sock.reply(self._answers.one, limit, polls)
        if not taken:
            return 0
        self._unreclaimed += answered
        # Also after one that was not answered: there may have been no room, which is made by collecting.
        if answered < taken or self._unreclaimed >= self._reclaim_every:
            self._unreclaimed = 0
            sock.reclaim()
        return taken
