# SPDX-License-Identifier: Apache-2.0
"""List the AF_XDP sockets of all processes, without touching them: sock_diag.

It needs CONFIG_XDP_SOCKETS_DIAG. See linux/xdp_diag.h, and net/xdp/xsk_diag.c for the order of what is in an answer.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from toolkit.abi.if_xdp import AF_XDP, XDPStatistics
from toolkit.net.netlink import ask, attributes, opened

__all__ = ["BoundSocket", "af_xdp_sockets", "parse", "request"]

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBHIIII")  # struct xdp_diag_req: family, protocol, pad, inode, show, cookie[2]
_MESSAGE = struct.Struct("=BBHIII")  # struct xdp_diag_msg: family, type, pad, inode, cookie[2]
_INFO = struct.Struct("=II")  # struct xdp_diag_info: ifindex, queue_id
_UMEM = struct.Struct("=QIIIIIIII")  # struct xdp_diag_umem, of which the last two are flags and refs
_STATISTICS = struct.Struct("=6Q")  # struct xdp_diag_stats
_SHOW_INFO, _SHOW_UMEM, _SHOW_STATS = 1 << 0, 1 << 2, 1 << 4
_ATTRIBUTE_INFO, _ATTRIBUTE_UMEM, _ATTRIBUTE_STATS = 1, 5, 9
_DU_F_ZEROCOPY = 1 << 0


class BoundSocket(NamedTuple):
    """An AF_XDP socket. What the kernel left out is None, and so is where it is bound before it is."""

    inode: int
    ifindex: int | None
    queue: int | None
    zero_copy: bool | None  # of its UMEM
    statistics: XDPStatistics | None


def af_xdp_sockets() -> dict[int, BoundSocket] | None:
    """Return the AF_XDP sockets of the calling thread's network namespace, by inode.

    None where the kernel does not say: built without, or no CAP_NET_ADMIN.
    """
    try:
        with opened(_NETLINK_SOCK_DIAG) as asker:
            found = [parse(body) for body in ask(asker, _SOCK_DIAG_BY_FAMILY, request(), dump=True)]
    except OSError:
        return None
    return {one.inode: one for one in found}


def request() -> bytes:
    """Return what asks for all of them."""
    return _REQUEST.pack(AF_XDP, 0, 0, 0, _SHOW_INFO | _SHOW_UMEM | _SHOW_STATS, 0, 0)


def parse(body: bytes) -> BoundSocket:
    """Read one answer, a struct xdp_diag_msg and what follows it."""
    inode = _MESSAGE.unpack_from(body)[3]
    given = attributes(body[_MESSAGE.size :])
    ifindex = queue = zero_copy = statistics = None
    if len(info := given.get(_ATTRIBUTE_INFO, b"")) >= _INFO.size:
        ifindex, queue = _INFO.unpack_from(info)
        if not ifindex:  # not bound yet
            ifindex = queue = None
    if len(umem := given.get(_ATTRIBUTE_UMEM, b"")) >= _UMEM.size:
        zero_copy = bool(_UMEM.unpack_from(umem)[7] & _DU_F_ZEROCOPY)
    if len(counted := given.get(_ATTRIBUTE_STATS, b"")) >= _STATISTICS.size:
        dropped, rx_invalid, full, fill_empty, tx_invalid, tx_empty = _STATISTICS.unpack_from(counted)
        statistics = XDPStatistics(dropped, rx_invalid, tx_invalid, full, fill_empty, tx_empty)
    return BoundSocket(inode, ifindex, queue, zero_copy, statistics)
