# SPDX-License-Identifier: Apache-2.0
"""Single keys from a terminal, without waiting for them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from types import FrameType
from typing import Any

__all__ = ["Keys"]


_SHOW_CURSOR = b"\x1b[?25h"  # a live table hides it


class Keys:
    """A context in which the terminal hands over each key at once and does not show it; no keys where there is none.

    While the process is suspended (Ctrl-Z), the terminal is as it was before.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._before: Any = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Keys:
        """Switch the terminal, if stdin is one and this process may read from it."""
        import termios
        import tty

        try:
            fd = sys.stdin.fileno()
            if _in_foreground(fd):
                self._before = termios.tcgetattr(fd)
                tty.setcbreak(fd)
                self._fd = fd
                for number, handler in ((signal.SIGTSTP, self._suspend), (signal.SIGCONT, self._resume)):
                    if signal.getsignal(number) != signal.SIG_IGN:  # then there is no shell that could resume us
                        self._handlers[number] = signal.signal(number, handler)
        except (AttributeError, ValueError, OSError, termios.error):
            self._fd = -1
        return self

    def __exit__(self, *exception: object) -> None:
        """Switch it back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        self._restore()
        self._fd = -1

    def _restore(self) -> None:
        import termios

        if self._fd >= 0 and _in_foreground(self._fd):
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Give the terminal back, then stop as without a handler."""
        self._restore()
        with contextlib.suppress(OSError):
            os.write(self._fd, _SHOW_CURSOR)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._suspend)

    def _resume(self, number: int, frame: FrameType | None) -> None:
        """Switch it again, once it is ours again: a shell says so with `fg`."""
        import termios
        import tty

        if self._fd >= 0 and _in_foreground(self._fd):
            with contextlib.suppress(termios.error):
                tty.setcbreak(self._fd)

    def pressed(self) -> str:
        """Return the keys that were pressed since the last call; "" for none."""
        if self._fd < 0 or not _in_foreground(self._fd) or not select.select([self._fd], [], [], 0)[0]:
            return ""
        raw = os.read(self._fd, 64)
        if not raw:  # the terminal is gone
            self._fd = -1
        return raw.decode(errors="ignore")


def _in_foreground(fd: int) -> bool:
    """Whether it is a terminal that this process may use: in the background, to read or switch it would stop us."""
    try:
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # the terminal is gone
        return False
