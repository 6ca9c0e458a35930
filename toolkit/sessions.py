# SPDX-License-Identifier: Apache-2.0
"""The TCP sessions that this process hangs on: those of its ancestors, such as the sshd that somebody came in through.

The environment says nothing reliable (sudo strips SSH_CONNECTION). The sockets do: whoever started us holds one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Path", "Session", "Sessions", "ancestors", "of_ancestors", "way_of"]

_ESTABLISHED = 1  # net/tcp_states.h
# A terminal multiplexer runs our shell, but its clients are in the sessions (comm of the server: comm of a client).
_MULTIPLEXERS = {"tmux: server": "tmux: client", "screen": "screen"}
_STACKED = {"vlan", "macvlan", "ipvlan"}  # kinds whose packets cross the device below as they are
_TUNNELS = {
    *("wireguard", "tun", "vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl", "vti"),
    *("vti6", "xfrm", "erspan", "l2tp", "ppp"),
}


class Session(NamedTuple):
    """An established TCP connection that an ancestor of this process holds."""

    local: str  # addresses as text; IPv4 also where the socket is an IPv6 one
    local_port: int
    peer: str
    peer_port: int
    pid: int
    command: str  # of that process, as /proc/PID/comm has it


class Sessions(NamedTuple):
    """What was found, and what could not be looked at."""

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
    table = dict(_established())
    found: dict[tuple[Any, ...], Session] = {}
    hidden = []
    for pid in _with_clients(ancestors()):
        command = _command(pid)
        try:
            inodes = list(_sockets(pid))
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
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as netlink:
        links = {link["index"]: _Link.of(link) for link in netlink.get_links()}
        tops = [a["index"] for a in netlink.get_addr() if _same(a.get_attr("IFA_LOCAL"), a, session.local)]
        hop, out = session.peer, 0
        with contextlib.suppress(NetlinkError, OSError):
            scoped = {"oif": tops[0]} if tops and ipaddress.ip_address(session.peer).is_link_local else {}
            (route,) = netlink.route("get", dst=session.peer, **scoped)
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


class _Link(NamedTuple):
    """What matters of a link message."""

    name: str
    kind: str
    mac: str
    lower: int  # of a VLAN and the like; 0 where it is elsewhere
    master: int
    vlan: int | None
    tunnel: bool

    @classmethod
    def of(cls, message: Any) -> _Link:
        info = message.get_attr("IFLA_LINKINFO")
        kind = str((info and info.get_attr("IFLA_INFO_KIND")) or "")
        data = info.get_attr("IFLA_INFO_DATA") if info and kind == "vlan" else None
        elsewhere = message.get_attr("IFLA_LINK_NETNSID") is not None
        return cls(
            str(message.get_attr("IFLA_IFNAME")),
            kind,
            str(message.get_attr("IFLA_ADDRESS") or ""),
            0 if elsewhere else int(message.get_attr("IFLA_LINK") or 0),
            int(message.get_attr("IFLA_MASTER") or 0),
            int(data.get_attr("IFLA_VLAN_ID")) if data else None,
            kind in _TUNNELS,
        )


def _descend(index: int, tags: tuple[int, ...], links: dict[int, _Link], carriers: dict[str, tuple[int, ...]]) -> None:
    """Note the link and those below it, with the VLAN tags that packets have there."""
    link = links.get(index)
    if link is None or link.name in carriers:
        return
    carriers[link.name] = tags
    if link.kind in _STACKED and link.lower:
        _descend(link.lower, tags if link.vlan is None else (link.vlan, *tags), links, carriers)
    for number, other in links.items():
        if other.master == index:
            _descend(number, tags, links, carriers)


def _same(address: str | None, message: Any, wanted: str) -> bool:
    found = address or message.get_attr("IFA_ADDRESS")  # IPv6 has no IFA_LOCAL unless it is point to point
    return found is not None and ipaddress.ip_address(found) == ipaddress.ip_address(wanted)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().rstrip("\n")
    except OSError:
        return "?"


def _with_clients(pids: list[int]) -> list[int]:
    """Add the clients of a terminal multiplexer that is among `pids`, and their ancestors."""
    clients = {_MULTIPLEXERS[name] for name in map(_command, pids) if name in _MULTIPLEXERS}
    if not clients:
        return pids
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and _command(int(name)) in clients]
    return list(dict.fromkeys([*pids, *(one for pid in others for one in ancestors(pid))]))


def _sockets(pid: int) -> Iterator[int]:
    """Inodes of the sockets that a process has open. PermissionError where it is not for us to see."""
    place = f"/proc/{pid}/fd"
    try:
        names = os.listdir(place)
    except (FileNotFoundError, ProcessLookupError):
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            target = os.readlink(f"{place}/{name}")
            if target.startswith("socket:["):
                yield int(target[8:-1])


def _established() -> Iterator[tuple[int, tuple[str, int, str, int]]]:
    """(inode, (local address, port, peer's address, port)) of the namespace's established TCP connections."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/thread-self/net/{name}") as table:
            next(table)
            for line in table:
                fields = line.split()
                if int(fields[3], 16) == _ESTABLISHED:
                    yield int(fields[9]), (*_endpoint(fields[1]), *_endpoint(fields[2]))


def _endpoint(text: str) -> tuple[str, int]:
    """Address and port of "0100007F:0016": words in the machine's byte order, the port as a number."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    parsed = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed), int(port, 16)
