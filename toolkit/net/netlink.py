# SPDX-License-Identifier: Apache-2.0
"""Netlink requests that pyroute2 cannot make: one request, its answers, their attributes.

It has neither the generic family "netdev" nor AF_XDP in sock_diag; and what is asked in a notebook (doctor.examine(),
open()), in whose event loop pyroute2 0.9 refuses to work. All else is rtnetlink, and pyroute2's: see routes.py.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator

__all__ = ["ask", "attributes", "number", "opened", "pack"]

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_STATUS = struct.Struct("=i")  # what NLMSG_ERROR and NLMSG_DONE carry: 0 or less, an errno
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: len, type
_TIMEOUT = 10.0  # seconds: a driver that restarts its device (igb: 3 s on a busy machine) has all others wait


def opened(family: int) -> socket.socket:
    """Return a netlink socket of `family` (NETLINK_...), in the calling thread's network namespace. Close it."""
    asker = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    asker.settimeout(_TIMEOUT)
    return asker


def ask(asker: socket.socket, kind: int, body: bytes, *, dump: bool = False) -> Iterator[bytes]:
    """Send one request; the bodies of its answers: one, or with `dump` all of them. OSError when the kernel refuses."""
    flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
    asker.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
    while True:
        answer, at = asker.recv(1 << 16), 0
        while at + _HEADER.size <= len(answer):
            length, found, *_ = _HEADER.unpack_from(answer, at)
            if found in (_NLMSG_DONE, _NLMSG_ERROR):
                (status,) = _STATUS.unpack_from(answer[at : at + length].ljust(_HEADER.size + 4, b"\0"), _HEADER.size)
                if found == _NLMSG_DONE and status >= 0:
                    return
                # A dump may end with an error as well: what came before it is not all there is.
                number = -status or errno.EPROTO
                raise OSError(number, f"netlink: {os.strerror(number)}")
            yield answer[at + _HEADER.size : at + length]
            at += max(length + 3 & ~3, _HEADER.size)
        if not dump:
            return


def attributes(raw: bytes) -> dict[int, bytes]:
    """Return what stands behind a message's fixed part: type -> payload. What is cut off is left out."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(raw):
        size, kind = _ATTRIBUTE.unpack_from(raw, at)
        if size < _ATTRIBUTE.size or at + size > len(raw):
            break
        found[kind & 0x3FFF] = raw[at + _ATTRIBUTE.size : at + size]  # without NLA_F_NESTED and its like
        at += size + 3 & ~3
    return found


def pack(kind: int, payload: bytes) -> bytes:
    """Return an attribute as it stands in a request."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def number(raw: bytes) -> int:
    """Return an attribute's payload as the unsigned number that it is."""
    return int.from_bytes(raw, sys.byteorder)
