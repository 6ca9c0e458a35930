# SPDX-License-Identifier: Apache-2.0
"""What the readers of both file formats share: RecordedInterface, FoundPackets, and link types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from toolkit.abi.pcapng import LINKTYPE_ETHERNET
from toolkit.errors import RecordedError
from toolkit.recorded.window import Window

__all__ = [
    "ByteOrder",
    "Corrupt",
    "FormatReader",
    "FoundPackets",
    "RecordedInterface",
    "link_type_error",
    "link_type_name",
]

ByteOrder = Literal["<", ">"]

# https://www.tcpdump.org/linktypes.html: the frequent ones
_LINK_TYPES = {
    0: "NULL (BSD loopback)",
    LINKTYPE_ETHERNET: "EN10MB (Ethernet)",
    101: "RAW (IP without a link header)",
    105: "IEEE802_11 (Wi-Fi)",
    108: "LOOP (OpenBSD loopback)",
    113: "LINUX_SLL (any interface)",
    127: "IEEE802_11_RADIOTAP (Wi-Fi)",
    187: "BLUETOOTH_HCI_H4",
    189: "USB_LINUX",
    220: "USB_LINUX_MMAPPED",
    228: "IPV4 (without a link header)",
    229: "IPV6 (without a link header)",
    239: "NFLOG",
    249: "USBPCAP",
    276: "LINUX_SLL2 (any interface)",
}


def link_type_name(number: int) -> str:
    """Return the name of a link type, as in libpcap, with its number."""
    return f"{_LINK_TYPES.get(number, 'link type')} {number}"


def link_type_error(file: str, number: int) -> RecordedError:
    """Build the error for a recording of another link type than Ethernet."""
    remedy = (
        "capture on one interface by name instead of `-i any`"
        if number in (113, 276)
        else "read it with tshark or scapy, or put an Ethernet header in front (`tcprewrite --dlt=enet`)"
    )
    return RecordedError(
        f"the packets in {file} are of link type {link_type_name(number)}; only Ethernet is understood. "
        f"Next step: {remedy}."
    )


@dataclass(frozen=True)
class RecordedInterface:
    """An interface as described in the file; empty or None where there is no description."""

    link_type: int
    name: str = ""
    description: str = ""
    filter: str = ""
    snaplen: int = 0  # bytes; 0: no limit
    resolution: int = 6  # if_tsresol: 10 to the minus that many seconds; with the highest bit set, 2 to the minus
    offset: int = 0  # seconds to add to all times
    os: str = ""


class FoundPackets(NamedTuple):
    """Packets in a window: arrays of shape (n,) over its memory."""

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.uint32]
    wire_lengths: npt.NDArray[np.uint32]
    utc_ns: npt.NDArray[np.int64]  # ns since 1970; NaT's int64 where there is no time


class Corrupt(Exception):  # noqa: N818 - a signal between modules; people see RecordedError
    """The bytes at `window.at` are not valid in this format."""


class FormatReader(Protocol):
    """Reads one of the file formats from a window."""

    interfaces: list[RecordedInterface]
    comment: str
    skipped: int  # packets left out because of their link type
    undated: int  # packets with a time outside of datetime64[ns]: they have NaT
    need: int  # bytes that take() needs in the window to continue; 0: it can continue

    def statistics(self) -> dict[str, int]:
        """Return the counts of the recording program, by name."""

    def take(self, window: Window, count: int) -> FoundPackets | None:
        """Return at most `count` packets from window.at on, and advance past them.

        Corrupt if the first is not valid.
        """
