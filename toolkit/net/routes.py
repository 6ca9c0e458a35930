# SPDX-License-Identifier: Apache-2.0
"""rtnetlink, by pyroute2: addresses of interfaces, routes, and the MAC address of the next hop to somewhere."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from typing import Any, NamedTuple

from toolkit._base.netns import NetNS, entered
from toolkit.errors import ArgumentError, ToolkitError, kernel_error

__all__ = ["NUD_KNOWN", "NextHop", "held_address", "next_hop", "own_addresses", "route_to", "rtnetlink"]

NUD_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT: the MAC address is good


@contextlib.contextmanager
def rtnetlink(tried: str) -> Iterator[Any]:
    """Open pyroute2's IPRoute in the calling thread's network namespace, for the length of a `with` block.

    A refusal of the kernel inside the block becomes a SystemCallError, "<tried>: …". Not within an asyncio event loop,
    in which pyroute2 0.9 refuses to work: see lab.Namespace.call().
    """
    from pyroute2 import IPRoute

    with IPRoute() as netlink, _explained(tried):
        yield netlink


def _leads_to(netlink: Any, family: int, ifindex: int, target: str) -> bool:
    """Whether a route of this interface covers `target`: route_to() finds a way also where there is none."""
    for route in netlink.get_routes(family=family):
        outs = [route.get_attr("RTA_OIF"), *(hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ())]
        net = f"{route.get_attr('RTA_DST') or ('::' if family == 10 else '0.0.0.0')}/{route['dst_len']}"
        if ifindex in outs and ipaddress.ip_address(target) in ipaddress.ip_network(net, strict=False):
            return True
    return False


@contextlib.contextmanager
def _explained(tried: str) -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as refused:
        raise kernel_error("netlink", refused.code, tried) from refused


def route_to(netlink: Any, address: str, oif: int | None = None) -> Any:
    """Return the route message for packets to `address`, out of interface `oif` if given. SystemCallError: none."""
    with _explained(f"cannot find the way to {address}"):
        (route,) = netlink.route("get", dst=address, **({} if oif is None else {"oif": oif}))
        return route


def held_address(message: Any) -> str:
    """Return the address that an interface holds, of an address message. IPv6 has IFA_LOCAL on point-to-point only."""
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") or "")


class NextHop(NamedTuple):
    """Where packets to an address go first, and the address that this host would send them from ("" if none)."""

    mac: str
    source: str


def own_addresses(ifindex: int, netns: NetNS) -> list[str]:
    """Return the IPv4 and IPv6 addresses of an interface, as text."""
    with entered(netns), rtnetlink("cannot ask for the addresses of the interface") as netlink:
        found = [held_address(message) for message in netlink.get_addr(index=ifindex)]
    return [address for address in found if address]


def next_hop(interface: str, ifindex: int, target: str, netns: NetNS) -> NextHop:
    """Look `target` up in the kernel's routes and neighbours on `interface`. ToolkitError when it is in neither."""
    try:
        ipaddress.ip_address(target)
    except ValueError as refused:
        raise ArgumentError(f"{refused}. Next step: give an address such as 192.0.2.1 or 2001:db8::1.") from None
    with entered(netns), rtnetlink(f"cannot find the way to {target} on {interface}") as netlink:
        route = route_to(netlink, target, ifindex)
        hop = route.get_attr("RTA_GATEWAY") or target
        source = str(route.get_attr("RTA_PREFSRC") or "")
        family = 10 if ":" in hop else 2  # AF_INET6, AF_INET
        for message in netlink.get_neighbours(family=family, ifindex=ifindex):
            mac = message.get_attr("NDA_LLADDR")
            if message.get_attr("NDA_DST") == hop and mac and message["state"] & NUD_KNOWN:
                return NextHop(str(mac), source)
        routed = _leads_to(netlink, family, ifindex, target)
    if not routed:  # the kernel takes it for a neighbour all the same, and nobody would answer its questions
        raise ToolkitError(
            f"cannot send to {target} from {interface}: no route to it leads out there, and AF_XDP does not "
            "ask for MAC addresses. Next step: give that of the next hop, `eth_dst=...`; or add a route, "
            f"`ip route add {target} via GATEWAY dev {interface}`."
        )
    through = "" if hop == target else f", the gateway to {target},"
    raise ToolkitError(
        f"cannot send to {target} from {interface}: the kernel does not know the MAC address of {hop}{through} and "
        f"AF_XDP does not ask for it. Next step: `ping -c 1 -I {interface} {hop}` makes it known; or give "
        "`eth_dst=...`."
    )
