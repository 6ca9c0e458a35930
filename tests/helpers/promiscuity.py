# SPDX-License-Identifier: Apache-2.0
"""Promiscuous mode, as the kernel shows it."""

from __future__ import annotations

import socket

from toolkit.lab import Lab
from toolkit.net.routes import rtnetlink

__all__ = ["seen"]

IFF_PROMISC = 0x100  # linux/if.h


def seen(lab: Lab, name: str = "veth0") -> tuple[int, bool]:
    """As `ip -d link` shows it: how often it is promiscuous, and whether it is so by a flag that stays."""

    def ask() -> tuple[int, bool]:
        with rtnetlink(f"cannot ask about {name}") as netlink:
            (link,) = netlink.get_links(socket.if_nametoindex(name))
            return int(link.get_attr("IFLA_PROMISCUITY")), bool(link["flags"] & IFF_PROMISC)

    return lab.netns.call(ask)
