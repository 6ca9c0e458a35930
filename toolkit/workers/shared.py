# SPDX-License-Identifier: Apache-2.0
"""SharedProgram: a program in many processes: passed as file descriptors, and used there like a program of its own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from toolkit._base.netns import Home, NetNS
from toolkit.errors import ClosedError, ToolkitError
from toolkit.program import Link, Map, Program, Replace
from toolkit.program.image import MapSpec
from toolkit.program.link import Mode, wait_for_readers
from toolkit.program.loss import Location, Loss
from toolkit.program.rules import Rule

__all__ = ["Handover", "SharedLink", "SharedProgram", "receive_fds", "send_fds"]

_SCM_MAX_FD = 253  # net/scm.h: descriptors in one message


@dataclass(frozen=True)
class Handover:
    """The description of a program for other processes; its descriptors are sent separately: program, then maps."""

    name: str
    maps: tuple[MapSpec, ...]
    rules: tuple[Rule, ...]
    mode: str
    fallback_reason: str | None
    link_id: int
    ifindex: int

    @classmethod
    def of(cls, program: Program, link: Link) -> Handover:
        """Describe `program`, which `link` attaches."""
        maps = tuple(_spec(one) for one in program.maps.values())
        return cls(program.name, maps, program.rules, link.mode, link.fallback_reason, link.id, link.ifindex)


def _spec(one: Map) -> MapSpec:
    members = tuple((name, one.dtype[name].str) for name in one.dtype.names or ())
    return MapSpec(one.name, one.type, one.key_size, one.value_size, one.max_entries, 0, members)


def send_fds(connection: Connection, fds: list[int]) -> None:
    """Send duplicates of `fds` to the process at the other end, before anything else goes over the connection."""
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        socket.send_fds(wire, [b"f"], fds)


def receive_fds(connection: Connection) -> list[int]:
    """Return the descriptors that send_fds() at the other end sent. EOFError when that end is closed."""
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        word, fds, _, _ = socket.recv_fds(wire, 1, _SCM_MAX_FD, socket.MSG_CMSG_CLOEXEC)
    if not word:
        raise EOFError
    return fds


class SharedProgram(Program):
    """A program that another process has loaded and attached. attach() here joins that attachment."""

    def __init__(
        self, handover: Handover, fds: list[int], queues: tuple[int, ...], ended_by_owner: Callable[[], bool]
    ) -> None:
        """Take over the descriptors. queues: those of this process.

        ended_by_owner: returns whether the owner has detached the program, or is about to.
        """
        maps = {spec.name: Map(spec, fd) for spec, fd in zip(handover.maps, fds[1:], strict=True)}
        super().__init__(fds[0], handover.name, maps, handover.rules)
        self._handover = handover
        self._queues = queues
        self._ended = ended_by_owner

    def attach(self, interface: str, *, mode: Mode = "auto", replace: Replace = False, netns: NetNS = None) -> Link:
        """Return a link for the owner's attachment. Closing it removes the sockets that were registered here."""
        location = Location(Home(netns), self._handover.ifindex)
        self._elsewhere[location] = 0.0, True, None  # it runs there: its owner attached it
        return SharedLink(self, interface, location, self._handover, self._queues)

    def _ended_by_owner(self) -> bool:
        return self._ended()


class SharedLink(Link):
    """This process's part in an attachment: the XSKMAP entries of its sockets."""

    def __init__(
        self, program: Program, interface: str, location: Location, handover: Handover, queues: tuple[int, ...]
    ) -> None:
        # Not Link's own constructor: there is no descriptor here. The attachment belongs to the owner.
        self.interface = interface
        self.location = location
        self.mode = handover.mode
        self.fallback_reason = handover.fallback_reason
        self.id = handover.link_id
        self.program_id = program.id
        self._shared = program
        self._queues = queues
        self._closed = False
        self._loss = None

    @property
    def fd(self) -> int:
        """ClosedError: this link has no descriptor."""
        raise ClosedError(f"the link of {self.interface} belongs to the parent process. Next step: ask for it there.")

    @property
    def closed(self) -> bool:
        """Whether close() was called here."""
        return self._closed

    def loss(self, within: float = 0.0) -> Loss | None:
        """Return why the program is not attached any more, if neither this process nor the owner detached it."""
        if not self._closed:
            self._loss = self._shared.loss(self.location, within)
        return self._loss

    def close(self, *, wait: bool = False) -> None:
        """Remove this process's sockets from the XSKMAP: their queues' packets go on to the kernel."""
        self._closed = True
        for queue in self._queues:
            with contextlib.suppress(ToolkitError, OSError):
                self._shared.unregister(queue)
        if wait:
            wait_for_readers()
