# SPDX-License-Identifier: Apache-2.0
"""Rows of Flows for users: Flow objects, and table columns, with addresses and ports instead of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit.decode.text import ethertype_name, format_mac, protocol_name
from toolkit.flows.keys import Ends, Group, ends_of, swapped_ends
from toolkit.tables.address_text import Text, ip_text
from toolkit.tables.cells import Cells
from toolkit.tables.schema import NUMBERS

if TYPE_CHECKING:
    from toolkit.flows.table import Sums

__all__ = ["Flow", "flow_cells", "flow_list"]

Array = npt.NDArray[Any]


class Flow(NamedTuple):
    """One row of Flows. None where the group does not have a value, or the packets do not.

    `str(flow)` is one line: `10.0.0.1:5000 → 10.0.0.2:53 UDP`, `10.0.0.1`, `53/UDP`, `UDP`.
    """

    source: str | None  # an IP address, or the Ethernet address of packets that are not IP
    source_port: int | None
    destination: str | None
    destination_port: int | None
    protocol: str | None  # UDP, ARP, ...
    packets: int
    bytes: int
    back_packets: int  # of `packets`, those from destination to source, with bidirectional=True
    back_bytes: int
    first: np.datetime64  # UTC
    last: np.datetime64
    tcp_flags: int  # all that were seen: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, ...
    recent_packets: int  # since mark()
    recent_bytes: int

    def __str__(self) -> str:
        """Return the row's key as one line of text."""
        if self.source is None and self.destination is None:
            if self.destination_port is not None:
                return f"{self.destination_port}/{self.protocol}"
            return self.protocol or "?"
        ends = [_end(self.source, self.source_port), _end(self.destination, self.destination_port)]
        both = " → ".join(end for end in ends if end)
        return f"{both} {self.protocol}" if self.protocol else both


def _end(address: str | None, port: int | None) -> str:
    if address is None:
        return ""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def flow_list(counted: Sums, marked: dict[str, Array], group: Group) -> list[Flow]:
    """Return rows as Flow objects. marked: their counters at the last mark()."""
    ends = _ends(counted, group)
    protocols = _protocols(ends)
    sources, destinations = _addresses(ends, ends.source, group), _addresses(ends, ends.destination, group)
    counters = counted.counters
    first, last = (times.view("datetime64[ns]") for times in (counted.first, counted.last))
    return [
        Flow(
            sources[row] if group in ("flow", "source") else None,
            _known(ends.source_port[row]),
            destinations[row] if group in ("flow", "destination") else None,
            _known(ends.destination_port[row]),
            protocols[row],
            int(counters["packets"][row]),
            int(counters["octets"][row]),
            int(counters["back_packets"][row]),
            int(counters["back_octets"][row]),
            first[row],
            last[row],
            int(counted.flags[row]),
            int(counters["packets"][row] - marked["packets"][row]),
            int(counters["octets"][row] - marked["octets"][row]),
        )
        for row in range(len(counted.hashes))
    ]


def flow_cells(counted: Sums, marked: dict[str, Array], group: Group, bidirectional: bool) -> list[Cells]:
    """Return rows as table columns; only the columns that the group has."""
    ends = _ends(counted, group)
    cells = []
    if group == "flow":
        cells.append(_number("ip_version", np.where(ends.version > 0, ends.version, -1)))
    if group in ("flow", "port", "protocol"):
        cells.append(_number("ip_proto", ends.protocol))
        cells.append(_number("ethertype", ends.ethertype))
    if group in ("flow", "source"):
        cells.append(_text("source", _addresses(ends, ends.source, group)))
    if group == "flow":
        cells.append(_number("source_port", ends.source_port, "src_port"))
    if group in ("flow", "destination"):
        cells.append(_text("destination", _addresses(ends, ends.destination, group)))
    if group in ("flow", "port"):
        cells.append(_number("destination_port" if group == "flow" else "port", ends.destination_port, "dst_port"))
    if group not in ("source", "destination"):
        cells.append(_text("protocol", _protocols(ends)))
    names = {"packets": "packets", "bytes": "octets"}
    if bidirectional:
        names |= {"back_packets": "back_packets", "back_bytes": "back_octets"}
    cells += [Cells(name, counted.counters[key], None, False) for name, key in names.items()]
    cells.append(Cells("first", counted.first.view("datetime64[ns]"), None, False, "time"))
    cells.append(Cells("last", counted.last.view("datetime64[ns]"), None, False, "time"))
    if group == "flow":
        cells.append(_number("tcp_flags", np.where(ends.protocol == 6, counted.flags.astype(np.int64), -1)))
    return cells


def _ends(counted: Sums, group: Group) -> Ends:
    words = swapped_ends(counted.words, counted.turned) if counted.turned.any() else counted.words
    return ends_of(words, group)


def _addresses(ends: Ends, halves: Array, group: Group) -> list[str]:
    """Return one address a row, as text; '' in all rows when the group has no addresses."""
    if group in ("port", "protocol"):
        return [""] * len(halves)
    low = halves[:, 1]
    ip4 = np.where(ends.version == 4, low & np.uint64(0xFFFFFFFF), np.uint64(0)).astype(np.int64)
    ip4[ends.version != 4] = -1
    ip6 = np.ascontiguousarray(halves, dtype=">u8").view(np.uint8).reshape(-1, 16)
    written = ip_text(ip4, ip6, ends.version == 6).strings()
    rows = np.flatnonzero(ends.version == 0)
    for row, text in zip(rows.tolist(), format_mac(low[rows].astype(np.int64)), strict=True):
        written[row] = text
    return written


def _protocols(ends: Ends) -> list[str | None]:
    names: dict[tuple[int, int], str | None] = {}
    for protocol, ethertype in {*zip(ends.protocol.tolist(), ends.ethertype.tolist(), strict=True)}:
        name = protocol_name(protocol) if protocol >= 0 else ethertype_name(ethertype) if ethertype >= 0 else None
        names[protocol, ethertype] = name
    return [names[key] for key in zip(ends.protocol.tolist(), ends.ethertype.tolist(), strict=True)]


def _known(value: Any) -> int | None:
    return None if value < 0 else int(value)


def _number(name: str, values: Array, kind: str = "") -> Cells:
    """Return a column with the type that column `kind` (by default the same name) has in a table of packets."""
    present = values >= 0
    return Cells(name, values.astype(NUMBERS[kind or name]), None if present.all() else present, True)


def _text(name: str, strings: list[Any]) -> Cells:
    raw = [(text or "").encode() for text in strings]
    offsets = np.zeros(len(raw) + 1, dtype=np.int32)
    np.cumsum([len(one) for one in raw], out=offsets[1:])
    return Cells(name, Text(np.frombuffer(b"".join(raw), dtype=np.uint8), offsets), None, True, "text")
