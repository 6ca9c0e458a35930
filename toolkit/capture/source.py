# SPDX-License-Identifier: Apache-2.0
"""Where the packets of a capture come from: an Interface, or what behaves like one, and what a file tells of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.capture.records import About
from toolkit.errors import ToolkitError
from toolkit.net.sysfs import InterfaceDirectory

if TYPE_CHECKING:
    from toolkit.abi.if_xdp import Statistics
    from toolkit.batch.batch import Batch
    from toolkit.errors import DeviceGoneError
    from toolkit.net.device import Device
    from toolkit.program import Program

__all__ = ["PacketSource", "about_of"]


class PacketSource(Protocol):
    """An Interface, or what behaves like one."""

    device: Device
    filter: str | None
    program: Program

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """Return waiting packets."""

    def statistics(self) -> Statistics:
        """Return the kernel's counters."""

    def counters(self) -> dict[str, int]:
        """Return the XDP program's counters."""

    def waiting(self) -> int | None:
        """Return how many packets came that nobody has taken yet; None where nobody has taken any at all."""

    def info(self) -> dict[str, Any]:
        """Return what came about."""

    def detach(self) -> None:
        """Take the program off the interface."""

    def loss(self) -> DeviceGoneError | None:
        """Return the error that receiving ends with, where somebody else took the program off, or the interface."""


def about_of(interface: PacketSource | None, snaplen: int) -> About:
    """Return what a file tells of the interface; of None, nothing."""
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
    """Return the filter where it is one expression of libpcap's language, as others read it in the file; else ""."""
    rules = interface.program.rules
    if len(rules) > 1:
        return ""
    expression = rules[0].filter if rules else interface.filter or ""
    return "" if expression == "all" else expression


def _speed(interface: PacketSource) -> int:
    """Bits/s of the link, 0 where the driver does not say (or the interface is in another network namespace)."""
    with contextlib.suppress(ToolkitError, OSError, ValueError):
        directory = InterfaceDirectory(interface.device.name)
        try:
            if directory.read("ifindex") == interface.device.ifindex:
                return max(directory.read("speed"), 0) * 1_000_000
        finally:
            directory.close()
    return 0
