# SPDX-License-Identifier: Apache-2.0
"""Template: many copies of one frame, each with its own addresses, ports, numbers or payload, written as columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.decode.headers import Headers
from toolkit.decode.layouts import IPPROTO_ICMP, IPPROTO_UDP
from toolkit.errors import ArgumentError
from toolkit.packets.checksum import folded, locate, store, transport_fields, word_sums
from toolkit.packets.fields import IP6_WIDTH, Place, places, values_for, write

__all__ = ["Template"]

Matrix = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


class _Plan(NamedTuple):
    """How to compute one checksum: the sum of unchanged words, words to add as (offset, format), bytes of payload."""

    constant: int
    words: list[tuple[int, str]]
    payload: int


class _Given(NamedTuple):
    """The checked arguments of fill(): number of packets, values by column, payload of shape (n or 1, k)."""

    packets: int
    values: dict[str, Array]
    body: Matrix | None


class _Checksum(NamedTuple):
    """A checksum of the frame: its offset, the bytes it covers, and the sum of the other words of the pseudo header."""

    at: int
    covered: npt.NDArray[np.bool_]  # shape (len,), without its own two bytes
    besides: int
    never_zero: bool  # UDP's


class Template:
    """A frame to make others from: fill() returns n copies of it, each with its own values in some columns.

    Not thread-safe. The columns have the names of toolkit.decode; `columns` lists those that this frame has. Lengths,
    protocols and the order of headers stay those of the frame.
    """

    def __init__(self, frame: Any) -> None:
        """Take an Ethernet frame without its check sequence: bytes-like, 14 bytes at least; else ArgumentError."""
        try:
            octets = np.frombuffer(frame, dtype=np.uint8)
        except (TypeError, ValueError, BufferError) as cause:
            raise ArgumentError(
                f"a template is a frame as bytes, not {type(frame).__name__} ({cause}). Next step: bytes(frame)."
            ) from cause
        if octets.size < 14:
            raise ArgumentError(
                f"a template cannot have {octets.size} bytes. Next step: give a whole frame: an Ethernet header, 14 "
                "bytes, or more."
            )
        self._octets: Matrix = octets.reshape(1, -1).copy()
        headers = locate(self._octets)
        self._places = places(headers)
        # In decode() all of ARP is payload; here its fields have places of their own.
        end = int(headers.end[0])
        self._room = slice(end if headers.having("has_arp") else int(headers.payload_at[0]), end)
        self._checksums = _checksums(self._octets, headers)
        self._plans: dict[tuple[frozenset[str], int], list[_Plan]] = {}

    def __len__(self) -> int:
        """Return the bytes of each packet."""
        return self._octets.size

    def __repr__(self) -> str:
        """Show the frame as text, and its columns."""
        from toolkit.decode.columns import decode
        from toolkit.decode.text import summary

        text = summary(decode(self._octets[0], [0], [len(self)]), 0)
        return f"<Template: {text}; columns {', '.join(self.columns)}>"

    @property
    def frame(self) -> bytes:
        """The frame itself."""
        return self._octets.tobytes()

    @property
    def columns(self) -> list[str]:
        """Names of the columns that can be filled in; `payload` is the last."""
        return [*self._places, *(["payload"] if self._room.stop > self._room.start else [])]

    def fill(self, n: int | None = None, *, payload: Any = None, checksums: bool = True, **columns: Any) -> Matrix:
        """Return n copies of the frame, shape (n, len), uint8, with `columns` filled in.

        columns: by the names of toolkit.decode (`eth_dst`, `ip_src`, `src_port`, `ip_ttl`, `icmp_seq`, `tcp_seq`, …),
        each an array of n integers in host order, or one integer for all packets. An address for all packets may be
        text. IPv6 addresses are `ip_src`, or `ip6_src` as in decode: shape (n, 16), uint8, or one.
        n: by default the length of the columns, or 1 without such a column.
        payload: shape (n, k), uint8, or bytes for all packets: written over the first k bytes of the frame's payload.
        checksums: write those of IPv4 and TCP, UDP, ICMP or ICMPv6; with False they stay those of the frame.

        ArgumentError, with the column's name, when the frame does not have the column or a value does not fit.
        """
        made = self._checked(n, columns, payload)
        return self._write(np.empty((made.packets, len(self)), dtype=np.uint8), made, checksums)

    def fill_into(self, out: Matrix, *, payload: Any = None, checksums: bool = True, **columns: Any) -> Matrix:
        """Do fill() into `out`: shape (n, len), uint8, each row contiguous. Returns `out`."""
        self._check_out(out)
        return self._write(out, self._checked(len(out), columns, payload), checksums)

    def _checked(self, n: int | None, columns: dict[str, Any], payload: Any) -> _Given:
        """Check all arguments, before the first byte is written."""
        values = {name: values_for(name, self._place(name), given) for name, given in columns.items()}
        body = None if payload is None else self._payload(payload)
        counts = {} if n is None else {"n": n}
        for name, value in values.items():
            if value.ndim == (2 if self._places[name].width == IP6_WIDTH else 1):
                counts[name] = len(value)
        if body is not None and body.ndim == 2:
            counts["payload"] = len(body)
        if len(set(counts.values())) > 1:
            given = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ArgumentError(
                f"the arguments differ in their number of packets: {given}. Next step: give one value for all packets, "
                "or as many as there are packets."
            )
        count = next(iter(counts.values()), 1)
        if count < 0:
            raise cannot_be("n", count, "a number of packets from 0 on")
        return _Given(count, values, None if body is None else np.atleast_2d(body))

    def _write(self, out: Matrix, made: _Given, checksums: bool) -> Matrix:
        # Copied as one item a packet: several times faster than as rows of bytes.
        out.view(f"V{len(self)}")[:] = self._octets.view(f"V{len(self)}")
        for name, value in made.values.items():
            write(out, self._places[name], value)
        if made.body is not None:
            start = self._room.start
            out[:, start : start + made.body.shape[1]] = made.body
        if checksums:
            self._write_checksums(out, frozenset(made.values), made.body)
        return out

    def _place(self, name: str) -> Place:
        place = self._places.get(name)
        if place is None:
            raise ArgumentError(
                f"this template has no place for a column {name!r}; it has {', '.join(self.columns)}. "
                "Next step: a Template whose frame has that header."
            )
        return place

    def _payload(self, payload: Any) -> Matrix:
        """Return the checked payload: shape (n, k), or (k,) for all packets."""
        room = self._room.stop - self._room.start
        try:
            body = payload if isinstance(payload, np.ndarray) else np.frombuffer(payload, dtype=np.uint8)
        except (TypeError, ValueError, BufferError) as cause:
            raise cannot_be("payload", payload, "bytes, or an array of shape (n, k) and dtype uint8") from cause
        if body.dtype != np.uint8 or body.ndim not in (1, 2):
            raise cannot_be("payload", body, "an array of shape (n, k) and dtype uint8")
        if body.shape[-1] > room:
            raise ArgumentError(
                f"a payload of {body.shape[-1]} bytes does not fit: the template's frame has {room}. "
                "Next step: a Template whose frame has a longer payload."
            )
        return np.ascontiguousarray(body)

    def _check_out(self, out: Matrix) -> None:
        if not isinstance(out, np.ndarray) or out.dtype != np.uint8 or out.ndim != 2 or out.shape[1] != len(self):
            raise cannot_be("out", out, f"an array of shape (n, {len(self)}) and dtype uint8")
        if not out.flags.writeable or out.strides[1] != 1:
            raise ArgumentError(
                "fill_into() cannot write into this array: it is read-only, or its rows do not lie together in memory. "
                "Next step: give out.copy()."
            )

    def _write_checksums(self, out: Matrix, names: frozenset[str], body: Matrix | None) -> None:
        plans = self._plan(names, 0 if body is None else body.shape[1])
        for checksum, plan in zip(self._checksums, plans, strict=True):
            sums = np.full(len(out), plan.constant, dtype=np.uint64)
            for at, form in plan.words:
                sums += out[:, at : at + int(form[1])].view(form)[:, 0]
            if body is not None and plan.payload:
                sums += word_sums(body[:, : plan.payload])
            value = ~folded(sums)
            if checksum.never_zero:
                value[value == 0] = 0xFFFF
            store(out, None, checksum.at, value)

    def _plan(self, names: frozenset[str], size: int) -> list[_Plan]:
        """Return the plan of each checksum for these columns and `size` bytes of payload."""
        plans = self._plans.get((names, size))
        if plans is None:
            changed = np.zeros(len(self) + 1, dtype=np.bool_)  # the last word may reach past the frame
            for name in names:
                place = self._places[name]
                changed[place.at & ~1 : (place.at + place.width + 1) & ~1] = True
            body = slice(self._room.start, self._room.start + size)
            plans = [self._planned(checksum, changed[:-1], body) for checksum in self._checksums]
            self._plans[names, size] = plans
        return plans

    def _planned(self, checksum: _Checksum, changed: npt.NDArray[np.bool_], body: slice) -> _Plan:
        same = checksum.covered & ~changed
        same[body] = False
        words: list[tuple[int, str]] = []
        for at in (np.flatnonzero((checksum.covered & changed)[::2]) * 2).tolist():
            if words and words[-1] == (at - 2, "u2"):
                words[-1] = (at - 2, "u4")  # two words at once
            else:
                words.append((at, "u2"))
        constant = int(word_sums(self._octets * same)[0]) + checksum.besides
        # Only the beginning of the payload may be covered: it may be longer than the UDP length says.
        return _Plan(constant, words, int(np.count_nonzero(checksum.covered[body])))


def _checksums(octets: Matrix, h: Headers) -> list[_Checksum]:
    """Return the checksums of the one frame of `h`: of its IPv4 header, and of its transport."""
    found = []
    size = octets.shape[1]
    at, transport, protocol = int(np.atleast_1d(h.network_at)[0]), int(h.transport_at[0]), int(h.protocol[0])
    if h.having("is4") and not h.broken[0]:
        header = at + (int(octets[0, at]) & 15) * 4
        found.append(_Checksum(at + 10, _bytes(size, at + 10, (at, header)), 0, False))
    field, stop, good = transport_fields(octets.reshape(-1), np.zeros(1, dtype=np.int64), h)
    if good[0]:
        six, place, end = bool(h.has_ip6[0]), int(field[0]), int(stop[0])
        addresses = (at + 8, at + 40) if six else (at + 12, at + 20)
        # Length and protocol of the pseudo header, as words in memory.
        besides = int(np.array([end - transport + protocol], dtype=">u4").view(np.uint32)[0])
        if protocol == IPPROTO_ICMP and not six:
            addresses, besides = (0, 0), 0
        covered = _bytes(size, place, (transport, end), addresses)
        found.append(_Checksum(place, covered, besides, protocol == IPPROTO_UDP))
    return found


def _bytes(size: int, without: int, *ranges: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return a mask of the bytes in the ranges, without the two of the checksum."""
    covered = np.zeros(size, dtype=np.bool_)
    for start, stop in ranges:
        covered[start:stop] = True
    covered[without : without + 2] = False
    return covered
