# SPDX-License-Identifier: Apache-2.0
"""Keys: what packets are counted by, as five words of 64 bits; and back from keys to addresses and ports.

The words: one with the IP version (0: not IP), protocol (or ethertype) and both ports; two of the source's address; two
of the destination's. An IPv4 address, or an Ethernet address (of packets that are not IP), is in the second of its two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from toolkit.decode import Columns

__all__ = ["COLUMNS", "GROUPS", "Ends", "FlowKeys", "Group", "ends_of", "keys_of", "swapped_ends"]

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

Group = Literal["flow", "source", "destination", "port", "protocol"]
GROUPS: tuple[Group, ...] = get_args(Group)

_PROTOCOL = ("ip_version", "ip_proto", "ethertype")
_SOURCE = ("ip_src", "ip6_src", "eth_src")
_DESTINATION = ("ip_dst", "ip6_dst", "eth_dst")
_PORTS = ("src_port", "dst_port")
# The columns of toolkit.decode that a key is made of.
COLUMNS: dict[Group, tuple[str, ...]] = {
    "flow": (*_PROTOCOL, *_PORTS, *_SOURCE, *_DESTINATION),
    "source": (*_PROTOCOL, *_SOURCE),
    "destination": (*_PROTOCOL, *_DESTINATION),
    "port": (*_PROTOCOL, *_PORTS),
    "protocol": _PROTOCOL,
}

_VERSION, _TYPE, _SOURCE_PORT = (np.uint64(shift) for shift in (56, 40, 20))
_PORT = np.uint64(0xFFFFF)  # mask of a port plus 1; 0: no port


class FlowKeys(NamedTuple):
    """Keys of n packets.

    words: five arrays of shape (n,), uint64; None where all are 0. swapped: shape (n,), bool, whether source and
    destination are exchanged; None: in no packet.
    """

    words: list[Words | None]
    swapped: Flags | None = None


class Ends(NamedTuple):
    """The contents of k keys: arrays of shape (k,), -1 where there is none."""

    version: Array  # 4, 6, 0 for packets that are not IP, -1 where the group does not have it
    protocol: Array  # IPPROTO_*
    ethertype: Array  # of packets that are not IP
    source_port: Array
    destination_port: Array
    source: Words  # shape (k, 2)
    destination: Words  # shape (k, 2)


def keys_of(columns: Columns, group: Group, *, both_ways: bool = False) -> FlowKeys:
    """Return the keys of packets. both_ways: the two directions of a flow get the same key."""
    version, protocol, ethertype = (columns[name] for name in _PROTOCOL)
    is_ip = version > 0
    all_ip, any6 = bool(is_ip.all()), bool((version == 6).any())
    kind = protocol if all_ip else np.where(is_ip, protocol, ethertype)
    # A missing ethertype (-1: no whole Ethernet header) becomes 0, which no frame has.
    first = np.maximum(kind, 0).astype(np.uint64) << _TYPE
    if group in ("source", "destination"):
        first = np.zeros(len(version), dtype=np.uint64)
    if group != "protocol":
        first |= np.maximum(version, 0).astype(np.uint64) << _VERSION
    elif not all_ip:  # IPv4 and IPv6 count together, but protocol 6 must differ from ethertype 6
        first |= is_ip.astype(np.uint64) << _VERSION
    else:
        first |= np.uint64(1) << _VERSION
    if group == "port":
        low = np.minimum(*(columns[name] for name in _PORTS)).astype(np.int64)
        first &= ~(np.uint64(0xFF) << _VERSION)
        first |= is_ip.astype(np.uint64) << _VERSION
        first |= (low + 1).view(np.uint64)
    elif group == "flow":
        source, destination = (columns[name].astype(np.int64) + 1 for name in _PORTS)
        first |= source.view(np.uint64) << _SOURCE_PORT | destination.view(np.uint64)
    words: list[Words | None] = [first, None, None, None, None]
    if group in ("flow", "source"):
        words[1:3] = _address(columns, _SOURCE, version, all_ip, any6)
    if group in ("flow", "destination"):
        words[3:5] = _address(columns, _DESTINATION, version, all_ip, any6)
    return _ordered(words) if both_ways else FlowKeys(words)


def _address(
    columns: Columns, names: tuple[str, str, str], version: Array, all_ip: bool, any6: bool
) -> tuple[Words | None, Words]:
    """Return the two words of an address; the first is None when no packet is IPv6."""
    ip4, ip6, ethernet = names
    low: Array = columns[ip4]
    if not all_ip:
        low = np.where(version > 0, low, np.maximum(columns[ethernet], 0))
    if not any6:
        return None, np.ascontiguousarray(low).view(np.uint64)
    halves = np.ascontiguousarray(columns[ip6]).view(">u8").astype(np.uint64)  # zeros where it is not IPv6
    return halves[:, 0], np.where(version == 6, halves[:, 1], low.view(np.uint64))


def _ordered(words: list[Words | None]) -> FlowKeys:
    first, source_high, source, destination_high, destination = words
    assert first is not None
    assert source is not None
    assert destination is not None
    ports = first >> _SOURCE_PORT & _PORT, first & _PORT
    swapped = (source > destination) | ((source == destination) & (ports[0] > ports[1]))
    if source_high is not None and destination_high is not None:
        same = source_high == destination_high
        swapped = (source_high > destination_high) | (same & swapped)
    if not swapped.any():
        return FlowKeys(words)
    turned = first & ~((_PORT << _SOURCE_PORT) | _PORT) | ports[1] << _SOURCE_PORT | ports[0]
    pairs: list[Words | None] = [np.where(swapped, turned, first)]
    for one, other in ((source_high, destination_high), (source, destination)):
        pairs += [
            None if one is None or other is None else np.where(swapped, other, one),
            None if one is None or other is None else np.where(swapped, one, other),
        ]
    return FlowKeys([pairs[0], pairs[1], pairs[3], pairs[2], pairs[4]], swapped)


def ends_of(words: Words, group: Group) -> Ends:
    """Return the contents of keys. words: shape (5, k), uint64."""
    first = words[0]
    tag = (first >> _VERSION).astype(np.int64)
    kind = (first >> _TYPE & np.uint64(0xFFFF)).astype(np.int64)
    none = np.full(len(first), -1, dtype=np.int64)
    has_protocol = group not in ("source", "destination")
    low_port = (first & _PORT).astype(np.int64) - 1
    return Ends(
        tag if group not in ("port", "protocol") else np.where(tag > 0, none, 0),
        np.where(tag > 0, kind, -1) if has_protocol else none,
        np.where(tag == 0, kind, -1) if has_protocol else none,
        (first >> _SOURCE_PORT & _PORT).astype(np.int64) - 1 if group == "flow" else none,
        low_port if group in ("flow", "port") else none,
        words[1:3].T,
        words[3:5].T,
    )


def swapped_ends(words: Words, turned: Flags) -> Words:
    """Return keys with source and destination exchanged where `turned` is true. words: shape (5, k), not changed."""
    first = words[0]
    ports = first >> _SOURCE_PORT & _PORT, first & _PORT
    there = first & ~((_PORT << _SOURCE_PORT) | _PORT) | ports[1] << _SOURCE_PORT | ports[0]
    return np.where(turned, np.stack([there, words[3], words[4], words[1], words[2]]), words)
