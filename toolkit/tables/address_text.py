# SPDX-License-Identifier: Apache-2.0
"""Addresses as text, many at once: no loop over the packets, no object for each of them, unless they are few."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from socket import inet_ntoa
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Numbers", "Text", "ip4_text", "ip6_text", "ip_text", "joined", "mac_text", "octets"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

_FEW = 32  # addresses that are written one by one: most batches have no more distinct ones, and arrays cost more
_COLON = ord(":")
_MAPPED = np.frombuffer(b"::ffff:", dtype=np.uint8)
_FFFF = np.frombuffer(b"\0\0\xff\xff", dtype=np.uint32)[0]  # the third word of an IPv4-mapped address


class Text(NamedTuple):
    """Strings (or bytes) one behind the other: item i is data[offsets[i]:offsets[i + 1]].

    data: shape (size,), uint8. offsets: shape (n + 1,), int32, as in Arrow. A missing item is empty.
    """

    data: Bytes
    offsets: npt.NDArray[np.int32]

    def strings(self) -> list[str]:
        """Return the items as Python strings: for display and for pandas, not for a hot path."""
        whole, at = self.data.tobytes().decode("ascii"), self.offsets.tolist()
        return [whole[begin:end] for begin, end in pairwise(at)]

    def runs(self) -> list[bytes]:
        """Return the items as Python bytes: for pandas, not for a hot path."""
        whole, at = self.data.tobytes(), self.offsets.tolist()
        return [whole[begin:end] for begin, end in pairwise(at)]


class Numbers(NamedTuple):
    """Addresses that are to be text, one a row, as numbers.

    ip4: shape (n,), -1 where there is none; Ethernet's 48 bits with `mac`. ip6: shape (n, 16), uint8, and is6, shape
    (n,), bool, in which rows it counts and not ip4; None: in no row.
    """

    ip4: Array
    ip6: Bytes | None = None
    is6: Flags | None = None
    mac: bool = False

    def text(self) -> Text:
        """Write every row."""
        if self.mac:
            return mac_text(self.ip4)
        if self.ip6 is None or self.is6 is None:
            return ip4_text(self.ip4)
        return ip_text(self.ip4, self.ip6, self.is6)


def joined(one: Text, other: Text) -> Text:
    """Return the items of two, one behind the other."""
    return Text(
        np.concatenate([one.data, other.data]), np.concatenate([one.offsets, other.offsets[1:] + one.offsets[-1]])
    )


def ip4_text(addresses: Array) -> Text:
    """Write IPv4 addresses: shape (n,), numbers of 32 bits in host order, -1 (empty) where there is none."""
    if len(addresses) <= _FEW:
        return _from_strings(["" if one < 0 else inet_ntoa(one.to_bytes(4, "big")) for one in addresses.tolist()])
    return _compact(_ip4_cells(addresses, addresses >= 0))


def ip6_text(addresses: Bytes) -> Text:
    """Write IPv6 addresses, shape (n, 16) uint8, as RFC 5952 has them: IPv4-mapped ones as `::ffff:192.0.2.1`."""
    if len(addresses) <= _FEW:
        return _from_strings([_ip6_string(one.tobytes()) for one in addresses])
    return _compact(_ip6_cells(addresses))


def ip_text(ip4: Array, ip6: Bytes, is6: Flags) -> Text:
    """Write one address a packet: ip6 where is6, else ip4, empty where that is -1. Shapes (n,), (n, 16), (n,)."""
    rows = np.flatnonzero(is6)
    if not rows.size:
        return ip4_text(ip4)
    if rows.size == len(is6):
        return ip6_text(ip6)
    cells = np.zeros((len(ip4), 40), dtype=np.uint8)
    cells[:, :16] = _ip4_cells(ip4, ip4 >= 0)
    cells[rows] = _ip6_cells(ip6[rows])
    return _compact(cells)


def mac_text(addresses: Array) -> Text:
    """Write Ethernet addresses: shape (n,), numbers of 48 bits, -1 (empty) where there is none."""
    if len(addresses) <= _FEW:
        return _from_strings(["" if one < 0 else one.to_bytes(6, "big").hex(":") for one in addresses.tolist()])
    groups = addresses.astype(">u8").view(">u2").reshape(-1, 4)[:, 1:]
    flat = _mac_groups().take(groups).view(np.uint8).reshape(-1, 18)[:, :17]  # no colon behind the last
    present = addresses >= 0
    sizes = present.astype(np.int32) * 17
    return Text((flat if present.all() else flat[present]).ravel(), _offsets(sizes))


def _from_strings(strings: list[str]) -> Text:
    """Return ASCII strings as a Text."""
    data = np.frombuffer("".join(strings).encode("ascii"), dtype=np.uint8)
    return Text(data, _offsets(np.fromiter(map(len, strings), dtype=np.int64, count=len(strings))))


@lru_cache(maxsize=1 << 12)
def _ip6_string(address: bytes) -> str:
    return _compact(_ip6_cells(np.frombuffer(address, dtype=np.uint8).reshape(1, 16))).strings()[0]


def octets(rows: Bytes, sizes: Array) -> Text:
    """Keep the first sizes[i] bytes of row i. rows: shape (n, width) uint8; sizes: shape (n,), 0 to width."""
    kept = np.arange(rows.shape[1]) < sizes[:, None]
    return Text(rows[kept], _offsets(sizes))


def _offsets(sizes: Array) -> npt.NDArray[np.int32]:
    offsets = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def _compact(cells: Bytes) -> Text:
    """Remove the zeros from rows of characters."""
    written = cells != 0
    return Text(cells[written], _offsets(np.count_nonzero(written, axis=1)))


def _ip4_cells(addresses: Array, present: Flags) -> Bytes:
    """Return rows of 16 characters, with zeros among them; all zero where there is no address."""
    cells = _dotted(addresses.astype(">u4").view(np.uint8).reshape(-1, 4))
    if not present.all():
        cells[~present] = 0
    return cells


def _dotted(raw: Bytes) -> Bytes:
    """Write four octets a row, shape (n, 4): rows of 16 characters, zeros among them."""
    words = _decimals()[raw]
    words[:, 3] &= 0x00FFFFFF if np.little_endian else 0xFFFFFF00  # no dot behind the last
    return words.view(np.uint8)


@lru_cache(maxsize=1)
def _decimals() -> npt.NDArray[np.uint32]:
    """Return a table: item k is k in up to three digits and a dot, four characters in a word. Shape (256,)."""
    text = b"".join(str(number).encode().ljust(3, b"\0") + b"." for number in range(256))
    return np.frombuffer(text, dtype=np.uint32)


def _ip6_cells(addresses: Bytes) -> Bytes:
    """Rows of 40 characters: for each of the eight groups a colon and four digits; zeros among them."""
    raw = np.ascontiguousarray(addresses)
    groups = raw.view(">u2")
    zeros = np.packbits(groups == 0, axis=1)[:, 0]
    keep, add = _shapes()
    digits = np.zeros((len(raw), 8, 5), dtype=np.uint8)
    digits[:, :, 1:] = _hexadecimals()[groups].view(np.uint8).reshape(-1, 8, 4)
    cells = digits.reshape(-1, 40)
    cells &= keep[zeros]
    cells |= add[zeros]
    words = raw.view(np.uint32)
    mapped = np.flatnonzero((words[:, 2] == _FFFF) & ((words[:, 0] | words[:, 1]) == 0))
    if mapped.size:  # RFC 5952, section 5
        cells[mapped] = 0
        cells[mapped, : len(_MAPPED)] = _MAPPED
        cells[mapped, len(_MAPPED) : len(_MAPPED) + 16] = _dotted(raw[mapped, 12:])
    return cells


@lru_cache(maxsize=1)
def _hexadecimals() -> npt.NDArray[np.uint32]:
    """Return a table: item k is k in one to four hexadecimal digits, in a word of four characters. Shape (65536,)."""
    text = b"".join(b"%x" % number + bytes(3 - (max(number.bit_length(), 1) - 1) // 4) for number in range(1 << 16))
    return np.frombuffer(text, dtype=np.uint32)


@lru_cache(maxsize=1)
def _mac_groups() -> Array:
    """Return a table: item k is k as two octets, each with a colon behind it. Shape (65536,), void of 6 bytes."""
    octets = [b"%02x:" % number for number in range(256)]
    return np.frombuffer(b"".join(high + low for high in octets for low in octets), dtype=np.dtype((np.void, 6)))


@lru_cache(maxsize=1)
def _shapes() -> tuple[Bytes, Bytes]:
    """What to keep of an address's digits, and which colons to add, by which of its groups are zero (the first in the
    highest bit). Two arrays of shape (256, 40): the longest run of two or more zero groups, the first of several,
    becomes `::`.
    """
    keep = np.zeros((256, 8, 5), dtype=np.uint8)
    add = np.zeros((256, 8, 5), dtype=np.uint8)
    for zeros in range(256):
        size, earliest = max((_run(zeros, at), -at) for at in range(8))
        begin = -earliest if size > 1 else 8
        for group in range(8):
            if begin <= group < begin + size:
                continue
            keep[zeros, group, 1:] = 0xFF
            add[zeros, group, 0] = _COLON if group else 0
        if begin < 8:
            add[zeros, begin, 0] = _COLON
            add[zeros, begin, 1] = _COLON if begin + size == 8 else 0
    return keep.reshape(256, 40), add.reshape(256, 40)


def _run(zeros: int, at: int) -> int:
    """How many groups from `at` on are zero."""
    size = 0
    while at + size < 8 and zeros >> (7 - at - size) & 1:
        size += 1
    return size
