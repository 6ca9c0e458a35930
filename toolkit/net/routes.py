# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows of addresses: those of an interface, and the MAC address of the next hop to somewhere."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from typing import Any, NamedTuple

from toolkit._base.netns import NetNS, entered
from toolkit.errors import ArgumentError, ToolkitError, kernel_error

__all__ = ["NextHop", "next_hop", "own_addresses"]

_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT: the MAC address is good


class NextHop(NamedTuple):
    """Where packets to an address go first, and the address that this host would send them from ("" if none)."""

    mac: str
    source: str


def own_addresses(ifindex: int, netns: NetNS) -> list[str]:
    """Return the IPv4 and IPv6 addresses of an interface, as text."""
    found = []
    with _netlink(netns, "cannot ask for the addresses of the interface") as netlink:
        for message in netlink.get_addr(index=ifindex):
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if address:
                found.append(str(address))
    return found


def next_hop(interface: str, ifindex: int, target: str, netns: NetNS) -> NextHop:
    """Look `target` up in the kernel's routes and neighbours on `interface`. ToolkitError when it is in neither."""
    try:
        ipaddress.ip_address(target)
    except ValueError as refused:
        raise ArgumentError(f"{refused}. Next step: give an address such as 192.0.2.1 or 2001:db8::1.") from None
    with _netlink(netns, f"cannot find the way to {target} on {interface}") as netlink:
        (route,) = netlink.route("get", dst=target, oif=ifindex)
        hop = route.get_attr("RTA_GATEWAY") or target
        source = str(route.get_attr("RTA_PREFSRC") or "")
        family = 10 if ":" in hop else 2  # AF_INET6, AF_INET
        for message in netlink.get_neighbours(family=family, ifindex=ifindex):
            mac = message.get_attr("NDA_LLADDR")
            if message.get_attr("NDA_DST") == hop and mac and message["state"] & _KNOWN:
                return NextHop(str(mac), source)
    through = "" if hop == target else f", the gateway to {target},"
    raise ToolkitError(
        f"cannot send to {target} from {interface}: the kernel does not know the MAC address of {hop}{through} and "
        f"AF_XDP does not ask for it. Next step: `ping -c 1 -I {interface} {hop}` makes it known; or give --eth-dst."
    )


@contextlib.contextmanager
def _netlink(netns: NetNS, tried: str) -> Iterator[Any]:
    """An rtnetlink socket in the namespace; refusals inside the block become our exceptions."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with entered(netns), IPRoute() as netlink:
        try:
            yield netlink
        except NetlinkError as refused:
            raise kernel_error("netlink", refused.code, tried) from refused
