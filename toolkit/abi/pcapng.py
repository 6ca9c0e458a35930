# SPDX-License-Identifier: Apache-2.0
"""Constants and structs of two file formats: pcapng's blocks and options, classic pcap's headers. The drafts' names."""

from __future__ import annotations

import struct

import numpy as np

__all__ = [
    "BYTE_ORDER_MAGIC",
    "ENHANCED_PACKET_BLOCK",
    "EPB_FLAGS",
    "EPB_FLAGS_INBOUND",
    "EPB_HEADER",
    "EPB_HEADER_SIZE",
    "EPB_QUEUE",
    "IF_DESCRIPTION",
    "IF_FILTER",
    "IF_MACADDR",
    "IF_NAME",
    "IF_OS",
    "IF_SPEED",
    "IF_TSOFFSET",
    "IF_TSRESOL",
    "INTERFACE_DESCRIPTION_BLOCK",
    "INTERFACE_STATISTICS_BLOCK",
    "ISB_ENDTIME",
    "ISB_FILTERACCEPT",
    "ISB_IFDROP",
    "ISB_IFRECV",
    "ISB_OSDROP",
    "ISB_STARTTIME",
    "ISB_USRDELIV",
    "LINKTYPE_ETHERNET",
    "OBSOLETE_PACKET_BLOCK",
    "OPT_COMMENT",
    "OPT_ENDOFOPT",
    "PCAP_HEADER",
    "PCAP_HEADER_SIZE",
    "PCAP_MAGIC_NS",
    "PCAP_MAGIC_US",
    "PCAP_RECORD",
    "PCAP_RECORD_SIZE",
    "SECTION_HEADER_BLOCK",
    "SHB_HARDWARE",
    "SHB_OS",
    "SHB_USERAPPL",
    "SIMPLE_PACKET_BLOCK",
    "block",
    "option",
]

# --- pcapng (draft-ietf-opsawg-pcapng): block types -------------------------------------------------------------------

SECTION_HEADER_BLOCK = 0x0A0D0D0A  # the same in both byte orders
INTERFACE_DESCRIPTION_BLOCK = 1
OBSOLETE_PACKET_BLOCK = 2
SIMPLE_PACKET_BLOCK = 3
INTERFACE_STATISTICS_BLOCK = 5
ENHANCED_PACKET_BLOCK = 6

BYTE_ORDER_MAGIC = 0x1A2B3C4D

# --- options: of every block, of the section header, of an interface, of a packet, of statistics ----------------------

OPT_ENDOFOPT, OPT_COMMENT = 0, 1
SHB_HARDWARE, SHB_OS, SHB_USERAPPL = 2, 3, 4
IF_NAME, IF_DESCRIPTION, IF_MACADDR, IF_SPEED, IF_TSRESOL, IF_FILTER = 2, 3, 6, 8, 9, 11
IF_OS, IF_TSOFFSET = 12, 14
EPB_FLAGS, EPB_QUEUE = 2, 6
ISB_STARTTIME, ISB_ENDTIME, ISB_IFRECV, ISB_IFDROP, ISB_FILTERACCEPT, ISB_OSDROP, ISB_USRDELIV = 2, 3, 4, 5, 6, 7, 8

EPB_FLAGS_INBOUND = 1  # the two lowest bits of epb_flags are the direction

EPB_HEADER = np.dtype(
    [
        ("type", "=u4"),
        ("total_length", "=u4"),
        ("interface", "=u4"),
        ("time_high", "=u4"),
        ("time_low", "=u4"),
        ("captured", "=u4"),
        ("original", "=u4"),
    ]
)
"""In front of the bytes of each packet, which are filled up with zeros to a multiple of four."""

EPB_HEADER_SIZE = EPB_HEADER.itemsize

# --- classic pcap -----------------------------------------------------------------------------------------------------

PCAP_MAGIC_US, PCAP_MAGIC_NS = 0xA1B2C3D4, 0xA1B23C4D
LINKTYPE_ETHERNET = 1

PCAP_HEADER = np.dtype(
    [
        ("magic", "=u4"),
        ("major", "=u2"),
        ("minor", "=u2"),
        ("thiszone", "=i4"),
        ("sigfigs", "=u4"),
        ("snaplen", "=u4"),
        ("linktype", "=u4"),
    ]
)
PCAP_HEADER_SIZE = PCAP_HEADER.itemsize

PCAP_RECORD = np.dtype([("seconds", "=u4"), ("fraction", "=u4"), ("captured", "=u4"), ("original", "=u4")])
"""In front of the bytes of each packet; `fraction` is ns or us by the file's magic."""

PCAP_RECORD_SIZE = PCAP_RECORD.itemsize


def option(code: int, value: bytes) -> bytes:
    """Encode one pcapng option, filled up to a multiple of four bytes; values are cut at 65535 bytes."""
    value = value[:0xFFFF]
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(kind: int, body: bytes) -> bytes:
    """Encode one pcapng block around its body, whose length is a multiple of four."""
    total = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", kind) + total + body + total
