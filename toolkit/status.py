# SPDX-License-Identifier: Apache-2.0
"""What XDP programs, links and AF_XDP sockets there are on this machine, ours and foreign, and who holds them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from toolkit.abi.if_xdp import AF_XDP, SOL_XDP, XDP_OPTIONS, XDP_OPTIONS_ZEROCOPY, XDP_STATISTICS, parse_statistics
from toolkit.abi.libc import syscall
from toolkit.device import describe
from toolkit.errors import ToolkitError
from toolkit.program import attached, xdp_links

__all__ = ["Holder", "InterfaceStatus", "SocketStatus", "Status", "collect"]

_SYS_PIDFD_GETFD = 438  # the same number on every architecture


@dataclass(frozen=True)
class Holder:
    """A process that holds a link, program or socket."""

    pid: int
    command: str


@dataclass(frozen=True)
class SocketStatus:
    """An AF_XDP socket. `interface` and `queue` are None where the kernel has no sock_diag for AF_XDP."""

    inode: int
    holder: Holder
    interface: str | None
    queue: int | None
    zero_copy: bool
    statistics: dict[str, int]


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
    """Look around: this namespace's interfaces, and the whole machine's links and sockets as far as we may see."""
    links, programs, sockets = _held_by_processes()
    interfaces: list[InterfaceStatus] = []
    here: set[int] = set()
    for _, name in socket.if_nameindex():
        with contextlib.suppress(ToolkitError):
            found = _interface(name, links, programs)
            here.update(found.link_ids or ())
            interfaces.append(found)
    elsewhere: list[dict[str, Any]] = []
    with contextlib.suppress(ToolkitError):
        elsewhere = [
            {"link_id": link.id, "program_id": link.program_id, "holders": [h.__dict__ for h in links.get(link.id, ())]}
            for link in xdp_links()
            if link.id not in here
        ]
    return Status(interfaces, sockets, elsewhere)


def _interface(name: str, links: dict[int, list[Holder]], programs: dict[int, list[Holder]]) -> InterfaceStatus:
    device = describe(name)
    found = attached(device.ifindex)
    if found is None:
        return InterfaceStatus(name, device.driver, device.up, device.queues)
    link_ids = found.link_ids
    holders = {holder for link in link_ids or () for holder in links.get(link, ())}
    holders = holders or set(programs.get(found.program.id, ()))
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
    )


Held = dict[int, list[Holder]]


def _held_by_processes() -> tuple[Held, Held, list[SocketStatus]]:
    """Walk every process's descriptors: link id -> holders, program id -> holders, AF_XDP sockets."""
    links: Held = {}
    programs: Held = {}
    found: dict[int, SocketStatus] = {}
    places = _diag()
    for pid in _pids():
        holder = Holder(pid, _command(pid))
        for fd, target in _descriptors(pid):
            if target == "anon_inode:bpf_link":
                links.setdefault(_fdinfo(pid, fd, "link_id"), []).append(holder)
            elif target == "anon_inode:bpf-prog":
                programs.setdefault(_fdinfo(pid, fd, "prog_id"), []).append(holder)
            elif target.startswith("socket:["):
                inode = int(target[8:-1])
                if inode not in found and (seen := _af_xdp(inode, holder, fd, places)) is not None:
                    found[inode] = seen
    return links, programs, list(found.values())


def _pids() -> Iterator[int]:
    yield from sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        text = " ".join(word.decode(errors="replace") for word in words if word)[:200]
        # A process names itself as it likes: a terminal must not obey it.
        return "".join(letter if letter.isprintable() else " " for letter in text)
    except OSError:
        return ""


def _descriptors(pid: int) -> Iterator[tuple[int, str]]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return  # gone, or not ours to see
    for name in names:
        with contextlib.suppress(OSError):
            yield int(name), os.readlink(f"/proc/{pid}/fd/{name}")


def _fdinfo(pid: int, fd: int, key: str) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/fdinfo/{fd}") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == key:
                return int(value)
    return 0


def _af_xdp(inode: int, holder: Holder, fd: int, places: dict[int, tuple[int, int]]) -> SocketStatus | None:
    """Borrow the descriptor from its process and ask the socket what it is; None unless it is AF_XDP."""
    try:
        pidfd = os.pidfd_open(holder.pid)
    except OSError:
        return None
    try:
        borrowed = syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
    except OSError:
        return None
    finally:
        os.close(pidfd)
    with socket.socket(AF_XDP, socket.SOCK_RAW, 0, fileno=borrowed) as sock, contextlib.suppress(OSError):
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == AF_XDP:
            options = int.from_bytes(sock.getsockopt(SOL_XDP, XDP_OPTIONS, 4), "little")
            statistics = parse_statistics(sock.getsockopt(SOL_XDP, XDP_STATISTICS, 48))
            ifindex, queue = places.get(inode, (0, None))
            name = None
            with contextlib.suppress(OSError):
                name = socket.if_indextoname(ifindex) if ifindex else None
            zero_copy = bool(options & XDP_OPTIONS_ZEROCOPY)
            return SocketStatus(inode, holder, name, queue, zero_copy, statistics._asdict())
    return None


def _diag() -> dict[int, tuple[int, int]]:
    """Ask sock_diag where AF_XDP sockets are bound: inode -> (ifindex, queue). Empty where the kernel cannot say.

    linux/xdp_diag.h: struct xdp_diag_req, xdp_diag_msg, attribute XDP_DIAG_INFO (ifindex, queue_id).
    """
    family, request, dump, show_info, attribute_info = 4, 20, 0x301, 1, 0  # NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY
    places: dict[int, tuple[int, int]] = {}
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as asker:
        body = struct.pack("=BBHIIII", AF_XDP, 0, 0, 0, show_info, 0, 0)
        asker.send(struct.pack("=IHHII", 16 + len(body), request, dump, 1, 0) + body)
        while True:
            answer, at = asker.recv(65536), 0
            while at + 16 <= len(answer):
                length, kind = struct.unpack_from("=IH", answer, at)
                if kind != request:  # NLMSG_DONE, or NLMSG_ERROR: no such module
                    return places
                (inode,) = struct.unpack_from("=I", answer, at + 20)
                attribute = at + 32
                while attribute + 4 <= at + length:
                    size, name = struct.unpack_from("=HH", answer, attribute)
                    if name == attribute_info and size >= 12:
                        places[inode] = struct.unpack_from("=II", answer, attribute + 4)
                    attribute += max((size + 3) & ~3, 4)
                at += max((length + 3) & ~3, 16)
    return places
