# SPDX-License-Identifier: Apache-2.0
"""Responder: a host in Python. It answers on the queue of the request; a single request takes a short path."""

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

_RECLAIM_EVERY = 32  # answers after which sent frames are reclaimed, if there are enough free frames
_SOON = 0.001  # seconds of the longest sleep while the kernel has answers to send, or frames to return
_POLLS = 256  # polls of the rings between two calls of stop(), when spinning
_AT_ONCE = 8  # answers between two checks of everything else
_IDLE_CHECK = 0.01  # seconds between two checks, when spinning, of what no packet would show


class ResponderStatistics(NamedTuple):
    """Packets so far."""

    received: int  # including those where an answer raised
    answered: int


class Responder:
    """Answers the requests that an Interface receives: see Answers. All other packets are dropped.

    One thread runs it: it is the receiving and the sending thread of the Interface.
    """

    def __init__(self, interface: Interface, answers: Answers) -> None:
        """Answer on every queue that the Interface has open."""
        self._interface = interface
        self._answers = answers
        self._many = Forwarder(interface, interface, answers.many)
        per_queue = interface.umem.frames // len(interface.sockets)
        self._reclaim_every = max(min(_RECLAIM_EVERY, per_queue // 8), 1)
        self._unreclaimed = 0  # answers of the short path since frames were reclaimed
        self._sockets = interface.sockets
        self._before = self._replied()  # answers that these sockets sent before this Responder

    def __repr__(self) -> str:
        """Show the counts."""
        received, answered = self.statistics()
        return f"<Responder on {self._interface.name}: received={received} answered={answered}>"

    def statistics(self) -> ResponderStatistics:
        """Return what was received and answered so far."""
        (taken, sent), many = self._replied(), self._many.statistics()
        return ResponderStatistics(taken - self._before[0] + many.received, sent - self._before[1] + many.forwarded)

    def _replied(self) -> tuple[int, int]:
        """Return (taken, sent back) by the short path of every queue."""
        counts = [sock.replied() for sock in self._sockets]
        return sum(taken for taken, _ in counts), sum(sent for _, sent in counts)

    def step(self, timeout: float | None = 0) -> int:
        """Answer the packets that wait; return how many came. Raises what Socket.wait() does.

        timeout: seconds to wait for a packet when none waits; None waits without limit.
        """
        came = self._poll()
        if came:
            return came
        behind = any(sock.tx.outstanding for sock in self._interface.sockets) or not self._interface.umem.n_free_frames
        if behind or timeout == 0:
            # A step of the Forwarder reclaims frames, kicks a kernel that was busy, and checks that the device is
            # there.
            came = self._many.step()
            if came or timeout == 0:
                return came
        if behind:
            timeout = _SOON if timeout is None else min(timeout, _SOON)
        return self._poll() if self._interface.wait(timeout) else 0

    def run(
        self, seconds: float | None = None, *, stop: Callable[[], object] = lambda: False, spin: bool = False
    ) -> None:
        """Answer until `seconds` passed or `stop()` is true.

        spin: poll the rings instead of sleeping, for the fastest answers; takes a whole CPU.
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
                self._many.step()  # kicks a kernel that was busy, and checks that the device is there

    def _spin(self) -> None:
        """Poll every ring a number of times, and answer at once."""
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
        # Also when a packet was not answered: perhaps there was no room in the TX ring, which reclaiming makes.
        if answered < taken or self._unreclaimed >= self._reclaim_every:
            self._unreclaimed = 0
            sock.reclaim()
        return taken
