# SPDX-License-Identifier: Apache-2.0
"""List the XDP programs, links and AF_XDP sockets of this machine, ours and those of others, and who holds them.

It keeps none of them open: a descriptor of ours would keep a queue taken after its owner has closed it.
What a process has open is read from /proc; only a link that no process we may see has open is asked by its id, with a
descriptor that is closed at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from toolkit._base.proc import descriptors, fdinfo, number_in, pids
from toolkit.errors import ToolkitError
from toolkit.net.device import describe
from toolkit.net.links import link_state
from toolkit.net.sock_diag import BoundSocket, af_xdp_sockets
from toolkit.program import XdpLink, attached, xdp_links
from toolkit.program.query import link_in

__all__ = ["Holder", "InterfaceStatus", "SocketStatus", "Status", "collect"]


@dataclass(frozen=True)
class Holder:
    """A process that holds a link, program or socket."""

    pid: int
    command: str


@dataclass(frozen=True)
class SocketStatus:
    """An AF_XDP socket. `holder` is None where its process cannot be seen.

    The rest is None where the kernel does not say it: without CONFIG_XDP_SOCKETS_DIAG, for a socket of another network
    namespace, and before the socket is bound.
    """

    inode: int
    holder: Holder | None
    interface: str | None
    queue: int | None
    zero_copy: bool | None
    statistics: dict[str, int] | None


@dataclass(frozen=True)
class InterfaceStatus:
    """An interface of this network namespace and the XDP program on it, if any."""

    interface: str
    driver: str
    up: bool
    queues: int
    program_id: int | None = None
    program: str | None = None
    mode: str | None = None
    link_ids: tuple[int, ...] | None = ()  # None: the kernel does not let us ask
    holders: tuple[Holder, ...] = ()
    link: str = "Ethernet"  # or what kind of device it is instead: those cannot be opened
    promiscuity: int | None = None  # how many times it is promiscuous; None: the kernel does not say it

    @property
    def outlives(self) -> bool:
        """Whether the program stays when every process has ended: attached by netlink, held by no link."""
        return self.program_id is not None and self.link_ids == ()


@dataclass(frozen=True)
class Status:
    """Everything that `xsk status` shows. `elsewhere`: links on interfaces of other network namespaces."""

    interfaces: list[InterfaceStatus]
    sockets: list[SocketStatus]
    elsewhere: list[dict[str, Any]] = field(default_factory=list)


def collect() -> Status:
    """List the interfaces of this network namespace, and the links and sockets of the whole machine that we may see."""
    held = _Held()
    for pid in pids():
        held.look_at(pid)
    links: list[XdpLink] | None = None
    with contextlib.suppress(ToolkitError):
        links = xdp_links(known=held.xdp_links)
    interfaces: list[InterfaceStatus] = []
    here: set[int] = set()
    for _, name in socket.if_nameindex():
        with contextlib.suppress(ToolkitError):
            found = _interface(name, held, links)
            here.update(found.link_ids or ())
            interfaces.append(found)
    elsewhere = [
        {"link_id": one.id, "program_id": one.program_id, "holders": [h.__dict__ for h in held.links.get(one.id, ())]}
        for one in links or ()
        if one.id not in here
    ]
    return Status(interfaces, _sockets(held.sockets), elsewhere)


def _interface(name: str, held: _Held, links: Collection[XdpLink] | None) -> InterfaceStatus:
    device = describe(name)
    found = attached(device.ifindex, links=links)
    if found is None:
        return InterfaceStatus(
            name,
            device.driver,
            device.up,
            device.queues,
            link=device.link,
            promiscuity=link_state(device.ifindex).promiscuity,
        )
    link_ids = found.link_ids
    holders = {holder for link in link_ids or () for holder in held.links.get(link, ())}
    holders = holders or set(held.programs.get(found.program.id, ()))
    return InterfaceStatus(
        name,
        device.driver,
        device.up,
        device.queues,
        found.program.id,
        found.program.name,
        found.mode,
        link_ids,
        tuple(sorted(holders, key=lambda holder: holder.pid)),
        device.link,
        link_state(device.ifindex).promiscuity,
    )


def _sockets(holders: dict[int, Holder]) -> list[SocketStatus]:
    """Put together what /proc says (whose) and what sock_diag says (where)."""
    bound = af_xdp_sockets() or {}
    found = [_socket(inode, holder, bound.get(inode)) for inode, holder in holders.items()]
    return found + [_socket(inode, None, one) for inode, one in bound.items() if inode not in holders]


def _socket(inode: int, holder: Holder | None, bound: BoundSocket | None) -> SocketStatus:
    if bound is None:
        return SocketStatus(inode, holder, None, None, None, None)
    name = None
    with contextlib.suppress(OSError):
        name = socket.if_indextoname(bound.ifindex) if bound.ifindex else None
    statistics = bound.statistics._asdict() if bound.statistics else None
    return SocketStatus(inode, holder, name, bound.queue, bound.zero_copy, statistics)


class _Held:
    """What processes have open, by the kernel's numbers. Of a socket's holders, the first that was found."""

    def __init__(self) -> None:
        self.links: dict[int, list[Holder]] = {}
        self.programs: dict[int, list[Holder]] = {}
        self.sockets: dict[int, Holder] = {}
        self.xdp_links: dict[int, XdpLink | None] = {}  # None: a link of another type

    def look_at(self, pid: int) -> None:
        """Add what one process has open."""
        holder = Holder(pid, _command(pid))
        for fd, target in descriptors(pid):
            if target == "anon_inode:bpf_link":
                info = fdinfo(pid, fd)
                self.links.setdefault(number_in(info, "link_id"), []).append(holder)
                self.xdp_links |= link_in(info)
            elif target == "anon_inode:bpf-prog":
                self.programs.setdefault(number_in(fdinfo(pid, fd), "prog_id"), []).append(holder)
            elif target.startswith("socket:[") and _is_af_xdp(pid, fd):
                self.sockets.setdefault(int(target[8:-1]), holder)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [word.decode(errors="replace") for word in file.read().split(b"\0") if word]
        text = " ".join(_without_interpreter(words))[:200]
        # A process names itself as it likes: a terminal must not obey it.
        return "".join(letter if letter.isprintable() else " " for letter in text)
    except OSError:
        return ""


def _without_interpreter(words: list[str]) -> list[str]:
    """Name our command as people type it: `xsk receive eth0`, not the Python that runs it. Others stay as they are."""
    if not words or not os.path.basename(words[0]).startswith("python"):
        return words
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-m", "-c"):
        at += 2 if words[at] in ("-W", "-X") else 1
    if words[at : at + 2] == ["-m", "toolkit.cli"]:
        return ["xsk", *words[at + 2 :]]
    if at < len(words) and os.path.basename(words[at]) == "xsk":
        return ["xsk", *words[at + 1 :]]
    return words


def _is_af_xdp(pid: int, fd: int) -> bool:
    """Ask for the socket's name in sockfs, which opens and holds nothing."""
    try:
        return os.getxattr(f"/proc/{pid}/fd/{fd}", "system.sockprotoname").rstrip(b"\0") == b"XDP"
    except OSError:
        return False
