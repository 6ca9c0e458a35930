# SPDX-License-Identifier: Apache-2.0
"""Places: where the columns of toolkit.decode are in a frame, which values fit there, and how they are written."""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.decode.headers import Headers
from toolkit.errors import ArgumentError

__all__ = ["IP6_WIDTH", "MAC_WIDTH", "Place", "places", "values_for", "write"]

Matrix = npt.NDArray[np.uint8]

MAC_WIDTH, IP6_WIDTH = 6, 16  # bytes; NumPy has no integers of these widths


class Place(NamedTuple):
    """Where a column is in the frame: `bits` bits, shifted by `shift` in the `width` bytes at offset `at`."""

    at: int
    width: int
    bits: int
    shift: int = 0


def places(h: Headers) -> dict[str, Place]:
    """Return the place of every column that the one frame of `h` has."""
    at, transport = int(np.atleast_1d(h.network_at)[0]), int(h.transport_at[0])
    places = {"eth_dst": Place(0, MAC_WIDTH, 48), "eth_src": Place(6, MAC_WIDTH, 48)}
    if h.having("tagged"):
        places["vlan"] = Place(14, 2, 12)
    if h.having("tagged2"):
        places["vlan_inner"] = Place(18, 2, 12)
    if h.having("has_arp"):
        places |= {
            "arp_op": Place(at + 6, 2, 16),
            "arp_sender_mac": Place(at + 8, MAC_WIDTH, 48),
            "arp_sender_ip": Place(at + 14, 4, 32),
            "arp_target_mac": Place(at + 18, MAC_WIDTH, 48),
            "arp_target_ip": Place(at + 24, 4, 32),
        }
    if h.having("is4"):
        places |= {
            "ip_src": Place(at + 12, 4, 32),
            "ip_dst": Place(at + 16, 4, 32),
            "ip_ttl": Place(at + 8, 1, 8),
            "ip_id": Place(at + 4, 2, 16),
            "ip_dscp": Place(at + 1, 1, 6, 2),
            "ip_ecn": Place(at + 1, 1, 2),
        }
    if h.having("has_ip6"):
        source, target = Place(at + 8, IP6_WIDTH, 128), Place(at + 24, IP6_WIDTH, 128)
        places |= {"ip_src": source, "ip_dst": target, "ip6_src": source, "ip6_dst": target}
        places |= {
            "ip_ttl": Place(at + 7, 1, 8),
            "ip_dscp": Place(at, 2, 6, 6),
            "ip_ecn": Place(at, 2, 2, 4),
            "ip6_flow_label": Place(at, 4, 20),
        }
    return places | _transport_places(h, transport)


def _transport_places(h: Headers, at: int) -> dict[str, Place]:
    places: dict[str, Place] = {}
    if h.having("has_ports"):
        places |= {"src_port": Place(at, 2, 16), "dst_port": Place(at + 2, 2, 16)}
    if h.having("has_tcp"):
        places |= {
            "tcp_seq": Place(at + 4, 4, 32),
            "tcp_ack": Place(at + 8, 4, 32),
            "tcp_flags": Place(at + 12, 2, 9),
            "tcp_window": Place(at + 14, 2, 16),
        }
    if h.having("has_icmp"):
        places |= {"icmp_type": Place(at, 1, 8), "icmp_code": Place(at + 1, 1, 8)}
    if h.having("has_echo"):
        places |= {"icmp_id": Place(at + 4, 2, 16), "icmp_seq": Place(at + 6, 2, 16)}
    return places


_KINDS = {48: ("an Ethernet", "02:00:00:00:00:01"), 32: ("an IPv4", "192.0.2.1"), 128: ("an IPv6", "2001:db8::1")}


def values_for(name: str, place: Place, given: Any) -> npt.NDArray[Any]:
    """Return the values for a place: shape () or (n,), any integer dtype; IPv6 addresses (16,) or (n, 16), uint8.

    given: integers, or an address as text. ArgumentError, which has the column's `name`, for values that do not fit.
    """
    if isinstance(given, str):
        given = _parsed(name, place, given)
    if isinstance(given, ipaddress.IPv4Address | ipaddress.IPv6Address):
        if given.max_prefixlen != place.bits:
            raise cannot_be(f"column {name!r}", str(given), f"an address of {place.bits} bits")
        given = int(given)
    if place.width == IP6_WIDTH:
        return _addresses(name, given)
    try:
        numbers = np.asarray(given)
    except ValueError as cause:
        raise ArgumentError(
            f"column {name!r} is not one row of integers: {cause}. Next step: give one integer for each packet, or one "
            "for all."
        ) from cause
    if numbers.ndim > 1 or (numbers.dtype.kind not in "iu" and (numbers.size or numbers.dtype != np.float64)):
        hint = "; addresses as numbers, not as text" if numbers.dtype.kind in "UO" else ""
        raise cannot_be(f"column {name!r}", numbers, f"one integer for each packet, or one for all{hint}")
    if not numbers.size:
        return numbers.astype(np.int64)
    largest = (1 << place.bits) - 1
    if int(numbers.min()) < 0 or int(numbers.max()) > largest:
        flat = numbers.reshape(-1)
        bad = int(np.flatnonzero((flat < 0) | (flat > largest))[0])
        hint = " (decode() has -1 where a packet does not have the field)" if flat[bad] == -1 else ""
        raise cannot_be(f"column {name!r} of packet {bad}", int(flat[bad]), f"a number from 0 to {largest}{hint}")
    return numbers


def _addresses(name: str, given: Any) -> Matrix:
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 1 << 128:
        given = given.to_bytes(IP6_WIDTH, "big")
    if isinstance(given, bytes | bytearray):
        given = np.frombuffer(given, dtype=np.uint8)
    rows: npt.NDArray[Any] = given if isinstance(given, np.ndarray) else np.zeros(0)
    if rows.dtype != np.uint8 or rows.ndim not in (1, 2) or rows.shape[-1] != IP6_WIDTH:
        raise cannot_be(f"column {name!r}", given, "IPv6 addresses: shape (n, 16) and dtype uint8, or one as text")
    return rows


def _parsed(name: str, place: Place, text: str) -> int:
    """Return an address, given as text, as a number."""
    try:
        if place.bits == 48:
            octets = bytes.fromhex(text.replace(":", "").replace("-", ""))
            if len(octets) != MAC_WIDTH:
                raise ValueError("not six bytes")
            return int.from_bytes(octets, "big")
        if place.bits == 32 and "ip" in name:
            return int(ipaddress.IPv4Address(text))
        if place.bits == 128:
            return int(ipaddress.IPv6Address(text))
    except ValueError as cause:
        kind, example = _KINDS[place.bits]
        raise ArgumentError(
            f"column {name!r}: {text!r} is not {kind} address ({cause}). Next step: give one such as {example}."
        ) from cause
    raise cannot_be(f"column {name!r}", text, "integers")


def write(out: Matrix, place: Place, values: Any) -> None:
    """Write values, as values_for() returned them, into every row; the other bits stay."""
    at, width = place.at, place.width
    if width == IP6_WIDTH:
        out[:, at : at + IP6_WIDTH] = values
    elif width == MAC_WIDTH:
        wide = values.astype(np.int64)
        out[:, at : at + 2].view(">u2")[:, 0] = wide >> 32
        out[:, at + 2 : at + 6].view(">u4")[:, 0] = wide & 0xFFFFFFFF
    else:
        field = out[:, at : at + width].view(f">u{width}")[:, 0]
        if place.bits < 8 * width:  # other fields share its bytes
            kept = (1 << 8 * width) - 1 - (((1 << place.bits) - 1) << place.shift)
            values = (field & np.array(kept, dtype=field.dtype)) | (values.astype(np.uint32) << place.shift)
        field[...] = values
