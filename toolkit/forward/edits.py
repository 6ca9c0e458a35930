# SPDX-License-Identifier: Apache-2.0
"""Ready edits for forwarding: what bridges and routers change in packets, for all packets of a batch at once.

Each changes `heads` in place: shape (n, k), uint8, C-contiguous, the first k bytes of n packets. An edit function of a
Forwarder gets them with `batch.head(k)`, and writes them with `batch.put_head(heads)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.decode.layers import NETWORK
from toolkit.decode.layouts import (
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_QINQ1,
    IPPROTO_SCTP,
    ethertype_kinds,
    ported_protocols,
)
from toolkit.errors import ArgumentError
from toolkit.packets.checksum import checked_matrix, locate
from toolkit.packets.fields import MAC_WIDTH, Place, values_for, write

__all__ = ["decrement_ttl", "pop_vlan", "push_vlan", "set_macs", "swap_ips_and_ports", "swap_macs"]

Heads = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_ETH_ALEN = 6
_ETH_HLEN = 14
_VLAN_HLEN = 4

_DST, _SRC = Place(0, MAC_WIDTH, 48), Place(_ETH_ALEN, MAC_WIDTH, 48)


def swap_macs(heads: Heads) -> Heads:
    """Exchange Ethernet source and destination. heads: 12 bytes wide at least. Returns heads."""
    _check(heads, 2 * _ETH_ALEN, "Ethernet addresses")
    _swap(heads, None, 0, 0, _ETH_ALEN)
    return heads


def set_macs(heads: Heads, *, dst: Any = None, src: Any = None) -> Heads:
    """Write Ethernet addresses. heads: 12 bytes wide at least. Returns heads.

    dst, src: a string, a number of 48 bits, or such numbers, shape (n,); None: no change. ArgumentError for others.
    """
    _check(heads, 2 * _ETH_ALEN, "Ethernet addresses")
    wanted = [
        (name, place, given) for name, place, given in (("dst", _DST, dst), ("src", _SRC, src)) if given is not None
    ]
    values = [(place, _each(name, values_for(name, place, given), len(heads))) for name, place, given in wanted]
    for place, numbers in values:  # written only when all are checked
        write(heads, place, numbers)
    return heads


def decrement_ttl(heads: Heads) -> Mask:
    """Decrement the TTL of IPv4 (and update its header checksum) and the hop limit of IPv6.

    heads: 34 bytes wide at least; 62 have every IP header behind up to two VLAN tags. Returns shape (n,), bool: the
    packets to keep. False where the TTL was 1 or 0, or where the ethertype is IP without a complete IP header of that
    version in the head; those are not changed. Packets that are not IP are kept and not changed.
    """
    _check(heads, _ETH_HLEN + 20, "an IPv4 header")
    h = locate(heads, depth=NETWORK)
    four = h.is4 & (h.ip4["version_ihl"] >= 0x45) & (h.ip4["ttl"] > 1)
    keep: Mask = four | ((h.kind != 4) & (h.kind != 6))
    if h.is6 is not None:
        six = h.is6 & (h.ip6["hop_limit"] > 1)
        keep |= six
        heads[_index(six, h.network_at, 7)] -= 1
    if four.any():
        _one_hop(heads, four, h.network_at)
    return keep


def _one_hop(heads: Heads, mask: Mask, at: int | npt.NDArray[np.int64]) -> None:
    """Decrement the TTL of IPv4 packets, and correct the header checksum."""
    heads[_index(mask, at, 8)] -= 1
    high, low = _index(mask, at, 10), _index(mask, at, 11)
    # The TTL is the high byte of its word, so the checksum grows by 256 (RFC 1624). 0xffff, the other zero of one's
    # complement, becomes 0: a full computation gives that.
    checksum = heads[high].astype(np.uint32) << 8 | heads[low]
    checksum += np.uint32(0x100)
    checksum += checksum >= 0xFFFF
    heads[high] = checksum >> 8 & 0xFF
    heads[low] = checksum & 0xFF


def swap_ips_and_ports(heads: Heads) -> Mask:
    """Exchange source and destination addresses of IPv4 and IPv6, and the ports where there are any: as an echo does.

    No checksum changes, since sums do not depend on the order. heads: 34 bytes wide at least, and wide enough for the
    ports. Returns shape (n,), bool: the packets that were changed. Not changed are: packets that are not IP; packets
    whose ports are beyond the head; and SCTP, whose CRC depends on the order. Of later fragments, only addresses
    change.
    """
    _check(heads, _ETH_HLEN + 20, "an IPv4 header")
    h = locate(heads)
    ported = ported_protocols().take(h.protocol) & ~h.later
    changed: Mask = h.is_ip & ~h.broken & (h.protocol != IPPROTO_SCTP) & (~ported | h.has_ports)
    for mask, at, offset, size in (
        (changed & h.is4, h.network_at, 12, 4),
        (changed & h.has_ip6, h.network_at, 8, 16),
        (changed & ported, h.transport_at, 0, 2),
    ):
        if mask.any():
            _swap(heads, mask, at, offset, size)
    return changed


def push_vlan(heads: Heads, vlan: npt.ArrayLike, *, priority: npt.ArrayLike = 0, tpid: int = ETH_P_8021Q) -> Heads:
    """Insert an outermost VLAN tag into every packet. Returns heads.

    heads: 16 bytes wide at least; the first 4 are room in front of the packet, which begins at the fifth byte. In an
    edit function: `batch.grow_front(4)`, then `batch.put_head(push_vlan(batch.head(16), 42))`. vlan: 0 to 4095, one or
    shape (n,). priority: 0 to 7, one or shape (n,). tpid: the tag's ethertype (ETH_P_8021Q, ETH_P_8021AD).
    """
    _check(heads, 2 * _ETH_ALEN + _VLAN_HLEN, "room for a VLAN tag and Ethernet addresses")
    if tpid not in (ETH_P_8021Q, ETH_P_8021AD, ETH_P_QINQ1):
        raise ArgumentError(f"tpid 0x{tpid:04x} announces no VLAN tag. Next step: 0x8100, or 0x88a8 for an outer one.")
    identifier, level = Place(14, 2, 12), Place(14, 2, 3, 13)
    wanted = _each("vlan", values_for("vlan", identifier, vlan), len(heads))
    levels = _each("priority", values_for("priority", level, priority), len(heads))
    words = heads[:, :16].view("V4")
    words[:, :3] = words[:, 1:4].copy()
    heads[:, 12:16] = np.frombuffer(tpid.to_bytes(2, "big") + bytes(2), dtype=np.uint8)
    write(heads, identifier, wanted)
    write(heads, level, levels)
    return heads


def pop_vlan(heads: Heads) -> npt.NDArray[np.int64]:
    """Remove the outer VLAN tag where there is one. Returns shape (n,), int64: bytes to cut from the packet's front.

    heads: 18 bytes wide at least. With a tag, the Ethernet addresses move 4 bytes to the back, over the tag, and the
    result is 4, since the packet begins 4 bytes later. Without a tag nothing changes, and the result is 0. In an edit
    function: `heads = batch.head(18); cut = pop_vlan(heads); batch.put_head(heads); batch.grow_front(-cut)`.
    """
    _check(heads, _ETH_HLEN + _VLAN_HLEN, "an Ethernet header with a VLAN tag")
    tagged = ethertype_kinds().take(heads[:, 12:14].view(">u2")[:, 0]) == 1
    words = heads[:, :16].view("V4")
    if tagged.all():
        words[:, 1:4] = words[:, :3].copy()
    elif tagged.any():
        rows = np.flatnonzero(tagged)
        words[rows, 1:4] = words[rows, :3]
    cut: npt.NDArray[np.int64] = tagged * np.int64(_VLAN_HLEN)
    return cut


def _check(heads: Heads, least: int, what: str) -> None:
    checked_matrix(heads, "heads")
    if heads.shape[1] < least:
        raise ArgumentError(
            f"heads of {heads.shape[1]} bytes have no room for {what}. Next step: heads of {least} bytes at least."
        )


def _each(name: str, values: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    if values.shape not in ((), (n,)):
        raise cannot_be(name, values, f"one for all packets, or one for each, shape ({n},)")
    return values


def _index(mask: Mask, at: int | npt.NDArray[np.int64], offset: int) -> tuple[Any, Any]:
    """Return the index of one byte in each packet of the mask: a column, when it has the same offset in all packets."""
    if isinstance(at, int) and mask.all():
        return slice(None), at + offset
    rows = np.flatnonzero(mask)
    return rows, at + offset if isinstance(at, int) else at[rows] + offset


def _swap(heads: Heads, mask: Mask | None, at: int | npt.NDArray[np.int64], offset: int, size: int) -> None:
    """Exchange two neighbouring fields of `size` bytes in the packets of the mask; None: in all packets."""
    if not isinstance(at, int) and len(at) and bool((at == at[0]).all()):
        at = int(at[0])
    if isinstance(at, int) and (mask is None or bool(mask.all())):
        start = at + offset
        pair = heads[:, start : start + 2 * size].view(f"V{size}")
        first = pair[:, 0].copy()
        pair[:, 0] = pair[:, 1]
        pair[:, 1] = first
        return
    rows, start_of = _index(np.ones(len(heads), dtype=np.bool_) if mask is None else mask, at, offset)
    columns = np.reshape(start_of, (-1, 1)) + np.arange(2 * size)
    pairs = heads[rows[:, None], columns]
    heads[rows[:, None], columns] = np.roll(pairs, size, axis=1)
