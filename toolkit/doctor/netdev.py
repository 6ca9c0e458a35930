# SPDX-License-Identifier: Apache-2.0
"""What the kernel says a driver can do with XDP: `dev-get` of the generic netlink family "netdev" (Linux 6.3)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "NETDEV_XDP_ACT_BASIC",
    "NETDEV_XDP_ACT_NDO_XMIT",
    "NETDEV_XDP_ACT_REDIRECT",
    "NETDEV_XDP_ACT_RX_SG",
    "NETDEV_XDP_ACT_XSK_ZEROCOPY",
    "Abilities",
    "abilities",
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
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: len, type
_TIMEOUT = 2.0  # seconds


class Abilities(NamedTuple):
    """What a driver can do. `features` are NETDEV_XDP_ACT_* bits; `zc_max_segs` buffers a packet in zero-copy mode."""

    features: int
    zc_max_segs: int


def abilities(ifindex: int) -> Abilities | None:
    """Ask about an interface of the calling thread's network namespace; None where the kernel does not say."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC) as asker:
            asker.settimeout(_TIMEOUT)
            name = _pack(_CTRL_ATTR_FAMILY_NAME, b"netdev\0")
            family = _ask(asker, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, name)[_CTRL_ATTR_FAMILY_ID]
            wanted = _pack(_NETDEV_A_DEV_IFINDEX, struct.pack("=I", ifindex))
            answer = _ask(asker, _number(family), _NETDEV_CMD_DEV_GET, wanted)
    except (OSError, KeyError):
        return None
    if _NETDEV_A_DEV_XDP_FEATURES not in answer:
        return None
    segments = answer.get(_NETDEV_A_DEV_XDP_ZC_MAX_SEGS, b"\1")
    return Abilities(_number(answer[_NETDEV_A_DEV_XDP_FEATURES]), _number(segments))


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "little" if struct.pack("=H", 1)[0] else "big")


def _pack(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _ask(asker: socket.socket, family: int, command: int, attributes: bytes) -> dict[int, bytes]:
    """One request, one answer: its attributes. OSError when the kernel refuses."""
    body = struct.pack("=BBH", command, 1, 0) + attributes  # struct genlmsghdr
    asker.send(_HEADER.pack(_HEADER.size + len(body), family, _NLM_F_REQUEST, 1, 0) + body)
    answer = asker.recv(65536)
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (number,) = struct.unpack_from("=i", answer, _HEADER.size)
        raise OSError(-number or errno.EPROTO, "netlink")
    return dict(_attributes(answer[_HEADER.size + 4 : length]))


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(raw):
        size, kind = _ATTRIBUTE.unpack_from(raw, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, raw[at + 4 : at + size]  # without NLA_F_NESTED and its like
        at += size + 3 & ~3
