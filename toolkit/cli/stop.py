# SPDX-License-Identifier: Apache-2.0
"""End on a signal: a flag that the loops read, so that everything is closed in order."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from toolkit._base.uninterrupted import hurry

__all__ = ["BURST", "Stop", "forget_inherited", "interruptible"]

_ALWAYS = (signal.SIGINT, signal.SIGTERM)
# Would end the process in the middle as well. Where one of them is ignored, whoever started us meant it: nohup does it.
_UNLESS_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
# Seconds in which further signals are taken for the first one again: `timeout` signals its child and then the whole
# group, a terminal that closes signals by the kernel and by the shell. To die of that would leave things half undone.
BURST = 1.0


def forget_inherited() -> None:
    """Begin with the signals of a fresh login, whatever this process was started with; for the start of a command.

    SIGINT ends it also in a background job of a shell without job control, which has it ignored; none is blocked;
    children report how they ended. What is ignored of the others stays so, SIGHUP first of all.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGINT and SIGTERM end the block at once, also inside of a Stop: for a question that waits for an answer."""
    before = {number: signal.getsignal(number) for number in _ALWAYS}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """Truthy once SIGINT or SIGTERM came, or SIGHUP (and the like) if it was not ignored, or the time is over.

    Another signal a second after the first, or later, ends the process at once.
    """

    def __init__(self, seconds: float | None = None) -> None:
        """Begin to count `seconds` (None: no limit) at __enter__."""
        self._seconds = seconds
        self._deadline: float | None = None
        self.signal: int | None = None  # the number that came; written by the handler only
        self._burst = 0.0  # when that is over
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        """Install the handlers and start the clock."""
        self.restart()
        for number in (*_ALWAYS, *_UNLESS_IGNORED):
            if number in _ALWAYS or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def restart(self) -> float:
        """Start the clock anew, where what came before is not to count; its time. A signal that came still counts."""
        now = time.monotonic()
        if self._seconds is not None:
            self._deadline = now + self._seconds
        return now

    def __exit__(self, *exception: object) -> None:
        """Put the former handlers back. Not after a signal: the process is about to end, and more may follow."""
        if self.signal is None:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._burst = number, time.monotonic() + BURST
            hurry()
        elif time.monotonic() >= self._burst:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __bool__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)

    def request(self) -> None:
        """Stop for a reason of our own."""
        self._deadline = 0.0

    @property
    def timeout(self) -> float:
        """Seconds for which a wait may last: short, so that a signal is acted upon soon."""
        if self._deadline is None:
            return 0.2
        return max(min(0.2, self._deadline - time.monotonic()), 0.0)
