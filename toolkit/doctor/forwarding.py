# SPDX-License-Identifier: Apache-2.0
"""Find what forwarded packets lose to offloads of the interface on which they arrive: VLAN tags, segments."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.doctor.finding import Finding, note
from toolkit.net import netdev
from toolkit.net.device import Device
from toolkit.net.ethtool import active_offloads

__all__ = ["hidden_tags", "joined_segments", "lost_when_forwarded", "surely_generic"]


def lost_when_forwarded(device: Device, *, generic: bool) -> Iterator[Finding]:
    """Yield all that gets lost, in the calling thread's network namespace. generic: the program runs in generic "
    "mode."""
    active = active_offloads(device.name)
    yield from hidden_tags(device, active)
    if generic:
        yield from joined_segments(device)


def hidden_tags(device: Device, active: dict[str, bool]) -> Iterator[Finding]:
    """Yield whether VLAN tags travel beside the packet. active: what active_offloads() returns."""
    if "rx-vlan-hw-parse" not in active:
        return
    name = device.name
    text = (
        "the XDP program does not see VLAN tags that the NIC or the sender has taken off, and packets that are "
        "forwarded or answered lose them"
    )
    if device.driver == "veth":
        text += "; on a veth the other end takes them off (`ethtool -K PEER txvlan off` there)"
    fixed = "it cannot be switched off here: set it in the hypervisor"
    yield note(name, "offloads", text, f"ethtool -K {name} rxvlan off" if active["rx-vlan-hw-parse"] else fixed)


def joined_segments(device: Device) -> Iterator[Finding]:
    """Yield that generic mode gets TCP segments that were joined on the way to it, or never cut."""
    name = device.name
    text = (
        "in generic mode TCP segments arrive joined, by GRO or by a sender on this machine (TSO). Such packets are "
        "longer than a frame, and are dropped: TCP connections that are forwarded stall"
    )
    remedy = f"native mode; or `ethtool -K {name} gro off lro off`"
    if device.driver == "veth":
        remedy = f"native mode; or `ethtool -K {name} gro off`, and at the other end `ethtool -K PEER tso off gso off`"
    yield note(name, "segments", text, remedy)


def surely_generic(device: Device) -> bool:
    """Whether the kernel says that the driver has no native XDP."""
    able = netdev.abilities(device.ifindex)
    return able is not None and not able.features & netdev.NETDEV_XDP_ACT_BASIC
