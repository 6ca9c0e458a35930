# SPDX-License-Identifier: Apache-2.0
"""CaptureStatistics: what a capture has counted so far, and what it lacks."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CaptureStatistics"]


class CaptureStatistics(NamedTuple):
    """Packets and bytes of a capture so far."""

    received: int  # packets that came
    written: int  # of these, packets handed to the files
    bytes: int  # of the packets that found room, as kept
    wire_bytes: int  # of the same packets, as they were on the wire
    untimed: int  # of these, packets without an arrival time: they get that of their receipt, or none (Parquet)
    write_dropped: int  # packets dropped here: the file was too slow, or writing failed
    unwanted: int  # packets received beyond the wanted count, or after the last file
    accepted: int  # by the filter, as the XDP program counts
    dropped: int  # by the kernel: no free frame, or a full ring
    seen: int  # by the XDP program
    file_bytes: int  # on the disk
    files: int  # begun
    missed: int | None = (
        0  # packets that the NIC lost before any program saw them; None: it did, or may have, uncounted
    )

    @property
    def lost(self) -> int:
        """Packets that the filter accepted, and that the kernel or this process dropped."""
        return self.dropped + self.write_dropped
