# SPDX-License-Identifier: Apache-2.0
"""Asking a filter what it takes: of many senders and receivers only those that it can tell apart, by libpcap's verdict.

A filter is classic BPF. It tells two addresses, or ports, apart only where it compares them with one of its constants,
unless it calculates with them.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from toolkit.abi import libpcap
from toolkit.abi.libpcap import Instruction
from toolkit.filter.expression import instructions
from toolkit.packets import frames

__all__ = ["ACK", "BROADCAST", "Probe", "Source", "Target", "wire"]

ACK, _SYN, _PSH, _FIN, _RST = 0x10, 0x02, 0x08, 0x01, 0x04
BROADCAST = "ff:ff:ff:ff:ff:ff"
_STAMPS = b"\x01\x01\x08\x0a" + bytes(8)  # TCP options as Linux sends them: two no-operations, time stamps
_OPENING = b"\x02\x04\x05\xb4\x04\x02\x08\x0a" + bytes(8) + b"\x01\x03\x03\x07"
_EPHEMERAL = (40000, 60999, 1025)
_DISCARD = 9  # nobody ever answers from there
_MOST_MASKS, _MOST_KINDS, _MOST_PORTS = 16, 24, 8  # bounds of the work with long filters

# TCP as (payload, flags, options), UDP as payload; with the TOS and TTL of different senders. Windows sends no stamps.
_SEGMENTS = (
    *((0, _SYN, _OPENING), (0, ACK, _STAMPS), (36, ACK | _PSH, _STAMPS), (540, ACK, b""), (1400, ACK, _STAMPS)),
    *((0, ACK, b""), (0, ACK | _FIN, _STAMPS), (0, _RST, b"")),
)
_DATAGRAMS = (1, 40, 120, 540, 1400)
_TOS_TTL = ((0x00, 64), (0x10, 50), (0x48, 128), (0xB8, 255), (0x00, 61))

_MAC = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![\w:])")
_WORD = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]+)?")


class Source(NamedTuple):
    """Somebody who may send: an address, and the MAC address that its packets come from."""

    address: str
    mac: str


class Target(NamedTuple):
    """What packets are sent to: an address and a MAC address, with the VLAN tags that they have on the way."""

    address: str
    mac: str
    tags: tuple[int, ...]


class Probe:
    """A filter, asked by examples."""

    def __init__(self, expression: str) -> None:
        """Compile it; FilterError, LibraryError as from instructions(). "all" takes everything."""
        self._program: list[Instruction] = [] if expression == "all" else instructions(expression)
        self._ask = libpcap.prepared(self._program) if self._program else None
        values = [k for code, _, _, k in self._program if code & 0x07 == 5 and code & 0xF0 in (0x10, 0x20, 0x30)]
        masks = [k for code, _, _, k in self._program if code in (0x45, 0x54)]  # jset #k, and #k
        self._constants = np.unique(np.array([0, *values], np.uint32))
        self._masks = np.unique(np.array([0xFFFFFFFF, *masks], np.uint32))[-_MOST_MASKS:]
        self._calculates = any(
            (code & 0x07 == 4 and code != 0x54) or code & 0x0F == 0x0D  # ALU, but for and #k; compared with X
            for code, *_ in self._program
        )
        self._alike: dict[tuple[Sequence[int], int], list[list[int]]] = {}
        self.named = _named(expression, self._constants)  # addresses that the filter speaks of
        self.named_macs = [word for word in _MAC.findall(expression) if not int(word[:2], 16) & 1]

    def verdicts(self, packets: Sequence[bytes]) -> list[bool]:
        """Which of the packets it takes."""
        return [True] * len(packets) if self._ask is None else self._ask(packets)

    def takes(self, packets: Iterable[bytes]) -> bool:
        """Whether it takes any of them."""
        return any(self.verdicts(list(packets)))

    def kinds(self, raw: Sequence[bytes]) -> list[list[int]]:
        """Sort these (bytes of one length) by what the filter can tell apart: places of those that are alike to it.

        Words, half words and bytes are compared with every constant of the filter, behind every mask.
        """
        if self._ask is None or len(raw) < 2:
            return [list(range(len(raw)))] if raw else []
        if self._calculates:
            return [[at] for at in range(len(raw))]
        table = np.frombuffer(b"".join(raw), np.uint8).reshape(len(raw), -1).astype(np.uint32)
        halves = table[:, 0:-1:2] << np.uint32(8) | table[:, 1::2]
        words = halves[:, :-1] << np.uint32(16) | halves[:, 1:]
        parts = np.concatenate([table, halves, words], axis=1)
        masked = parts[:, :, None] & self._masks
        place = np.searchsorted(self._constants, masked, "left") + np.searchsorted(self._constants, masked, "right")
        found: dict[bytes, list[int]] = {}
        for at, row in enumerate(place.reshape(len(raw), -1).astype(np.int32)):
            found.setdefault(row.tobytes(), []).append(at)
        return list(found.values())

    def sources(self, sources: Sequence[Source]) -> list[Source]:
        """Those of one family that stand for all."""
        raw = [frames.mac_bytes(one.mac) + frames.ip_bytes(one.address) for one in sources]
        return [sources[alike[0]] for alike in self.kinds(raw)][:_MOST_KINDS]

    def targets(self, targets: Sequence[Target]) -> list[Target]:
        """The same for targets of one lane."""
        raw = [frames.mac_bytes(one.mac) + frames.ip_bytes(one.address) for one in targets]
        return [targets[alike[0]] for alike in self.kinds(raw)][:_MOST_KINDS]

    def pairs(self, sources: Sequence[Source], targets: Sequence[Target]) -> Iterable[tuple[Source, Target]]:
        """Who sends to whom: all to all; where all would be too many, each source to one target and the reverse."""
        if self._calculates:
            return dict.fromkeys(
                [(source, target) for source in sources for target in targets[:1]]
                + [(source, target) for source in sources[:1] for target in targets]
            )
        return itertools.product(sources, targets)

    def ports(self, kind: str, ports: tuple[int, ...], source: Source, target: Target, clients: bool) -> dict[int, int]:
        """Which of our `ports` it takes packets to, from `source`; from a server's port too where they are clients'.

        With each the port that they must come from for that: 0 where they may come from any.
        """
        found: dict[int, int] = {}
        froms: tuple[int, ...] = (*_EPHEMERAL, 0) if kind == "udp" else _EPHEMERAL  # 0: the same as ours
        servers: tuple[int, ...] = ()
        if clients:
            servers = tuple(int(k) for k in self._constants if 0 < k < 65536 and k != _DISCARD)[:_MOST_PORTS]
        for (head, tail), begin in itertools.product(_templates(kind, source, target), froms + servers):
            left = [alike for alike in self._kinds_of(ports, begin) if found.get(alike[0], -1) != 0]
            packets = [head + struct.pack(">HH", begin or alike[0], alike[0]) + tail for alike in left]
            for alike in itertools.compress(left, self.verdicts(packets)):
                found.update(dict.fromkeys(alike, begin if begin in servers else 0))
        return found

    def _kinds_of(self, ports: tuple[int, ...], begin: int) -> list[list[int]]:
        """The ports by what the filter can tell apart of packets from port `begin`, 0 for the same."""
        if (ports, begin) not in self._alike:
            kinds = self.kinds([struct.pack(">HH", begin or port, port) for port in ports])
            self._alike[ports, begin] = [[ports[at] for at in alike] for alike in kinds]
        return self._alike[ports, begin]

    def conversation(self, kind: str, source: Source, peer_port: int, target: Target, port: int) -> bool:
        """Whether it takes what the peer of a connection sends."""
        ports = struct.pack(">HH", peer_port, port)
        return self.takes(head + ports + tail for head, tail in _templates(kind, source, target))


def _templates(kind: str, source: Source, target: Target) -> Iterator[tuple[bytes, bytes]]:
    """Frames of several sizes from source to target, each as what stands before and behind the ports."""
    a, b = source.address, target.address
    number = frames.IPPROTO_TCP if kind == "tcp" else frames.IPPROTO_UDP
    for at in range(len(_SEGMENTS if kind == "tcp" else _DATAGRAMS)):
        tos, ttl = _TOS_TTL[at % len(_TOS_TTL)]
        if kind == "tcp":
            size, flags, options = _SEGMENTS[at]
            segment = frames.tcp(bytes(size), 0, 0, source=a, destination=b, flags=flags, options=options)
        else:
            segment = frames.udp(bytes(_DATAGRAMS[at]), 0, 0, source=a, destination=b)
        if ":" in b:
            packet = frames.ipv6(segment, number, source=a, destination=b, hop_limit=ttl, traffic_class=tos)
            ethertype = frames.ETH_P_IPV6
        else:
            packet = frames.ipv4(segment, number, source=a, destination=b, ttl=ttl, tos=tos)
            ethertype = frames.ETH_P_IP
        for framed in wire(packet, ethertype, source.mac, target.mac, target.tags):
            ports = len(framed) - len(segment)
            yield framed[:ports], framed[ports + 4 :]


def wire(packet: bytes, ethertype: int, source: str, destination: str, tags: tuple[int, ...]) -> Iterator[bytes]:
    """In Ethernet: with the tags, and without the outer one, because many NICs take it off."""
    for vlans in dict.fromkeys((tags, tags[1:])):
        yield frames.ethernet(packet, ethertype, source=source, destination=destination, vlans=vlans)


def _named(expression: str, constants: Iterable[int]) -> list[str]:
    """Addresses in the text of a filter, of a net the first one, and those that its names meant."""
    found = {}
    for word in _WORD.findall(expression):
        if "." in word or "::" in word or word.count(":") == 7:
            try:
                found[str(ipaddress.ip_interface(word).ip)] = True
            except ValueError:
                continue
    for value in constants:
        if value > 0xFFFFFF:  # not 0.0.0.0/8: no host
            found[str(ipaddress.IPv4Address(int(value)))] = True
    return [text for text in found if _is_host(text)]


def _is_host(text: str) -> bool:
    one = ipaddress.ip_address(text)
    return not (one.is_multicast or one.is_unspecified or one.is_reserved or one.is_loopback)
