# SPDX-License-Identifier: Apache-2.0
"""PacketSource: what a capture receives from, an Interface or a Tee, and its description for the file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.capture.records import About
from toolkit.errors import ToolkitError
from toolkit.net.sysfs import InterfaceDirectory

if TYPE_CHECKING:
    from toolkit.batch.batch import Batch
    from toolkit.errors import DeviceGoneError
    from toolkit.net.device import Device
    from toolkit.program import Program

__all__ = ["PacketSource", "about_of"]


class Drops(Protocol):
    """What the kernel counted, as far as a capture asks."""

    @property
    def dropped(self) -> int:
        """Packets that were redirected to a socket and not delivered."""

    @property
    def missed(self) -> int | None:
        """Packets that the NIC lost before any program saw them; None: not known."""


class PacketSource(Protocol):
    """An Interface, or an object with the same methods."""

    device: Device
    filter: str | None
    program: Program

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """Return waiting packets."""

    def statistics(self) -> Drops:
        """Return the kernel's counters."""

    def counters(self) -> dict[str, int]:
        """Return the XDP program's counters."""

    def waiting(self) -> int | None:
        """Return how many packets wait to be received; None if none has been received yet."""

    def info(self) -> dict[str, Any]:
        """Return the options in effect: see Interface.info()."""

    def detach(self) -> None:
        """Detach the program from the interface."""

    def loss(self) -> DeviceGoneError | None:
        """Return the error with which receiving ends, if the program was taken off or the interface is gone."""


def about_of(interface: PacketSource | None, snaplen: int) -> About:
    """Return the description of an interface for the file; an empty one for None."""
    if interface is None:
        return About(snaplen=snaplen)
    device, info = interface.device, interface.info()
    how = "copies (tee)" if info.get("tee") else "zero-copy" if info.get("zero_copy") else "copy mode"
    expression, words = _expression(interface), interface.filter or "all"
    parts = [
        f"AF_XDP, {info.get('mode', '')} XDP, {how}",
        *([device.driver] if device.driver else []),
        *([f"filter: {words}"] if words not in (expression, "all") else []),
    ]
    return About(
        name=device.name,
        description=", ".join(parts),
        filter=expression,
        mac=device.mac,
        speed=_speed(interface),
        queues=len(info.get("queues", (0,))),
        snaplen=snaplen,
    )


def _expression(interface: PacketSource) -> str:
    """Return the filter if it is a single tcpdump expression, as other programs read it from the file; else ""."""
    rules = interface.program.rules
    if len(rules) > 1:
        return ""
    expression = rules[0].filter if rules else interface.filter or ""
    return "" if expression == "all" else expression


def _speed(interface: PacketSource) -> int:
    """Return the link's bits/s, 0 if the driver does not report it, or in another network namespace."""
    with contextlib.suppress(ToolkitError, OSError, ValueError):
        directory = InterfaceDirectory(interface.device.name)
        try:
            if directory.read("ifindex") == interface.device.ifindex:
                return max(directory.read("speed"), 0) * 1_000_000
        finally:
            directory.close()
    return 0
