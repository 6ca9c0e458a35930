# SPDX-License-Identifier: Apache-2.0
"""The hosts that an interface connects this host with: devices above it, their addresses, neighbours and gateways."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from typing import Any, NamedTuple

from toolkit.net.routes import NUD_KNOWN, held_address, route_to, rtnetlink
from toolkit.net.sockets import address_of

__all__ = ["STACKED", "Lane", "NetworkLink", "lanes"]

STACKED = {"vlan", "macvlan", "macvtap", "ipvlan"}  # kinds whose packets cross the device below as they are
_TUNNELS = {
    *("wireguard", "tun", "vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl", "vti"),
    *("vti6", "xfrm", "erspan", "l2tp", "ppp"),
}
_IFF_LOOPBACK, _IFF_NOARP = 0x8, 0x80  # linux/if.h
_IFA_F_PERMANENT = 0x80  # linux/if_addr.h
# In which every host is: 224.0.0.1 as /proc/net/igmp has it here, ff01::1, ff02::1, those for neighbour discovery.
_ALL_HOSTS = f"{int.from_bytes(bytes((224, 0, 0, 1)), sys.byteorder):08X}"
_ALL_NODES = (f"ff01{'0' * 27}1", f"ff02{'0' * 27}1", f"ff02{'0' * 18}1ff")
_BEYOND = ("198.51.100.1", "2000::1")  # somewhere else: where is the way there?


class NetworkLink(NamedTuple):
    """What matters of a link message."""

    name: str
    kind: str
    mac: str
    lower: int  # of a VLAN and the like; 0 where it is elsewhere
    master: int
    vlan: int | None
    tunnel: bool
    flags: int = 0

    @classmethod
    def of(cls, message: Any) -> NetworkLink:
        """Read one message of `IPRoute.get_links()`."""
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
            int(message["flags"]),
        )


class Lane(NamedTuple):
    """A device that packets from the interface get to: itself, or a VLAN, bridge or bond that stands on it."""

    name: str
    mac: str
    tags: tuple[int, ...]  # VLAN ids that its packets have on the interface, outermost first
    resolves: bool  # by ARP and neighbour discovery
    addresses: dict[str, int]  # this host's, with the length of the prefix
    leased: tuple[str, ...]  # those of IPv4 that end unless somebody renews them
    neighbours: dict[str, str]  # address: MAC
    gateways: tuple[str, ...]  # to anywhere else
    groups: tuple[str, ...] = ()  # multicast groups that somebody here has joined, but those that every host is in
    loopback: bool = False  # this host sends to itself there


def lanes(interface: str) -> list[Lane]:
    """Where packets that arrive at `interface` go, in the calling thread's network namespace; [] if there is none."""
    with rtnetlink(f"cannot find out whom {interface} connects this host with") as netlink:
        links = {link["index"]: NetworkLink.of(link) for link in netlink.get_links()}
        start = next((index for index, link in links.items() if link.name == interface), 0)
        above: dict[int, tuple[int, ...]] = {}
        _ascend(start, (), links, above)
        groups = _groups() if above else {}
        held: dict[int, list[Any]] = {}
        for message in netlink.get_addr() if above else ():
            held.setdefault(message["index"], []).append(message)
        gateways: dict[int, list[str]] = {}
        for beyond in _BEYOND if above else ():
            with contextlib.suppress(OSError, ValueError):
                route = route_to(netlink, beyond)
                out, hop = route.get_attr("RTA_OIF"), route.get_attr("RTA_GATEWAY")
                if out in above and hop:
                    gateways.setdefault(out, []).append(str(hop))
        found = [
            _lane(links[index], tags, held.get(index, []), netlink.get_neighbours(ifindex=index), gateways.get(index))
            for index, tags in above.items()
        ]
    found = [lane._replace(groups=tuple(groups.get(lane.name, ()))) for lane in found]
    return found + _everywhere(links, held, above, start)


def _lane(link: NetworkLink, tags: tuple[int, ...], held: list[Any], entries: Any, gateways: list[str] | None) -> Lane:
    known = {
        str(entry.get_attr("NDA_DST")): str(entry.get_attr("NDA_LLADDR"))
        for entry in entries
        if entry["state"] & NUD_KNOWN and entry.get_attr("NDA_LLADDR") and entry.get_attr("NDA_DST")
    }
    neighbours = {text: mac for text, mac in known.items() if not ipaddress.ip_address(text).is_multicast}
    addresses = {held_address(message): int(message["prefixlen"]) for message in held}
    passing = (held_address(one) for one in held if not one["flags"] & _IFA_F_PERMANENT)
    leased = tuple(address for address in passing if ":" not in address)
    loopback = bool(link.flags & _IFF_LOOPBACK)
    resolves = not loopback and not link.flags & _IFF_NOARP
    return Lane(
        *(link.name, link.mac, tags, resolves, addresses, leased, neighbours, tuple(gateways or ())), loopback=loopback
    )


def _everywhere(
    links: dict[int, NetworkLink], held: dict[int, list[Any]], above: dict[int, tuple[int, ...]], start: int
) -> list[Lane]:
    """Addresses that are reached through any device: of lo (but for loopback) and of dummies; through lo all others."""
    if not start:
        return []
    here, loopback = links[start], bool(links[start].flags & _IFF_LOOPBACK)
    found: dict[str, int] = {}
    for index, messages in held.items():
        if index not in above and (loopback or links[index].flags & _IFF_LOOPBACK or links[index].kind == "dummy"):
            for address in map(ipaddress.ip_address, map(held_address, messages)):
                if not address.is_loopback and (loopback or not address.is_link_local):
                    found[str(address)] = address.max_prefixlen
    return [Lane(here.name, here.mac, (), False, found, (), {}, (), loopback=loopback)] if found else []


def _groups() -> dict[str, list[str]]:
    """Multicast groups by interface, of /proc/net/igmp and igmp6."""
    found: dict[str, list[str]] = {}
    name = ""
    with contextlib.suppress(FileNotFoundError), open("/proc/thread-self/net/igmp") as table:
        next(table)
        for line in table:
            fields = line.split()
            if not line[0].isspace():
                name = fields[1].rstrip(":")
            elif fields[0] != _ALL_HOSTS:
                found.setdefault(name, []).append(address_of(fields[0]))
    with contextlib.suppress(FileNotFoundError), open("/proc/thread-self/net/igmp6") as table:
        for line in table:
            _, name, group, *_ = line.split()
            if not group.startswith(_ALL_NODES):
                found.setdefault(name, []).append(str(ipaddress.IPv6Address(bytes.fromhex(group))))
    return found


def _ascend(
    index: int, tags: tuple[int, ...], links: dict[int, NetworkLink], above: dict[int, tuple[int, ...]]
) -> None:
    """Note the link and those that stand on it, with the VLAN tags that their packets have on the first."""
    link = links.get(index)
    if link is None or index in above:
        return
    above[index] = tags
    if link.master:
        _ascend(link.master, tags, links, above)
    for number, other in links.items():
        if other.kind in STACKED and other.lower == index:
            _ascend(number, tags if other.vlan is None else (*tags, other.vlan), links, above)
