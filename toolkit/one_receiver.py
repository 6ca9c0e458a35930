# SPDX-License-Identifier: Apache-2.0
"""One thread receives, and any thread closes: that one is woken and waited for, and everything goes once."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from toolkit.attachment import Attachment
from toolkit.batch import Batch
from toolkit.device import Device
from toolkit.errors import ToolkitError
from toolkit.program import Link, Program
from toolkit.rcu import wait_for_readers
from toolkit.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from toolkit.flows import Flows
    from toolkit.flows.keys import Group

__all__ = ["OneReceiver"]

_CLOSE_PATIENCE = 5.0  # seconds that close() waits for a thread inside receive()


class OneReceiver(Attachment):
    """Base of what brings the packets of an interface to one thread."""

    def __init__(self, device: Device, program: Program, link: Link) -> None:
        """Take over a program that `link` attached to `device`."""
        self.device = device
        self.program = program
        self.link = link
        self._guard = threading.Lock()  # held by the thread that is inside receive()
        self._close_lock = threading.Lock()
        self._flows: list[weakref.ref[Flows]] = []  # what is fed with every Batch
        self._down = False  # whether close() came to its end

    def flows(self, max_flows: int = 1 << 16, *, group: Group = "flow", bidirectional: bool = False) -> Flows:
        """Return counters by flow (or source, destination, port, protocol) that every receive() adds to from now on.

        It ends when nobody holds them any more. See toolkit.flows.Flows.
        """
        from toolkit.flows import Flows

        self._check_open()
        flows = Flows(max_flows, group=group, bidirectional=bidirectional)
        self._flows = [*self._flows, weakref.ref(flows)]
        return flows

    def _count(self, batch: Batch) -> None:
        """Feed a Batch to those of `flows()` that somebody holds."""
        for reference in self._flows:
            flows = reference()
            if flows is None:
                self._flows = [one for one in self._flows if one is not reference]
            else:
                flows.add(batch)

    def waiting(self) -> int | None:
        """Return how many packets came that nobody has taken yet; None where nobody has taken any at all."""
        raise NotImplementedError

    def detach(self) -> None:
        """Take the program off the interface: nothing new comes, what waits can be received. Repeatable.

        To reconcile counters: detach, receive until nothing comes, then received + statistics().dropped equals
        counters()["redirected"], to the packet.
        """
        self._check_open()
        self.link.close()
        wait_for_readers()

    def close(self) -> None:
        """Detach the program and give everything back. Repeatable; waits for a thread in receive()."""
        if self._why_dead.startswith("dead"):
            return
        self._why_dead = "closed"
        if not self._down:
            uninterrupted(self._close, patience=2 * _CLOSE_PATIENCE, stuck=self._stuck)

    def _close(self) -> None:
        with self._close_lock:  # another thread may be closing: return when it is done
            if self._down:
                return
            self._wake_receiver()
            if not self._guard.acquire(timeout=_CLOSE_PATIENCE):
                raise ToolkitError(self._stuck)
            try:
                self._take_down()
                self._down = True
            finally:
                self._guard.release()

    def _wake_receiver(self) -> None:
        """Have a receive() that waits return; once or more often."""
        raise NotImplementedError

    def _take_down(self) -> None:
        """Give everything back. Nobody is inside receive(). Called again when it raised."""
        raise NotImplementedError

    @property
    def _stuck(self) -> str:
        return (
            f"cannot close the {type(self).__name__} on {self.name}: receive() is still inside it after "
            f"{_CLOSE_PATIENCE:.0f} s. Likely cause: close() was called from a signal handler that interrupted it. "
            "Next step: set a flag in the handler, close outside of it."
        )
