# SPDX-License-Identifier: Apache-2.0
"""The XDP features of a driver: `dev-get` of the generic netlink family "netdev" (Linux 6.3)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from toolkit.net.netlink import ask, attributes, number, opened, pack

__all__ = [
    "NETDEV_XDP_ACT_BASIC",
    "NETDEV_XDP_ACT_NDO_XMIT",
    "NETDEV_XDP_ACT_REDIRECT",
    "NETDEV_XDP_ACT_RX_SG",
    "NETDEV_XDP_ACT_XSK_ZEROCOPY",
    "Abilities",
    "abilities",
    "taken_queues",
]

# enum netdev_xdp_act of linux/netdev.h
NETDEV_XDP_ACT_BASIC = 1 << 0
NETDEV_XDP_ACT_REDIRECT = 1 << 1
NETDEV_XDP_ACT_NDO_XMIT = 1 << 2
NETDEV_XDP_ACT_XSK_ZEROCOPY = 1 << 3
NETDEV_XDP_ACT_RX_SG = 1 << 5

_NETLINK_GENERIC = 16
_GENL_ID_CTRL = 16
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2
_NETDEV_CMD_DEV_GET = 1
_NETDEV_A_DEV_IFINDEX, _NETDEV_A_DEV_XDP_FEATURES, _NETDEV_A_DEV_XDP_ZC_MAX_SEGS = 1, 3, 4
_NETDEV_CMD_QUEUE_GET = 10  # Linux 6.8
_NETDEV_A_QUEUE_ID, _NETDEV_A_QUEUE_IFINDEX, _NETDEV_A_QUEUE_TYPE = 1, 2, 3
_NETDEV_A_QUEUE_XSK = 7  # Linux 6.15
_NETDEV_QUEUE_TYPE_RX = 0
_U32 = struct.Struct("=I")


class Abilities(NamedTuple):
    """What a driver can do. `features` are NETDEV_XDP_ACT_* bits; `zc_max_segs` buffers a packet in zero-copy mode."""

    features: int
    zc_max_segs: int


def abilities(ifindex: int) -> Abilities | None:
    """Ask about an interface of the calling thread's network namespace; None where the kernel does not say."""
    try:
        answer = _netdev(_NETDEV_CMD_DEV_GET, pack(_NETDEV_A_DEV_IFINDEX, _U32.pack(ifindex)))
    except (OSError, KeyError):
        return None
    if _NETDEV_A_DEV_XDP_FEATURES not in answer:
        return None
    segments = answer.get(_NETDEV_A_DEV_XDP_ZC_MAX_SEGS, b"\1")
    return Abilities(number(answer[_NETDEV_A_DEV_XDP_FEATURES]), number(segments))


def taken_queues(ifindex: int, queues: int) -> list[int]:
    """Return which of the first `queues` receive queues have an AF_XDP socket, of any process.

    Empty where the kernel does not report it: before Linux 6.15, or while the interface is down.
    """
    taken = []
    for queue in range(queues):
        wanted = (
            (_NETDEV_A_QUEUE_ID, queue),
            (_NETDEV_A_QUEUE_IFINDEX, ifindex),
            (_NETDEV_A_QUEUE_TYPE, _NETDEV_QUEUE_TYPE_RX),
        )
        try:
            answer = _netdev(_NETDEV_CMD_QUEUE_GET, b"".join(pack(kind, _U32.pack(value)) for kind, value in wanted))
        except (OSError, KeyError):
            break
        if _NETDEV_A_QUEUE_XSK in answer:
            taken.append(queue)
    return taken


def _netdev(command: int, wanted: bytes) -> dict[int, bytes]:
    """One request to the family "netdev", one answer. OSError, KeyError where the kernel refuses, or has it not."""
    with opened(_NETLINK_GENERIC) as asker:
        name = pack(_CTRL_ATTR_FAMILY_NAME, b"netdev\0")
        family = _ask(asker, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, name)[_CTRL_ATTR_FAMILY_ID]
        return _ask(asker, number(family), command, wanted)


def _ask(asker: socket.socket, family: int, command: int, wanted: bytes) -> dict[int, bytes]:
    header = struct.pack("=BBH", command, 1, 0)  # struct genlmsghdr
    (answer,) = ask(asker, family, header + wanted)
    return attributes(answer[len(header) :])
