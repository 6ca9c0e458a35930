# SPDX-License-Identifier: Apache-2.0
"""Device: describe a network interface, by ioctl: fast, and correct in any network namespace (unlike /sys)."""

from __future__ import annotations

import contextlib
import errno
import re
import struct
import time
from collections.abc import Iterable
from typing import Literal, NamedTuple

from toolkit._base.arguments import cannot_be, whole
from toolkit._base.uninterrupted import interrupted
from toolkit.errors import ArgumentError, kernel_error
from toolkit.net.ethtool import IFF_UP, SIOCGIFFLAGS, Asker
from toolkit.net.links import link_state

__all__ = [
    "LINK_HEADERS",
    "Device",
    "await_carrier",
    "check_ethernet",
    "check_queue",
    "describe",
    "index_of",
    "queue_numbers",
]

# linux/sockios.h, linux/if.h
_SIOCGIFINDEX = 0x8933
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_IFF_RUNNING = 0x40
_IFNAMSIZ = 16
_I32, _U16 = struct.Struct("=i"), struct.Struct("=H")

# linux/if_arp.h
ARPHRD_ETHER = 1
_ARPHRD_LOOPBACK = 772  # its packets have Ethernet headers too
_KINDS = {  # those that XDP can be attached to, or that people may try
    32: "InfiniBand",
    512: "PPP",
    519: "a modem's raw IP",
    768: "an IP-in-IP tunnel",
    769: "an IPv6 tunnel",
    776: "an IPv6-in-IPv4 tunnel (sit)",
    778: "a GRE tunnel",
    801: "802.11",
    802: "802.11 in monitor mode",
    803: "802.11 in monitor mode",
    823: "a GRE tunnel over IPv6",
    824: "a netlink monitor",
    65534: "layer 3: tun, WireGuard or the like",
}
LINK_HEADERS = 14 + 2 * 4  # bytes of Ethernet and two VLAN tags, which an MTU does not count
_HARDWARE = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$|usb-")  # a place on PCI, or on USB
_SHARED = ("virtio_net", "vmxnet3")
# In zero-copy mode these tell their NIC the room of a frame in whole KiB (the register SRRCTL): of a frame of 2048
# bytes, 256 of them the kernel's, it uses 1024. A longer packet then comes as several, and nobody says so.
_WHOLE_KIB = ("igb", "igc", "ixgbe")
# Seconds: some drivers restart the link when a program is attached or taken off, and autonegotiation takes its time.
_CARRIER_TIMEOUT = 10.0
_CABLE_TIMEOUT = 4.0  # the same where perhaps there is no cable


class Device(NamedTuple):
    """An interface, as of the moment it was asked."""

    name: str
    ifindex: int
    up: bool
    running: bool  # has a carrier
    mtu: int  # bytes, without the Ethernet header
    mac: bytes  # 6 bytes
    queues: int  # receive queues in use
    driver: str  # "" where the driver does not say
    paired: bool  # whether `ethtool -L` counts receive and transmit queues in pairs ("combined")
    bus: str = ""  # where the driver says that the device is: "0000:00:1f.6" for PCI, "virtio0", "usb-…", or ""
    kind: int = ARPHRD_ETHER  # what its packets begin with (linux/if_arp.h)

    @property
    def longest(self) -> int:
        """Bytes of the longest packet that the MTU lets arrive."""
        return self.mtu + LINK_HEADERS

    @property
    def room(self) -> int:
        """Bytes that a frame must have room for, so that the driver puts the longest packet into it in every mode."""
        return -(-self.longest // 1024) * 1024 if self.driver in _WHOLE_KIB else self.longest

    def splits(self, room: int) -> bool:
        """Whether in zero-copy mode packets would come in pieces from frames that have room for `room` bytes."""
        return self.driver in _WHOLE_KIB and room // 1024 * 1024 < min(self.longest, room)

    @property
    def link(self) -> str:
        """What kind of device it is by its link layer: "Ethernet", or what it is instead."""
        if self.kind in (ARPHRD_ETHER, _ARPHRD_LOOPBACK):
            return "Ethernet"
        return _KINDS.get(self.kind, f"of hardware type {self.kind}")

    @property
    def on_a_wire(self) -> bool:
        """Whether what arrives comes off a wire, with its checksums whole, or was perhaps left by a host beside us.

        That may be where the device is no hardware (veth, tap, bridge, loopback) or is shared by guests of one machine
        (virtio, vmxnet3): see toolkit.packets.checksum_offload.
        """
        return _HARDWARE.match(self.bus) is not None and self.driver not in _SHARED


def describe(interface: str) -> Device:
    """Ask about `interface` in the calling thread's network namespace. SystemCallError (ENODEV) when there is none."""
    with _asker(interface) as asker:
        try:
            # Not socket.if_nametoindex(), which tells no errno.
            (ifindex,) = _I32.unpack_from(asker.ask(_SIOCGIFINDEX))
            (flags,) = _U16.unpack_from(asker.ask(SIOCGIFFLAGS))
            (mtu,) = _I32.unpack_from(asker.ask(_SIOCGIFMTU))
            address = asker.ask(_SIOCGIFHWADDR)  # its family is the kind of device, which /sys shows of one namespace
            (kind,), mac = _U16.unpack_from(address), address[2:8]
        except OSError as refused:
            number = refused.errno if refused.errno in (errno.EMFILE, errno.ENFILE, errno.EPERM) else errno.ENODEV
            raise kernel_error("", number, f"cannot open the interface {interface}") from None
        queues, paired, driver, bus = 1, False, "", ""  # where the driver does not say
        with contextlib.suppress(OSError):
            queues, _, paired = asker.channels()
        with contextlib.suppress(OSError):
            driver, bus = asker.driver()
    up, running = bool(flags & IFF_UP), bool(flags & _IFF_RUNNING)
    return Device(interface, ifindex, up, running, mtu, mac, max(queues, 1), driver, paired, bus, kind)


def index_of(interface: str) -> int:
    """Return the number of `interface`. OSError with the kernel's errno, which socket.if_nametoindex() keeps back."""
    with _asker(interface) as asker:
        index: int = _I32.unpack_from(asker.ask(_SIOCGIFINDEX))[0]
    return index


def _asker(interface: str) -> Asker:
    name = _checked_name(interface)
    try:
        return Asker(name)
    except OSError as refused:
        raise kernel_error("", refused.errno or errno.EIO, f"cannot open the interface {interface}") from None


def _checked_name(interface: str) -> bytes:
    if not isinstance(interface, str):
        raise cannot_be("interface", interface, 'the name of an interface as text, such as "eth0"')
    name = interface.encode(errors="surrogateescape")
    if not 0 < len(name) < _IFNAMSIZ or b"/" in name or b"\0" in name or any(byte <= 32 for byte in name):
        raise ArgumentError(
            f"{interface!r} is no interface name: it has 1 to 15 bytes without spaces or slashes. "
            "Next step: list the interfaces with `ip link`."
        )
    return name


def queue_numbers(device: Device, queues: Iterable[int] | Literal["all"]) -> list[int]:
    """Return what `queues` means on this device, in order. SystemCallError (EINVAL) for one that it does not have."""
    checked = check_queues(queues)
    if checked == "all":
        return list(range(device.queues))
    for queue in checked:
        check_queue(device, queue)
    return list(checked)


def check_queues(queues: Iterable[int] | Literal["all"]) -> tuple[int, ...] | Literal["all"]:
    """Return "all", or the numbers in order. ArgumentError for what no device could have."""
    if isinstance(queues, str) and queues == "all":
        return "all"
    try:
        if isinstance(queues, str | bytes):
            raise TypeError
        numbers = tuple(sorted({whole("a queue", queue) for queue in queues}))
    except (TypeError, ArgumentError):
        raise cannot_be("queues", queues, '"all", or numbers of queues such as [0, 1]') from None
    if not numbers:
        raise ArgumentError('queues is empty. Next step: name at least one, or "all".')
    if numbers[0] < 0:
        raise cannot_be("a queue", numbers[0], "a number from 0 on")
    return numbers


def check_queue(device: Device, queue: int) -> None:
    """Raise when the device has no such receive queue."""
    if queue < 0:
        raise cannot_be("queue", queue, "a number from 0 on")
    if queue >= device.queues:
        raise kernel_error(
            "bind",
            errno.EINVAL,
            f"cannot bind to queue {queue} of {device.name}",
            cause=f"{device.name} has {device.queues} receive queue(s), numbered from 0",
            remedy=f"take a lower queue, or give it more: `ethtool -L {device.name} combined N`",
        )


def check_ethernet(device: Device) -> None:
    """Raise SystemCallError (EOPNOTSUPP) for a device whose packets do not begin with an Ethernet header.

    Generic XDP takes such devices; filters would then match nothing, and decoding and files be nonsense.
    """
    if device.link != "Ethernet":
        raise kernel_error(
            "link",
            errno.EOPNOTSUPP,
            f"cannot use {device.name}",
            cause=f"its packets have no Ethernet header ({device.link}), and filters, decoding, files and answers here "
            "begin with one",
            remedy="open the Ethernet interface that its packets come through, or leave, in their tunnel (`ip -d link "
            f"show {device.name}` and `ip route get ADDRESS` name it); `tcpdump -i {device.name}` shows what is inside",
        )


def await_carrier(device: Device) -> Device:
    """Wait until the link is there, or until a signal; return the device as it is then.

    Some drivers take it down for a second or two (igb) when a program is attached, and when one is taken off, so that
    it may have been missing already when the `device` was described. Where nothing on a wire is behind the device, its
    carrier does not come back by itself.
    """
    if not (device.running or device.on_a_wire):
        return device
    deadline = time.monotonic() + (_CARRIER_TIMEOUT if device.running else _CABLE_TIMEOUT)
    while True:
        now, carrier = describe(device.name), link_state(device.ifindex).carrier
        if carrier is not None:
            now = now._replace(running=carrier)
        if now.running or not now.up or time.monotonic() > deadline or interrupted():
            return now
        time.sleep(0.02)
