# SPDX-License-Identifier: Apache-2.0
"""What a file format needs to know: of the packets it writes, of where they come from, of what was lost."""

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

LARGEST_SNAPLEN = 262144  # what libpcap takes for "all of it"


class About(NamedTuple):
    """Where packets come from; "" and 0 where not known."""

    name: str = ""
    description: str = ""
    filter: str = ""
    mac: bytes = b""
    speed: int = 0  # bits/s
    queues: int = 1  # with more than one, each packet tells its queue
    snaplen: int = LARGEST_SNAPLEN  # bytes kept of each packet, at most
    hardware: str = platform.machine()
    os: str = f"{platform.system()} {platform.release()}"

    @property
    def application(self) -> str:
        """What writes the file: "afxdp-toolkit 0.1.0"."""
        try:
            return f"afxdp-toolkit {metadata.version('afxdp-toolkit')}"
        except metadata.PackageNotFoundError:  # a bare checkout on the path
            return "afxdp-toolkit"


class Counts(NamedTuple):
    """Packets from the beginning of a capture, or of a file. accepted = delivered + os_dropped + write_dropped, once
    nothing is under way any more (and unless more came than were asked for).
    """

    received: int = 0  # seen by the XDP program
    accepted: int = 0  # of those, taken by the filter
    os_dropped: int = 0  # of those, dropped by the kernel: no free frame, or a full ring
    write_dropped: int = 0  # dropped here: what they were to be written to did not keep up, or failed
    delivered: int = 0  # written

    def since(self, before: Counts) -> Counts:
        """Return what was counted after `before`: never less than 0, though a failure takes back what was delivered."""
        return Counts(*(max(now - then, 0) for now, then in zip(self, before, strict=True)))


class Packets(NamedTuple):
    """Packets as arrays over one memory; n of them."""

    memory: Bytes
    offsets: npt.NDArray[np.int64]  # (n,) where each begins
    captured: npt.NDArray[np.uint32]  # (n,) bytes of each that are kept
    original: npt.NDArray[np.integer[Any]]  # (n,) bytes of each on the wire
    times: npt.NDArray[np.int64]  # (n,) ns since 1970 UTC
    queue: int
    untimed: int  # how many had no time of arrival: theirs is that of their receipt

    def check_times(self, last: int, what: str, remedy: str) -> None:
        """ArgumentError where a time is before 1970 or after `last` ns, for `what` would hold another time then."""
        # Taken as unsigned, what is before 1970 is far behind every `last`.
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
        """Return packets begin to end - 1; `untimed` goes with the first slice."""
        at = slice(begin, end)
        arrays = (self.offsets[at], self.captured[at], self.original[at], self.times[at])
        return Packets(self.memory, *arrays, self.queue, 0 if begin else self.untimed)


def packets_of(batch: Batch, snaplen: int) -> Packets:
    """Return the packets of a Batch, cut to `snaplen` bytes. Those without a time of arrival get that of now."""
    times = batch.timestamps.view(np.int64)
    missing = times == NAT
    untimed = int(np.count_nonzero(missing))
    if untimed:
        times = np.where(missing, time.time_ns(), times)
    captured = np.minimum(batch._words()[:, 2], np.uint32(snaplen))
    return Packets(batch._bytes(), batch._offsets(), captured, batch._on_wire(), times, batch.queue, untimed)
