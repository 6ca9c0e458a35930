# SPDX-License-Identifier: Apache-2.0
"""The TCP and UDP sockets of a network namespace, and the processes that hold them, from /proc."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from toolkit.errors import explained

__all__ = ["Endpoint", "address_of", "command_of", "endpoints", "owners", "sockets_of"]

_ESTABLISHED, _CLOSED, _LISTENING = 1, 7, 10  # net/tcp_states.h; an unconnected UDP socket is "closed"


class Endpoint(NamedTuple):
    """A socket that packets may reach: it listens, is bound, or has a peer."""

    kind: Literal["tcp", "udp"]
    local: str  # addresses as text, "" for all of them; IPv4 also where the socket is an IPv6 one
    port: int
    peer: str  # "" where it has none
    peer_port: int
    inode: int  # 0: the kernel's own


def endpoints() -> Iterator[Endpoint]:
    """Sockets of the calling thread's network namespace: TCP listening or established, UDP bound or connected."""
    kinds: tuple[tuple[Literal["tcp", "udp"], str], ...] = (
        ("tcp", "tcp"),
        ("tcp", "tcp6"),
        ("udp", "udp"),
        ("udp", "udp6"),
        ("udp", "udplite"),
        ("udp", "udplite6"),
    )
    with explained("cannot see which sockets are open here"):
        os.stat("/proc/thread-self/net")  # a table may be missing by itself, as of IPv6
    for kind, name in kinds:
        with contextlib.suppress(FileNotFoundError), open(f"/proc/thread-self/net/{name}") as table:
            next(table)
            for line in table:
                fields = line.split()
                state = int(fields[3], 16)
                if state == _ESTABLISHED:
                    yield Endpoint(kind, *_endpoint(fields[1]), *_endpoint(fields[2]), int(fields[9]))
                elif state == (_LISTENING if kind == "tcp" else _CLOSED):
                    yield Endpoint(kind, *_endpoint(fields[1]), "", 0, int(fields[9]))


def _endpoint(text: str) -> tuple[str, int]:
    """Address and port of "0100007F:0016": words in the machine's byte order, the port as a number."""
    address, _, port = text.partition(":")
    return address_of(address), int(port, 16)


@functools.lru_cache(4096)
def address_of(text: str) -> str:
    """Return "127.0.0.1" of "0100007F": words in the machine's byte order; "" for the unspecified address."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    if not any(words):
        return ""
    parsed = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def sockets_of(pid: int) -> Iterator[int]:
    """Inodes of the sockets that a process has open. PermissionError where it is not for us to see."""
    place = f"/proc/{pid}/fd"
    try:
        names = os.listdir(place)
    except (FileNotFoundError, ProcessLookupError):
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            target = os.readlink(f"{place}/{name}")
            if target.startswith("socket:["):
                yield int(target[8:-1])


def command_of(pid: int) -> str:
    """What /proc/PID/comm says, "?" where it is gone."""
    try:
        with open(f"/proc/{pid}/comm") as comm:
            name = comm.read().rstrip("\n")
    except OSError:
        return "?"
    # A process names itself as it likes: a terminal must not obey it.
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def owners(inodes: set[int]) -> dict[int, tuple[str, int]]:
    """Return which process holds each socket: (command, pid) by inode, the oldest one; without hidden processes."""
    found: dict[int, tuple[str, int]] = {}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if len(found) == len(inodes):
            break
        with contextlib.suppress(PermissionError):
            for inode in inodes.intersection(sockets_of(pid)).difference(found):
                found[inode] = command_of(pid), pid
    return found
