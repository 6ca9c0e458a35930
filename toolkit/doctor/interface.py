# SPDX-License-Identifier: Apache-2.0
"""Check one interface: the features of its driver, its programs and sockets, and what keeps AF_XDP from working."""

from __future__ import annotations

import os
from collections.abc import Iterator

from toolkit.doctor.finding import Finding, note, ok, problem
from toolkit.doctor.forwarding import hidden_tags, joined_segments, surely_generic
from toolkit.doctor.status import Holder, Status, collect
from toolkit.doctor.system import older_than
from toolkit.errors import ToolkitError
from toolkit.net import netdev
from toolkit.net.device import LINK_HEADERS, Device, await_carrier, describe
from toolkit.net.ethtool import active_offloads
from toolkit.program import Attached, attached
from toolkit.program.replaced import as_text, left
from toolkit.umem.umem import LARGEST_FRAME, LONGEST_PACKET, frame_size_for, zero_copy_mtu

__all__ = ["examine_interface"]

_SEVERAL_BUFFERS = (6, 6)  # the first Linux with XDP_USE_SG
_SAYS_TAKEN = (6, 15)  # the first that says which queues AF_XDP sockets hold

# What these drivers receive has arrived on another interface before; by the names that they give themselves.
_STACKED = {
    "802.1Q VLAN Support": "a VLAN device",
    "bonding": "a bond",
    "bridge": "a bridge",
    "team": "a team",
    "macvlan": "a macvlan",
}


def examine_interface(name: str, *, wanted: bool) -> Iterator[Finding]:
    """Yield all findings about `name`. wanted: the user named it, so that being down is a problem."""
    device = describe(name)
    if wanted:  # a program that was just taken off may have taken the link down for a second
        device = await_carrier(device)
    yield from _state(device, wanted)
    if device.link != "Ethernet":
        yield _foreign(device, wanted)
        return
    yield from _driver(device)
    yield from _queues(device)
    yield from _mtu(device)
    yield from _offloads(device)
    yield from _occupied(device, wanted)
    yield from _not_back(device)
    yield from _deferral(device)


def _state(device: Device, wanted: bool) -> Iterator[Finding]:
    name, idle = device.name, problem if wanted else note
    if not device.up:
        yield idle(name, "state", "it is down: no socket can be bound to it (ENETDOWN)", f"ip link set dev {name} up")
    elif not device.running:
        remedy = "plug the cable in, or bring the other end up"
        yield idle(name, "state", "it is up, but has no carrier: nothing will arrive", remedy)
    else:
        yield ok(name, "state", "up, with a carrier")


def _foreign(device: Device, wanted: bool) -> Finding:
    """Return the one finding about a device whose packets do not begin with an Ethernet header."""
    text = f"its packets have no Ethernet header ({device.link}), so it cannot be opened: no filter would match"
    remedy = (
        f"open the interface below the tunnel (`ip -d link show {device.name}`); `tcpdump -i {device.name}` shows it"
    )
    return (problem if wanted else note)(device.name, "link", text, remedy)


def _driver(device: Device) -> Iterator[Finding]:
    name, driver = device.name, device.driver or "unknown"
    if driver in _STACKED:
        remedy = f"`ip -d link show {name}` names the interface below: open that one"
        yield note(name, "driver", f"{_STACKED[driver]} (driver {driver}): XDP works best on what is below it", remedy)
    else:
        yield ok(name, "driver", f"driver {driver}")
    able = netdev.abilities(device.ifindex)
    if able is None:
        text = "unknown whether XDP runs in the driver: the kernel does not say (Linux 6.3 and later do)"
        yield note(name, "xdp", text, 'open it once with `mode="native"`, which is refused where the driver has no XDP')
        return
    if able.features & netdev.NETDEV_XDP_ACT_BASIC:
        yield ok(name, "xdp", "native XDP: programs run in the driver")
    else:
        text = "no native XDP: programs run after the driver (generic mode), at a fraction of the speed"
        yield note(name, "xdp", text, "where the speed matters, use another NIC or driver")
    if able.features & netdev.NETDEV_XDP_ACT_XSK_ZEROCOPY:
        yield _zero_copy(device, able)
    else:
        yield note(
            name, "zero-copy", "no zero-copy: the kernel copies each packet once, which costs little at small rates"
        )


def _zero_copy(device: Device, able: netdev.Abilities) -> Finding:
    """Whether the MTU lets the driver have it: a packet must fit a frame, or as many as the driver can chain."""
    several = f", packets of up to {able.zc_max_segs} buffers" if able.zc_max_segs > 1 else ""
    most = zero_copy_mtu(LARGEST_FRAME, buffers=able.zc_max_segs)
    if device.mtu <= most:
        return ok(device.name, "zero-copy", f"the driver has zero-copy{several}")
    text = (
        f"the driver has zero-copy{several}, but not with MTU {device.mtu}: its packets do not fit a frame of "
        f"{LARGEST_FRAME} bytes; copy mode is used"
    )
    return note(device.name, "zero-copy", text, f"ip link set dev {device.name} mtu {most}")


def _queues(device: Device) -> Iterator[Finding]:
    name, cpus = device.name, len(os.sched_getaffinity(0))
    if device.queues == 1:
        yield ok(name, "queues", "1 receive queue")
        return
    text = f"{device.queues} receive queues: the NIC spreads packets over them by their flow (RSS), or by CPU"
    remedy = f"open all of them, which is the default; or make the NIC use the first only: `ethtool -X {name} equal 1`"
    if device.queues > cpus:
        text += f"; that is more than the {cpus} CPUs here"
        remedy = f"ethtool -L {name} {'combined' if device.paired else 'rx'} {cpus}"
    yield note(name, "queues", text, remedy)


def _mtu(device: Device) -> Iterator[Finding]:
    name, longest = device.name, device.longest
    if longest <= LONGEST_PACKET:
        size = frame_size_for(device.room)
        yield ok(name, "mtu", f"MTU {device.mtu}: packets fit frames of {size} bytes")
        return
    text = f"MTU {device.mtu}: packets longer than {LONGEST_PACKET} bytes do not fit a frame"
    remedy = f"ip link set dev {name} mtu {LONGEST_PACKET - LINK_HEADERS}"
    if older_than(*_SEVERAL_BUFFERS):
        yield problem(name, "mtu", f"{text} and are dropped, and some drivers refuse native XDP", remedy)
    else:
        text += "; they arrive in several where the driver can do that natively, but are not forwarded or answered"
        yield note(name, "mtu", text, remedy)


def _offloads(device: Device) -> Iterator[Finding]:
    name, found = device.name, 0
    active = active_offloads(name)
    for offload, switch, text in (
        ("rx-lro", "lro", "LRO joins packets before XDP could see them: drivers refuse native XDP with it"),
        ("rx-gro-hw", "rx-gro-hw", "the NIC joins packets (GRO in hardware): some drivers refuse native XDP with it"),
    ):
        if offload in active:
            found += 1
            fixed = 'it cannot be switched off here: take generic mode (`mode="generic"`), or set it in the hypervisor'
            yield note(name, "offloads", text, f"ethtool -K {name} {switch} off" if active[offload] else fixed)
    tags = list(hidden_tags(device, active))
    yield from tags
    if not found and not tags:
        yield ok(name, "offloads", "no offload that keeps XDP from working")
    if surely_generic(device):
        yield from joined_segments(device)
    if not device.on_a_wire:
        text = (
            "hosts that send into this device may leave TCP and UDP checksums to it. receive() and captures show such "
            "packets as they are; xsk forward, echo and send -r finish the checksums"
        )
        yield note(name, "checksums", text, "to have them finished at the sender: ethtool -K SENDER tx off")


def _occupied(device: Device, wanted: bool) -> Iterator[Finding]:
    """Yield what is there already: a program, sockets on the queues."""
    name = device.name
    try:
        present, seen = attached(device.ifindex), collect()
    except (ToolkitError, OSError) as refused:
        yield note(name, "program", f"unknown whether an XDP program is attached: {refused}", f"sudo xsk doctor {name}")
        return
    if present is None:
        yield ok(name, "program", "no XDP program is attached")
    else:
        yield _program(name, present, seen)
    yield from _sockets(device, seen, wanted)


def _program(name: str, present: Attached, seen: Status) -> Finding:
    if present.link_ids is None:
        return note(name, "program", f"an XDP program is attached: {present}", f"sudo xsk doctor {name}")
    if not present.link_ids:
        text = f"an XDP program is attached by netlink, as firewalls are, and stays until it is detached: {present}"
        remedy = (
            "to receive in its place, and put it back at the end: `replace=True`; if it is of no use any more, "
            f"`xsk detach {name}` says how to take it off"
        )
        return note(name, "program", text, remedy)
    who = {holder for one in seen.interfaces if one.interface == name for holder in one.holders}
    held = ", ".join(_who(holder) for holder in sorted(who, key=lambda holder: holder.pid))
    text = f"an XDP program is attached: {present} ({held or 'pinned, or of a process that we cannot see'})"
    return note(name, "program", text, f"end that process; `xsk detach {name}` says how to take it off without that")


def _sockets(device: Device, seen: Status, wanted: bool) -> Iterator[Finding]:
    """Which queues are taken, and by whom, as far as this kernel says so."""
    name, remedy = device.name, "end that process, or open other queues"
    here = [one for one in seen.sockets if one.interface == name and one.queue is not None]
    for one in here:
        text = f"queue {one.queue} is taken by an AF_XDP socket of {_who(one.holder)}"
        yield note(name, "sockets", text, remedy)
    if here:
        return
    taken = netdev.taken_queues(device.ifindex, device.queues)
    somewhere = {one.holder for one in seen.sockets if one.interface is None and one.holder is not None}
    attached_here = {holder for one in seen.interfaces if one.interface == name for holder in one.holders}
    likely = somewhere & attached_here
    held = "; ".join(_who(holder) for holder in sorted(likely or somewhere, key=lambda holder: holder.pid))
    if taken:
        which = f"queue{'s' if len(taken) > 1 else ''} {', '.join(map(str, taken))}: taken by an AF_XDP socket"
        whose = "whose program is attached here" if likely else "by one of these, the kernel does not say which"
        yield note(name, "sockets", f"{which}, {whose}: {held or 'none that we can see'}", remedy)
    elif wanted and held and (older_than(*_SAYS_TAKEN) or not device.up):
        text = f"AF_XDP sockets are open, and this kernel does not say on which queues: {held}"
        yield note(name, "sockets", text, "end those processes if a queue of this interface is busy (EBUSY)")


def _who(holder: Holder | None) -> str:
    if holder is None:
        return "a process that we cannot see"
    return f"pid {holder.pid}, {holder.command[:60]}"


def _not_back(device: Device) -> Iterator[Finding]:
    """Yield programs that were replaced, and not restored though the other program is gone."""
    for record in left():
        if record.ifindex == device.ifindex and not record.alive:
            text = f"{as_text(record)} was attached here; a process took its place, and ended without putting it back"
            yield problem(device.name, "replaced", text, f"xsk detach {device.name}")


def _deferral(device: Device) -> Iterator[Finding]:
    """Yield interrupts that a killed process of this toolkit had deferred for busy-polling."""
    from toolkit.net import napi

    try:
        found = [one for one in napi.leftovers() if one.ifindex == device.ifindex]
    except (ToolkitError, OSError):
        return  # only root can have left any, and only root may read them
    for one in found:
        text = f"interrupts are still deferred by a process that is gone: {napi.as_text(one)}"
        yield problem(device.name, "napi", text, f"xsk detach {device.name}")
