# SPDX-License-Identifier: Apache-2.0
"""What brings packets to a socket: a device, and the program that redirects to it. Asked now and then, it says whether
they still do; nothing else tells.
"""

from __future__ import annotations

import weakref

from toolkit.program import Program
from toolkit.program.loss import Location, Loss, gone

__all__ = ["ASK_EVERY", "Feed"]

ASK_EVERY = 0.1  # seconds: how old an answer of the kernel's may be


class Feed:
    """Of one socket. It holds neither the socket nor the program."""

    def __init__(self, location: Location) -> None:
        """The socket is bound at `location`."""
        self.location = location
        self._program: weakref.ref[Program] | None = None
        self.left: Loss | None = None
        """Why the socket has lost its device, once that is known; written by gone() only."""

    def begin(self, program: Program) -> None:
        """The socket was entered in the XSKMAP of `program`: from now on that feeds it."""
        self._program = weakref.ref(program)

    def end(self, program: Program) -> None:
        """It was taken out again."""
        if self.program is program:
            self._program = None

    @property
    def program(self) -> Program | None:
        """The program that redirects to the socket, if it is known and somebody holds it."""
        return None if self._program is None else self._program()

    def lost(self, within: float = ASK_EVERY) -> Loss | None:
        """Return why nothing comes from the program any more, if somebody took it off; None else.

        The answer may be `within` seconds old.
        """
        program = self.program
        return None if program is None or program.closed else program.lost(self.location, within)

    def gone(self) -> Loss:
        """Explain why the socket has lost its device: the same each time."""
        if self.left is None:
            found, program = self.lost(within=0), self.program
            links = () if program is None else program.links
            attached = any(link.location == self.location and link.attached for link in links)
            deleted = found is not None and found.kind == "deleted"
            self.left = found if deleted else gone(self.location, attached=attached)
        assert self.left is not None
        return self.left
