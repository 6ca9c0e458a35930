# SPDX-License-Identifier: Apache-2.0
"""Internet checksums (RFC 1071) of many packets at once: computed, written into packets, and updated. Of a single
run of bytes too, for which the fixed costs of arrays would be most of the work.

Sums are of 16-bit words as they lie in memory. Byte order only swaps the two bytes of a one's complement sum, so no
byte needs to be swapped before or after.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.decode.gather import gather
from toolkit.decode.headers import Headers
from toolkit.decode.layouts import (
    IPPROTO_AH,
    IPPROTO_FRAGMENT,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_ROUTING,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4,
)
from toolkit.errors import ArgumentError

__all__ = [
    "checked_matrix",
    "checksum_of",
    "fill_checksums",
    "folded",
    "internet_checksum",
    "locate",
    "row_sums",
    "store",
    "transport_fields",
    "update",
    "updated",
    "word_sums",
]

Matrix = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp] | None  # None: all of them
Place = int | npt.NDArray[np.int64]  # one for all rows, or one each

_LAST = 1 if sys.byteorder == "little" else 256  # the weight of the last byte of an odd number
_MORE_OR_LATER = 0x3FFF  # of IPv4's flags and fragment offset: not zero in any fragment
_TCP, _UDP, _ICMP = 16, 6, 2  # offset of the checksum in the header


def checksum_of(data: bytes | memoryview) -> int:
    """Return the Internet checksum of one run of bytes: 16 bits, the number in the header."""
    total = int.from_bytes(data, "big") << (len(data) & 1) * 8
    # To add carries at the low end is to divide by 65535: nothing but zeros has the sum 0.
    return -total % 0xFFFF if total else 0xFFFF


N = TypeVar("N", int, npt.NDArray[np.int64])


def updated(checksum: N, old: N | int, new: N | int) -> N:
    """Return a checksum after 16 bits that it covers changed (RFC 1624): numbers as in the header, or arrays of them.

    The result is 1 to 0xffff, never 0: 0xffff verifies where 0 does, and also where all data are zeros.
    """
    return (checksum + old - new - 1) % 0xFFFF + 1


def internet_checksum(matrix: Matrix, start: npt.ArrayLike = 0, stop: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
    """Return the Internet checksum of bytes start to stop of every row: shape (n,), uint16, as in the header.

    matrix: shape (n, width), uint8. start, stop: one integer for all rows, or shape (n,); stop is the width when None.
    Where the bytes include a correct checksum the result is 0. ArgumentError when the range is not within the rows.
    """
    if matrix.ndim != 2 or matrix.dtype != np.uint8:
        raise cannot_be("matrix", matrix, "an array of shape (n, width) and dtype uint8, one row for each packet")
    n, width = matrix.shape
    starts = np.asarray(start, dtype=np.int64)
    stops = np.asarray(width if stop is None else stop, dtype=np.int64)
    if not {starts.shape, stops.shape} <= {(), (n,)}:
        wrong = starts if starts.shape not in ((), (n,)) else stops
        raise cannot_be("start and stop", wrong, f"one number for all rows, or one for each, shape ({n},)")
    if n and bool(np.any((starts < 0) | (starts > stops) | (stops > width))):
        raise ArgumentError(
            f"start to stop does not lie inside the {width} bytes of every row. Next step: give 0 <= start <= stop <= "
            f"{width}."
        )
    sums = row_sums(np.ascontiguousarray(matrix), None, _place(starts), _place(stops))
    return (~folded(sums)).view(">u2").astype(np.uint16)


def fill_checksums(matrix: Matrix, lengths: npt.ArrayLike | None = None) -> npt.NDArray[np.bool_]:
    """Write the checksums of IPv4, TCP, UDP, ICMP and ICMPv6 into packets, behind Ethernet and up to two VLAN tags.

    matrix: shape (n, width), uint8, C-contiguous, changed in place. lengths: bytes of each packet; the width when None.
    Returns shape (n,), bool: whether the transport checksum was written. It is not written where it cannot be computed:
    fragments, packets cut short, contradictory lengths, IPv6 with a routing header that is not used up, and protocols
    with another checksum or none. The IPv4 header checksum is written wherever that header is complete. A UDP checksum
    of 0 becomes 0xffff, since 0 means "none".
    """
    h = locate(matrix, lengths)
    filled = np.zeros(len(matrix), dtype=np.bool_)
    if not len(matrix):
        return filled
    _fill_ipv4(matrix, h)
    field, stop, good = transport_fields(matrix.reshape(-1), np.arange(len(matrix)) * matrix.shape[1], h)
    for is_family, six in ((h.is4, False), (h.is6, True)):
        if is_family is None:
            continue
        mask = good & is_family
        if count := int(np.count_nonzero(mask)):
            _fill_transport(matrix, h, None if count == len(mask) else np.flatnonzero(mask), field, stop, six)
            filled |= mask
    return filled


def update(
    matrix: Matrix,
    at: npt.ArrayLike,
    old: npt.ArrayLike,
    new: npt.ArrayLike,
    *,
    udp: bool = False,
    rows: npt.NDArray[Any] | None = None,
) -> None:
    """Correct checksums after a field changed, without reading the other bytes of the packet (RFC 1624).

    matrix: shape (n, width), uint8, changed in place. at: offset of the checksum in bytes, one for all rows or shape
    (m,). old, new: the field's value before and after: numbers of up to 32 bits as in the header, or bytes, shape (m,
    k), k even, uint8 (IPv6 addresses). The field must begin at an even offset in the bytes that the checksum covers, as
    every field of IP, TCP and UDP does that has more than one byte; of a field of one byte pass the whole 16-bit word.
    udp: a checksum of 0 means none and stays; one that becomes 0 is written as 0xffff.
    A message that becomes all zeros (only ICMP has such) gets 0, where 0xffff alone verifies (RFC 1624, section 3): use
    fill_checksums() there.
    rows: which packets, a mask or indices; m is their number, n when None. ArgumentError for anything else.
    """
    where = np.arange(len(matrix)) if rows is None else np.arange(len(matrix))[rows]
    places = np.broadcast_to(np.asarray(at, dtype=np.int64), where.shape)
    if len(where) and not (int(places.min()) >= 0 and int(places.max()) <= matrix.shape[1] - 2):
        wrong = places.min() if places.min() < 0 else places.max()
        raise cannot_be("at", int(wrong), f"offsets from 0 to {matrix.shape[1] - 2}: a checksum has two bytes")
    high, low = matrix[where, places], matrix[where, places + 1]
    was = high.astype(np.uint64) << np.uint64(8) | low
    # 48 bits are enough for the complement of the old field: its sum has no more.
    ones = np.uint64(0xFFFFFFFFFFFF)
    total = (was ^ np.uint64(0xFFFF)) + (_field_sums(old) ^ ones) + _field_sums(new)
    now = ~folded(total)
    if udp:
        now = np.where(was == 0, np.uint16(0), np.where(now == 0, np.uint16(0xFFFF), now))
    matrix[where, places] = now >> np.uint16(8)
    matrix[where, places + 1] = now & np.uint16(0xFF)


# --- sums ---------------------------------------------------------------------------------------------------------


def word_sums(block: Matrix) -> Sums:
    """Sum the 16-bit words of each row of shape (n, k), uint8, rows contiguous: shape (n,), uint64, not folded."""
    n, width = block.shape
    whole = width & ~3
    sums: Sums
    # Summed as words of 32 bits: the carry between their two halves stays right, because 2**16 is 1 modulo 65535.
    if whole:
        sums = np.einsum("ij->i", block[:, :whole].view(np.uint32), dtype=np.uint64)
    else:
        sums = np.zeros(n, dtype=np.uint64)
    if width & 2:
        sums += block[:, whole : whole + 2].view(np.uint16)[:, 0]
    if width & 1:
        sums += block[:, -1].astype(np.uint64) * np.uint64(_LAST)
    return sums


def folded(sums: Sums) -> npt.NDArray[np.uint16]:
    """Fold sums to 16 bits, carries added at the low end."""
    # The result is the remainder modulo 65535, except that it is 0 only for a sum of 0, and 65535 otherwise.
    one = np.uint64(1)
    remainder: npt.NDArray[np.uint16] = (((sums - one) % np.uint64(0xFFFF) + one) * (sums != 0)).astype(np.uint16)
    return remainder


def row_sums(matrix: Matrix, rows: Rows, start: Place, stop: Place) -> Sums:
    """Sum the words from start to stop of the rows: shape (len(rows),), uint64, not folded. matrix: C-contiguous."""
    if isinstance(start, int) and isinstance(stop, int):
        return word_sums(matrix[:, start:stop] if rows is None else matrix[rows, start:stop])
    which = np.arange(len(matrix)) if rows is None else rows
    starts, stops = np.broadcast_to(start, which.shape), np.broadcast_to(stop, which.shape)
    if np.any(starts & 1):
        return _padded_sums(matrix, which, starts, stops)
    return _ragged_sums(matrix, which, starts, stops)


def _ragged_sums(
    matrix: Matrix, rows: npt.NDArray[np.intp], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> Sums:
    """Do row_sums() for ranges that differ and begin at even offsets: each word is read once, none is masked."""
    width = matrix.shape[1]
    if width & 1:  # rows of whole words
        matrix = np.concatenate([matrix, np.zeros((len(matrix), 1), dtype=np.uint8)], axis=1)
        width += 1
    words = matrix.reshape(-1).view(np.uint16)
    base = rows * (width // 2)
    empty = stops - starts < 2
    cuts = np.empty(2 * len(rows), dtype=np.intp)
    cuts[0::2] = base + np.where(empty, 0, starts >> 1)  # reduceat wants cuts inside the array; see `within`
    cuts[1::2] = base + np.where(empty, 0, stops >> 1)
    within = cuts[:-1] if len(cuts) and cuts[-1] == len(words) else cuts
    sums: Sums = np.add.reduceat(words, within, dtype=np.uint64)[::2]
    sums[empty] = 0  # for an empty range reduceat returns the word at its start
    odd = np.flatnonzero((stops & 1 != 0) & (stops > starts))
    sums[odd] += matrix[rows[odd], stops[odd] - 1].astype(np.uint64) * np.uint64(_LAST)
    return sums


def _padded_sums(
    matrix: Matrix, rows: npt.NDArray[np.intp], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> Sums:
    """Do row_sums() for any ranges: they are copied to the left edge and filled up with zeros."""
    sizes = stops - starts
    width = (int(sizes.max(initial=0)) + 3) & ~3
    return word_sums(gather(matrix.reshape(-1), rows * matrix.shape[1] + starts, sizes, width))


def _field_sums(values: npt.ArrayLike) -> Sums:
    """Sum the words of a field given as numbers or as bytes, in network byte order."""
    field = np.asarray(values)
    if field.ndim == 2 and field.dtype == np.uint8 and field.shape[1] % 2 == 0:
        sums: Sums = np.ascontiguousarray(field).view(">u2").sum(axis=1, dtype=np.uint64)
        return sums
    if field.ndim > 1 or field.dtype.kind not in "iu":
        raise cannot_be("a field", field, "integers, shape (m,), or bytes, shape (m, k) with an even k and dtype uint8")
    if field.size and (int(field.min()) < 0 or int(field.max()) > 0xFFFFFFFF):
        raise ArgumentError("a field given as a number has 32 bits at most. Next step: give its bytes, shape (m, k).")
    return field.astype(np.uint64)


# --- where checksums are in a packet ------------------------------------------------------------------------------


def checked_matrix(matrix: Matrix, what: str = "packets") -> None:
    """Raise ArgumentError unless matrix has shape (n, width), dtype uint8, is contiguous and writeable."""
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype != np.uint8:
        raise cannot_be(what, matrix, "an array of shape (n, width) and dtype uint8, one row for each packet")
    if not matrix.flags.c_contiguous or not matrix.flags.writeable:
        fault = "cannot be written" if matrix.flags.c_contiguous else "is not contiguous"
        raise ArgumentError(f"{what} are changed in place, and this array {fault}. Next step: matrix.copy().")


def locate(matrix: Matrix, lengths: npt.ArrayLike | None = None, depth: int = 4) -> Headers:
    """Locate the headers of packets that are rows of a matrix. ArgumentError when matrix or lengths are not right."""
    checked_matrix(matrix)
    n, width = matrix.shape
    sizes = np.full(n, width, dtype=np.int64) if lengths is None else np.asarray(lengths, dtype=np.int64)
    if sizes.shape != (n,) or (n and (int(sizes.min()) < 0 or int(sizes.max()) > width)):
        raise cannot_be("lengths", sizes, f"one for each packet, shape ({n},), from 0 to {width} bytes")
    return Headers(matrix.reshape(-1), np.arange(n, dtype=np.int64) * width, sizes, depth)


def transport_fields(
    memory: Matrix, starts: npt.NDArray[np.int64], h: Headers
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Find the transport checksums: offset in the packet, offset of the end of what it covers, whether it is
    computable.

    memory: shape (size,), uint8. starts: shape (n,), where the packets of `h` begin in it. All three have shape (n,).
    """
    udp = h.protocol == IPPROTO_UDP
    size = np.where(udp, h.udp["length"], h.room)
    whole = h.readable & (h.declared <= h.length) & (h.fragment & np.uint16(_MORE_OR_LATER) == 0)
    is6 = h.has_ip6
    icmp = h.protocol == np.where(is6, IPPROTO_ICMPV6, IPPROTO_ICMP)
    tcp = h.protocol == IPPROTO_TCP
    field = udp * np.int64(_UDP) + tcp * np.int64(_TCP) + icmp * np.int64(_ICMP)
    least = np.where(tcp, 20, np.where(udp, 8, 4))
    good = whole & (field > 0) & (size >= least) & (size <= h.room)
    if h.is6 is not None:
        good &= ~_routed(memory, starts, h)
    return h.transport_at + field, h.transport_at + size, good


def _routed(memory: Matrix, starts: npt.NDArray[np.int64], h: Headers) -> npt.NDArray[np.bool_]:
    """Whether an IPv6 routing header is not used up: then the checksum covers the final destination, not ip6_dst."""
    routed = h.none()
    at = np.broadcast_to(np.add(h.network_at, 40), routed.shape)
    rows = np.flatnonzero(h.has_ip6 & h.readable & (h.transport_at > at))
    at, kind = starts[rows] + at[rows], h.ip6["next"][rows].astype(np.int64)
    while rows.size:
        routed[rows[(kind == IPPROTO_ROUTING) & (memory[at + 3] > 0)]] = True
        size = memory[at + 1].astype(np.int64)
        step = np.where(kind == IPPROTO_AH, (size + 2) * 4, np.where(kind == IPPROTO_FRAGMENT, 8, (size + 1) * 8))
        kind, at = memory[at].astype(np.int64), at + step
        more = at < starts[rows] + h.transport_at[rows]
        rows, at, kind = rows[more], at[more], kind[more]
    return routed


def _fill_ipv4(matrix: Matrix, h: Headers) -> None:
    mask = h.is4 & ~h.broken
    count = int(np.count_nonzero(mask))
    if not count:
        return
    rows = None if count == len(mask) else np.flatnonzero(mask)
    at = _picked(h.network_at, rows)
    size = _picked((h.network(IPV4)["version_ihl"] & 15).astype(np.int64) * 4, rows)
    store(matrix, rows, at + 10, np.uint16(0))
    store(matrix, rows, at + 10, ~folded(row_sums(matrix, rows, at, at + size)))


def _fill_transport(
    matrix: Matrix, h: Headers, rows: Rows, field: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], six: bool
) -> None:
    at, start = _picked(h.network_at, rows), _picked(h.transport_at, rows)
    place, end = _picked(field, rows), _picked(stop, rows)
    protocol = h.protocol if rows is None else h.protocol[rows]
    store(matrix, rows, place, np.uint16(0))
    sums = row_sums(matrix, rows, start, end)
    # The pseudo header: addresses, length, protocol. ICMP of IPv4 has none.
    pseudo = row_sums(matrix, rows, at + (8 if six else 12), at + (40 if six else 20))
    size = np.broadcast_to(np.subtract(end, start), protocol.shape)
    pseudo += (size + protocol).astype(">u4").view(np.uint32)
    if not six:
        pseudo[protocol == IPPROTO_ICMP] = 0
    value = ~folded(sums + pseudo)
    value[(value == 0) & (protocol == IPPROTO_UDP)] = 0xFFFF
    store(matrix, rows, place, value)


def store(matrix: Matrix, rows: Rows, at: Place, words: npt.NDArray[np.uint16] | np.uint16) -> None:
    """Write a 16-bit word, bytes as in memory, into each of the rows, at one offset or at one for each row."""
    if rows is None and isinstance(at, int):
        matrix[:, at : at + 2].view(np.uint16)[:, 0] = words
        return
    which = np.arange(len(matrix)) if rows is None else rows
    pairs = np.atleast_1d(words).view(np.uint8).reshape(-1, 2)
    matrix[which, at] = pairs[:, 0]
    matrix[which, at + 1] = pairs[:, 1]


def _picked(values: Place, rows: Rows) -> Place:
    """Return the values of these rows; one number when all are the same."""
    return values if isinstance(values, int) else _place(values if rows is None else values[rows])


def _place(values: npt.NDArray[np.int64]) -> Place:
    if values.ndim == 0:
        return int(values)
    if values.size and bool((values == values[0]).all()):
        return int(values[0])
    return values
