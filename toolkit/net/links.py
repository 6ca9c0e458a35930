# SPDX-License-Identifier: Apache-2.0
"""What rtnetlink says of an interface, and no ioctl: its carrier as it is now, and how often it is promiscuous."""

from __future__ import annotations

import contextlib
import struct
from typing import NamedTuple

from toolkit.net.netlink import ask, attributes, number, opened

__all__ = ["LinkState", "link_state"]

# linux/rtnetlink.h, linux/if_link.h
_NETLINK_ROUTE = 0
_RTM_GETLINK = 18
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFLA_PROMISCUITY, _IFLA_CARRIER = 30, 33


class LinkState(NamedTuple):
    """An interface at this moment; None where the kernel does not say it."""

    carrier: bool | None = None  # IFF_RUNNING follows it by up to a second
    promiscuity: int | None = None  # how many times it is promiscuous, whoever wants it


def link_state(ifindex: int) -> LinkState:
    """Ask about an interface of the calling thread's network namespace. All None where there is none."""
    with contextlib.suppress(OSError), opened(_NETLINK_ROUTE) as asker:
        (answer,) = ask(asker, _RTM_GETLINK, _IFINFOMSG.pack(0, 0, ifindex, 0, 0))
        found = attributes(answer[_IFINFOMSG.size :])
        return LinkState(
            bool(number(found[_IFLA_CARRIER])) if _IFLA_CARRIER in found else None,
            number(found[_IFLA_PROMISCUITY]) if _IFLA_PROMISCUITY in found else None,
        )
    return LinkState()
