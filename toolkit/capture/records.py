# SPDX-License-Identifier: Apache-2.0
"""About, Counts, Packets: what a file format gets: the source, the counts of lost packets, and the packets."""

from __future__ import annotations

import platform
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit._base.clock import NAT
from toolkit.capture.pack import Bytes
from toolkit.errors import ArgumentError

if TYPE_CHECKING:
    from toolkit.batch.batch import Batch

__all__ = ["LARGEST_SNAPLEN", "About", "Counts", "Packets", "packets_of"]

LARGEST_SNAPLEN = 262144  # libpcap's value for whole packets


class About(NamedTuple):
    """The source of the packets; "" and 0 where not known."""

    name: str = ""
    description: str = ""
    filter: str = ""
    mac: bytes = b""
    speed: int = 0  # bits/s
    queues: int = 1  # with more than one, each packet has its queue
    snaplen: int = LARGEST_SNAPLEN  # bytes kept of each packet, at most
    hardware: str = platform.machine()
    os: str = f"{platform.system()} {platform.release()}"

    @property
    def application(self) -> str:
        """The program that writes the file: "afxdp-toolkit 0.1.0"."""
        try:
            return f"afxdp-toolkit {metadata.version('afxdp-toolkit')}"
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            return "afxdp-toolkit"


class Counts(NamedTuple):
    """Counts of packets since the beginning of a capture, or of a file.

    At the end accepted = delivered + os_dropped + write_dropped, unless more packets came than were wanted.
    """

    received: int = 0  # seen by the XDP program
    accepted: int = 0  # of those, taken by the filter
    os_dropped: int = 0  # of those, dropped by the kernel: no free frame, or a full ring
    write_dropped: int = 0  # dropped here: the file was too slow, or writing failed
    delivered: int = 0  # written
    missed: int = 0  # lost by the NIC before the program could see them: in none of the others

    def since(self, before: Counts) -> Counts:
        """Return the counts since `before`, at least 0: after a failed write, `delivered` may have decreased."""
        return Counts(*(max(now - then, 0) for now, then in zip(self, before, strict=True)))


class Packets(NamedTuple):
    """Packets as arrays over one memory; n of them."""

    memory: Bytes
    offsets: npt.NDArray[np.int64]  # (n,) where each begins in memory
    captured: npt.NDArray[np.uint32]  # (n,) bytes of each that are kept
    original: npt.NDArray[np.integer[Any]]  # (n,) bytes of each on the wire
    times: npt.NDArray[np.int64]  # (n,) ns since 1970 UTC
    queue: int
    untimed: int  # packets without an arrival time: they have the time at which they were received

    def check_times(self, last: int, what: str, remedy: str) -> None:
        """Raise ArgumentError when a time is before 1970 or after `last` ns, because `what` cannot represent it."""
        # As unsigned numbers, times before 1970 are larger than every `last`.
        if len(self) and int(self.times.view(np.uint64).max()) > last:
            at = int(np.argmax(self.times.view(np.uint64) > last))
            time, end = (np.datetime64(int(ns), "ns") for ns in (self.times[at], last))
            raise ArgumentError(
                f"packet {at} of {len(self)} is of {time}, and {what} has no times but from 1970 to {end} (UTC): none "
                f"of this Batch was written. Next step: {remedy}."
            )

    def __len__(self) -> int:
        """Return the number of packets, not of fields."""
        return len(self.captured)

    def slice(self, begin: int, end: int) -> Packets:
        """Return packets begin to end - 1; `untimed` is in the first slice only."""
        at = slice(begin, end)
        arrays = (self.offsets[at], self.captured[at], self.original[at], self.times[at])
        return Packets(self.memory, *arrays, self.queue, 0 if begin else self.untimed)


def packets_of(batch: Batch, snaplen: int) -> Packets:
    """Return the packets of a Batch, cut to `snaplen` bytes. Those without an arrival time get the present one."""
    times = batch.timestamps.view(np.int64)
    missing = times == NAT
    untimed = int(np.count_nonzero(missing))
    if untimed:
        times = np.where(missing, time.time_ns(), times)
    captured = np.minimum(batch._words()[:, 2], np.uint32(snaplen))
    return Packets(batch._bytes(), batch._offsets(), captured, batch._on_wire(), times, batch.queue, untimed)
