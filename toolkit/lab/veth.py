# SPDX-License-Identifier: Apache-2.0
"""connect(): make a veth pair between two namespaces, with addresses, without other traffic, ready to carry packets."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from toolkit.abi.libbpf import XdpQueryOpts, libbpf
from toolkit.errors import ToolkitError, explained
from toolkit.lab.namespace import Namespace
from toolkit.net import ethtool
from toolkit.net.routes import rtnetlink

__all__ = ["End", "connect", "counters", "delete", "has_ip6", "revive", "takes_live_frames"]

IFA_F_NODAD = 0x02  # linux/if_addr.h
NUD_PERMANENT = 0x80  # linux/neighbour.h
_READY_SECONDS = 5.0

# So that a test sees its own packets only: no router solicitations, no autoconfiguration, no duplicate address
# detection, no link-local addresses of the kernel's own making.
_QUIET = {
    "disable_ipv6": 0,  # as a machine may have it for every new interface
    "accept_dad": 0,
    "dad_transmits": 0,
    "router_solicitations": 0,
    "accept_ra": 0,
    "autoconf": 0,
    "addr_gen_mode": 1,
    "keep_addr_on_down": 1,
}


@dataclass(frozen=True)
class End:
    """One end of the pair: where it is and how it is addressed."""

    namespace: Namespace
    name: str
    mac: str
    ip: str
    ip6: str


@explained("cannot connect the namespaces of a lab")
def connect(near: End, far: End, *, queues: int, mtu: int, neighbours: bool, offloads: bool) -> None:
    """Make the pair and bring it up.

    With `neighbours` both ends know each other's MAC address for good and neither ARP, neighbour discovery nor
    multicast reports are on the wire. Without `offloads` packets cross as they would cross a cable.
    """
    # pyroute2 0.9 stands on asyncio and refuses to run inside another event loop, which a notebook has: a new thread
    # has none. `far` is made in its namespace, `near` moved to its own at birth.
    far.namespace.call(lambda: _create(near, far, queues, mtu))
    for end in (far, near):
        end.namespace.call(functools.partial(_raise, end, offloads, neighbours))
    for end, other in ((far, near), (near, far)):
        end.namespace.call(functools.partial(_address, end, other, neighbours))


def revive(near: End, far: End, *, neighbours: bool) -> None:
    """Bring `near` up again after it was down, which made the kernel forget its neighbours."""
    near.namespace.call(functools.partial(ethtool.set_up, near.name))
    for end, other in ((far, near), (near, far)):
        end.namespace.call(functools.partial(_introduce, end, other, neighbours))


def delete(end: End) -> None:
    """Delete an interface, and with it its peer. One that is gone already is fine."""

    def remove() -> None:
        with rtnetlink(f"cannot delete {end.name}") as netlink:
            for index in netlink.link_lookup(ifname=end.name):
                netlink.link("del", index=index)

    end.namespace.call(remove)


def _create(near: End, far: End, queues: int, mtu: int) -> None:
    size = {"num_rx_queues": queues, "num_tx_queues": queues, "mtu": mtu}
    peer = {"ifname": near.name, "address": near.mac, "net_ns_fd": near.namespace.fileno(), **size}
    with rtnetlink(f"cannot make a veth pair with {queues} queues and an MTU of {mtu}") as netlink:
        netlink.link("add", ifname=far.name, kind="veth", address=far.mac, peer=peer, **size)


def has_ip6(name: str) -> bool:
    """Whether the kernel has IPv6 on an interface: not below an MTU of 1280, nor where it was booted without."""
    return os.path.exists(f"/proc/sys/net/ipv6/conf/{name}")


def _raise(end: End, offloads: bool, neighbours: bool) -> None:
    for key, value in _QUIET.items():
        # A kernel without IPv6, or without one of these, has nothing to be silenced.
        with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{end.name}/{key}", "w") as setting:
            setting.write(str(value))
    if not offloads:
        ethtool.offloads_off(end.name)
    # An interface without ARP does not join the multicast groups of its IPv6 addresses, so the kernel sends no
    # multicast listener reports. Clearing the flag later would make it join and report, so it stays.
    ethtool.set_up(end.name, arp=not neighbours)


def _address(end: End, other: End, neighbours: bool) -> None:
    with rtnetlink(f"cannot give {end.name} its addresses") as netlink:
        index = socket.if_nametoindex(end.name)
        netlink.addr("add", index=index, address=end.ip, prefixlen=24)
        if has_ip6(end.name):
            netlink.addr("add", index=index, family=socket.AF_INET6, address=end.ip6, prefixlen=64, flags=IFA_F_NODAD)
    _introduce(end, other, neighbours)


def _introduce(end: End, other: End, neighbours: bool) -> None:
    """Wait until `end` can send, and set the MAC address of `other` as its neighbour's."""
    with rtnetlink(f"cannot tell {end.name} its neighbours") as netlink:
        index = socket.if_nametoindex(end.name)
        _wait_ready(netlink, index, end.name)
        peers = ((socket.AF_INET, other.ip), (socket.AF_INET6, other.ip6)) if neighbours else ()
        for family, address in peers if has_ip6(end.name) else peers[:1]:
            netlink.neigh("replace", family=family, dst=address, lladdr=other.mac, ifindex=index, state=NUD_PERMANENT)


def _wait_ready(netlink: Any, index: int, name: str) -> None:
    """Wait until the kernel has noticed the carrier: what is sent before that is lost."""
    deadline = time.monotonic() + _READY_SECONDS
    while netlink.get_links(index)[0].get_attr("IFLA_OPERSTATE") != "UP":
        if time.monotonic() > deadline:
            raise ToolkitError(
                f"{name} has no carrier after {_READY_SECONDS} s. "
                "Likely cause: its peer is down, or the machine is very busy. Next step: try again"
            )
        time.sleep(0.0005)


def counters(namespace: Namespace, name: str) -> dict[str, int]:
    """The kernel's counters of an interface (struct rtnl_link_stats64): rx_packets, rx_dropped, tx_packets, ..."""

    def read() -> dict[str, int]:
        with rtnetlink(f"cannot read the counters of {name}") as netlink:
            return dict(netlink.link("get", index=socket.if_nametoindex(name))[0].get_attr("IFLA_STATS64"))

    return namespace.call(read)


def takes_live_frames(namespace: Namespace, name: str) -> bool:
    """Whether a veth polls its ring, the only way for XDP frames to get in: natively attached program, or GRO."""

    def read() -> bool:
        options = XdpQueryOpts(sz=ctypes.sizeof(XdpQueryOpts))
        status = libbpf().bpf_xdp_query(socket.if_nametoindex(name), 0, ctypes.byref(options))
        return (status == 0 and options.drv_prog_id != 0) or ethtool.gro(name)

    return namespace.call(read)
