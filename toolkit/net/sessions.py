# SPDX-License-Identifier: Apache-2.0
"""The TCP sessions that this process depends on: those of its ancestors, such as the sshd of the user's login.

The environment is not reliable (sudo removes SSH_CONNECTION). The sockets are: an ancestor holds one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from typing import Any, NamedTuple

from toolkit.net.reach import STACKED, NetworkLink
from toolkit.net.routes import held_address, route_to, rtnetlink
from toolkit.net.sockets import command_of, endpoints, sockets_of

__all__ = ["Path", "Session", "Sessions", "ancestors", "of_ancestors", "way_of"]

# A terminal multiplexer runs our shell, but its clients are in the sessions (comm of the server: comm of a client).
_MULTIPLEXERS = {"tmux: server": "tmux: client", "screen": "screen"}


class Session(NamedTuple):
    """An established TCP connection that an ancestor of this process holds."""

    local: str  # addresses as text; IPv4 also where the socket is an IPv6 one
    local_port: int
    peer: str
    peer_port: int
    pid: int
    command: str  # of that process, as /proc/PID/comm has it


class Sessions(NamedTuple):
    """The sessions that were found, and the processes that could not be examined."""

    found: tuple[Session, ...]
    hidden: tuple[str, ...]  # commands of ancestors whose sockets this process may not see


class Path(NamedTuple):
    """How the packets of a session arrive."""

    carriers: dict[str, tuple[int, ...]]  # interface: VLAN ids that the packets have there, outermost first
    mac: str  # they are addressed to
    hop: str  # address of the neighbour that they come from: the peer itself, or a gateway
    hop_mac: str  # "" where the kernel does not know it
    tunnel: str  # the interface through which they come in another packet's inside; "" where there is none


def ancestors(pid: int | None = None) -> list[int]:
    """The process (by default this one), its parent, and so on to the first of all."""
    found = []
    current = os.getpid() if pid is None else pid
    while current > 0 and current not in found:
        found.append(current)
        try:
            with open(f"/proc/{current}/stat", "rb") as stat:
                # The command stands in brackets and may have anything in it; the state and the parent follow.
                current = int(stat.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return found


def of_ancestors() -> Sessions:
    """The sessions of this process's ancestors in the calling thread's network namespace."""
    table = {
        one.inode: (one.local, one.port, one.peer, one.peer_port)
        for one in endpoints()
        if one.kind == "tcp" and one.peer
    }
    found: dict[tuple[Any, ...], Session] = {}
    hidden = []
    for pid in _with_clients(ancestors()):
        command = command_of(pid)
        try:
            inodes = list(sockets_of(pid))
        except PermissionError:
            hidden.append(command)
            continue
        for inode in inodes:
            if inode in table:
                found.setdefault(table[inode], Session(*table[inode], pid, command))
    return Sessions(tuple(found.values()), tuple(hidden))


def way_of(session: Session) -> Path:
    """Through which interfaces the session's packets come in, in the calling thread's network namespace.

    The interface that has the local address counts, and the one that the route to the peer goes out of; and of VLANs,
    bridges and bonds those below. An interface that cannot be told is none.
    """
    with rtnetlink(f"cannot find out how the session with {session.peer} comes in") as netlink:
        links = {link["index"]: NetworkLink.of(link) for link in netlink.get_links()}
        tops = [one["index"] for one in netlink.get_addr() if _same(held_address(one), session.local)]
        hop, out = session.peer, 0
        with contextlib.suppress(OSError):
            link_local = ipaddress.ip_address(session.peer).is_link_local
            route = route_to(netlink, session.peer, tops[0] if tops and link_local else None)
            hop, out = route.get_attr("RTA_GATEWAY") or hop, route.get_attr("RTA_OIF") or 0
        neighbours = {
            str(one.get_attr("NDA_DST")): str(one.get_attr("NDA_LLADDR") or "")
            for one in (netlink.get_neighbours(ifindex=out) if out else ())
        }
    carriers: dict[str, tuple[int, ...]] = {}
    starts = dict.fromkeys([*tops, out] if out else tops)
    for index in starts:
        _descend(index, (), links, carriers)
    macs = [links[index].mac for index in (out, *tops) if index in links and links[index].mac]
    tunnel = next((one.name for name in carriers for one in links.values() if one.name == name and one.tunnel), "")
    return Path(carriers, macs[0] if macs else "", str(hop), neighbours.get(str(hop), ""), tunnel)


def _descend(
    index: int, tags: tuple[int, ...], links: dict[int, NetworkLink], carriers: dict[str, tuple[int, ...]]
) -> None:
    """Note the link and those below it, with the VLAN tags that packets have there."""
    link = links.get(index)
    if link is None or link.name in carriers:
        return
    carriers[link.name] = tags
    if link.kind in STACKED and link.lower:
        _descend(link.lower, tags if link.vlan is None else (link.vlan, *tags), links, carriers)
    for number, other in links.items():
        if other.master == index:
            _descend(number, tags, links, carriers)


def _same(one: str, other: str) -> bool:
    return bool(one) and ipaddress.ip_address(one) == ipaddress.ip_address(other)


def _with_clients(pids: list[int]) -> list[int]:
    """Add the clients of a terminal multiplexer that is among `pids`, and their ancestors."""
    clients = {_MULTIPLEXERS[name] for name in map(command_of, pids) if name in _MULTIPLEXERS}
    if not clients:
        return pids
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and command_of(int(name)) in clients]
    return list(dict.fromkeys([*pids, *(one for pid in others for one in ancestors(pid))]))
