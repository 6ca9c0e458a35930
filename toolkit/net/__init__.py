# SPDX-License-Identifier: Apache-2.0
"""Ask the kernel about interfaces and sockets: netlink, ethtool, sysfs, sock_diag; set and restore NAPI settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily
from toolkit._base.netns import NetNS, entered

if TYPE_CHECKING:
    from toolkit.net.device import Device, describe
    from toolkit.net.napi import leftovers, repair

__all__ = ["Device", "NetNS", "describe", "entered", "leftovers", "repair"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "device": "Device describe",
        "napi": "leftovers repair",
    },
)
