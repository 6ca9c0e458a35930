# SPDX-License-Identifier: Apache-2.0
"""linux/if_xdp.h: constants, descriptors, and the structs of the AF_XDP socket options."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "AF_XDP",
    "SOL_XDP",
    "XDP_COPY",
    "XDP_DESC",
    "XDP_MAX_TX_SKB_BUDGET",
    "XDP_MMAP_OFFSETS",
    "XDP_OPTIONS",
    "XDP_OPTIONS_ZEROCOPY",
    "XDP_PACKET_HEADROOM",
    "XDP_PGOFF_RX_RING",
    "XDP_PGOFF_TX_RING",
    "XDP_PKT_CONTD",
    "XDP_RING_NEED_WAKEUP",
    "XDP_RX_RING",
    "XDP_SHARED_UMEM",
    "XDP_STATISTICS",
    "XDP_TX_METADATA",
    "XDP_TX_RING",
    "XDP_UMEM_COMPLETION_RING",
    "XDP_UMEM_FILL_RING",
    "XDP_UMEM_PGOFF_COMPLETION_RING",
    "XDP_UMEM_PGOFF_FILL_RING",
    "XDP_UMEM_REG",
    "XDP_UMEM_TX_METADATA_LEN",
    "XDP_USE_NEED_WAKEUP",
    "XDP_USE_SG",
    "XDP_ZEROCOPY",
    "MmapOffsets",
    "RingOffsets",
    "XDPDesc",
    "XDPStatistics",
    "parse_mmap_offsets",
    "parse_statistics",
]

AF_XDP = 44
SOL_XDP = 283

# sxdp_flags of bind()
XDP_SHARED_UMEM = 1 << 0
XDP_COPY = 1 << 1
XDP_ZEROCOPY = 1 << 2
XDP_USE_NEED_WAKEUP = 1 << 3
XDP_USE_SG = 1 << 4

# Socket options of SOL_XDP
XDP_MMAP_OFFSETS = 1
XDP_RX_RING = 2
XDP_TX_RING = 3
XDP_UMEM_REG = 4
XDP_UMEM_FILL_RING = 5
XDP_UMEM_COMPLETION_RING = 6
XDP_STATISTICS = 7
XDP_OPTIONS = 8
XDP_MAX_TX_SKB_BUDGET = 9  # most packets that one sendto() sends in copy mode; 32 in kernels without the option

XDP_UMEM_TX_METADATA_LEN = 1 << 2  # flag of XDP_UMEM_REG: tx_metadata_len is used

XDP_OPTIONS_ZEROCOPY = 1 << 0
XDP_RING_NEED_WAKEUP = 1 << 0
XDP_PKT_CONTD = 1 << 0  # option of a descriptor: the packet continues in the next one
XDP_TX_METADATA = 1 << 1  # option of a descriptor to send: there is metadata in front of the packet

# mmap() offsets of the rings
XDP_PGOFF_RX_RING = 0
XDP_PGOFF_TX_RING = 0x80000000
XDP_UMEM_PGOFF_FILL_RING = 0x100000000
XDP_UMEM_PGOFF_COMPLETION_RING = 0x180000000

# linux/bpf.h: bytes that the kernel keeps free in front of a received packet, inside the frame
XDP_PACKET_HEADROOM = 256


class XDPDesc(NamedTuple):
    """struct xdp_desc: where a packet is in the UMEM."""

    addr: int  # u64: offset of the packet's first byte from the start of the UMEM
    len: int  # u32: bytes
    options: int = 0  # u32: XDP_PKT_CONTD


# The same as a NumPy type, for arrays of descriptors.
XDP_DESC: npt.DTypeLike = np.dtype([("addr", "<u8"), ("len", "<u4"), ("options", "<u4")])


class RingOffsets(NamedTuple):
    """struct xdp_ring_offset: bytes from the start of a ring's mapping."""

    producer: int
    consumer: int
    desc: int
    flags: int


class MmapOffsets(NamedTuple):
    """struct xdp_mmap_offsets."""

    rx: RingOffsets
    tx: RingOffsets
    fr: RingOffsets
    cr: RingOffsets


def parse_mmap_offsets(raw: bytes) -> MmapOffsets:
    """Parse the result of getsockopt(XDP_MMAP_OFFSETS) (128 bytes since Linux 5.4)."""
    values = struct.unpack("=16Q", raw)
    return MmapOffsets(*(RingOffsets(*values[at : at + 4]) for at in range(0, 16, 4)))


class XDPStatistics(NamedTuple):
    """struct xdp_statistics."""

    rx_dropped: int  # no frame in the fill ring, or the packet was larger than a frame
    rx_invalid_descs: int  # fill ring entries that the kernel refused
    tx_invalid_descs: int  # TX ring entries that the kernel refused
    rx_ring_full: int  # the RX ring had no room: the program did not keep up
    rx_fill_ring_empty_descs: int  # times the kernel found the fill ring empty (also in rx_dropped, in copy mode)
    tx_ring_empty_descs: int  # times the kernel found the TX ring empty


def parse_statistics(raw: bytes) -> XDPStatistics:
    """Parse the result of getsockopt(XDP_STATISTICS); kernels before 5.9 return the first three fields only."""
    values = struct.unpack(f"={len(raw) // 8}Q", raw)
    return XDPStatistics(*values[:6], *(0,) * (6 - len(values)))
