# SPDX-License-Identifier: Apache-2.0
"""Single keys from a terminal, without waiting for them."""

from __future__ import annotations

import os
import select
import sys
from typing import Any

__all__ = ["Keys"]


class Keys:
    """A context in which the terminal hands over each key at once and does not show it; no keys where there is none."""

    def __init__(self) -> None:
        self._fd = -1
        self._before: Any = None

    def __enter__(self) -> Keys:
        """Switch the terminal, if stdin is one and this process may read from it."""
        import termios
        import tty

        try:
            fd = sys.stdin.fileno()
            if os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp():  # in the background a read would stop the process
                self._before = termios.tcgetattr(fd)
                tty.setcbreak(fd)
                self._fd = fd
        except (AttributeError, ValueError, OSError, termios.error):
            self._fd = -1
        return self

    def __exit__(self, *exception: object) -> None:
        """Switch it back."""
        if self._fd >= 0:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
            self._fd = -1

    def pressed(self) -> str:
        """Return the keys that were pressed since the last call; "" for none."""
        if self._fd < 0 or not select.select([self._fd], [], [], 0)[0]:
            return ""
        raw = os.read(self._fd, 64)
        if not raw:  # the terminal is gone
            self._fd = -1
        return raw.decode(errors="ignore")
