# SPDX-License-Identifier: Apache-2.0
"""Feed: the device and the program that bring packets to a socket, and whether they still do.

The kernel does not report a loss by itself, so receivers ask now and then.
"""

from __future__ import annotations

import weakref

from toolkit.program import Program
from toolkit.program.loss import Location, Loss, gone

__all__ = ["ASK_EVERY", "Feed"]

ASK_EVERY = 0.1  # seconds that an answer of the kernel may be reused


class Feed:
    """The device and program of one socket. It keeps neither the socket nor the program alive."""

    def __init__(self, location: Location) -> None:
        """Make the feed of a socket that is bound at `location`."""
        self.location = location
        self._program: weakref.ref[Program] | None = None
        self.left: Loss | None = None
        """Why the socket has lost its device, once that is known; written by gone() only."""

    def begin(self, program: Program) -> None:
        """Record that the socket was entered in the XSKMAP of `program`."""
        self._program = weakref.ref(program)

    def end(self, program: Program) -> None:
        """Record that the socket was removed from the XSKMAP of `program`."""
        if self.program is program:
            self._program = None

    @property
    def program(self) -> Program | None:
        """The program that redirects to the socket, if it is known and still alive."""
        return None if self._program is None else self._program()

    def loss(self, within: float = ASK_EVERY) -> Loss | None:
        """Return why no packet comes from the program any more, or None if it is attached or not known.

        within: seconds that the answer may be old.
        """
        program = self.program
        return None if program is None or program.closed else program.loss(self.location, within)

    def gone(self) -> Loss:
        """Return why the socket has lost its device; the same answer each time."""
        if self.left is None:
            found, program = self.loss(within=0), self.program
            links = () if program is None else program.links
            attached = any(link.location == self.location and link.attached for link in links)
            deleted = found is not None and found.kind == "deleted"
            self.left = found if deleted else gone(self.location, attached=attached)
        assert self.left is not None
        return self.left
