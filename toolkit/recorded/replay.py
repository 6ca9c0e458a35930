# SPDX-License-Identifier: Apache-2.0
"""toolkit.replay(): send recorded packets on an interface, with their own timing or another."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be, whole
from toolkit._base.clock import NAT
from toolkit.batch.batch import Batch
from toolkit.errors import ArgumentError
from toolkit.interface.interface import Interface
from toolkit.packets.checksum_offload import finish_checksums as finished_in
from toolkit.recorded.recorded import Recorded, read
from toolkit.xsk.socket import Socket

__all__ = ["Ended", "Replay", "Replayed", "replay"]

_U32 = 0xFFFFFFFF
_SECOND = 1_000_000_000
_LINK_HEADER, _TAG = 14, 4  # bytes of the Ethernet header and of a VLAN tag, which are not part of the MTU
_TIMEOUT = 0.2  # seconds of the longest wait before stop() and tick() are called again
_BATCH = 1024  # packets read at a time: as a matrix they fit the CPU's cache
_SET_BACK = 10 * _SECOND  # ns: a larger step back means that the clock was set; a smaller one, that queues took turns
_SET_FORWARD = 366 * 86_400 * _SECOND  # ns: so does a larger step forward: a machine without a battery starts in 1970
_FLUSH = 5.0  # seconds to wait until the last packets have left

Times = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.uint8]
Lengths = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Ended(Exception):  # noqa: N818 - a signal between modules, no error
    """Raised while reading, when no more packets are wanted."""


class Replayed(NamedTuple):
    """Counts of a replay."""

    packets: int  # put into the TX ring
    octets: int  # their bytes
    too_long: int  # left out: longer than the interface's MTU or a frame of the UMEM
    too_short: int  # left out: without a whole Ethernet header
    cut: int  # of those sent, recorded with fewer bytes than they had
    finished: int  # of those sent, packets recorded before a device had finished their checksum
    behind: float  # seconds of the largest delay of a packet
    seconds: float  # from the first packet to the end


def replay(
    interface: Interface | Socket,
    recorded: Any,
    *,
    speed: float | None = 1.0,
    rate: float | None = None,
    max_gap: float | None = None,
    count: int | None = None,
    loop: int = 1,
    queue: int | None = None,
    finish_checksums: bool = True,
) -> Replayed:
    """Send recorded packets on one queue of `interface`; return when all have left, or 5 s after the last one.

    recorded: an argument or result of read(), a Batch, or several. queue: by default the first that is open.
    speed: 1.0 keeps the times between packets, 2.0 halves them; None: as fast as possible. rate: packets/s, evenly,
    instead of the recorded times. max_gap: seconds of the longest pause between two packets. A step forward by more
    than a year, or back by more than 10 s, means that the clock was set: then there is no pause. count: most packets to
    send.
    loop: how many times; needs a path, or Batches. Packets are sent as they are, with their addresses and checksums.
    finish_checksums: finish those that the sending host had left to its device when it recorded the packet (see
    toolkit.packets.finish_checksums). Packets that the interface cannot send are left out, and counted.

    ArgumentError, and what read() and send() raise.
    """
    loop, count = whole("loop", loop, 1), count if count is None else whole("count", count, 1)
    once = isinstance(recorded, Recorded | Iterator) or hasattr(recorded, "read") or recorded == "-"
    if loop > 1 and once:
        raise ArgumentError(f"{recorded!r} can be read once only. Next step: give its path, or leave loop out.")
    sock = interface if isinstance(interface, Socket) else _socket(interface, queue)
    player = Replay(sock, speed=speed, rate=rate, max_gap=max_gap, limit=count, finish=finish_checksums)
    for _ in range(loop):
        player.round(recorded)
    sock.flush(_FLUSH)  # else who closes the Interface at once takes back what has not left
    return player.statistics()


def _above_zero(value: Any) -> bool:
    try:
        return bool(0 < value < float("inf"))
    except TypeError:
        return False


def _socket(interface: Interface, queue: int | None) -> Socket:
    for sock in interface.sockets:
        if queue is None or sock.queue == queue:
            return sock
    raise ArgumentError(
        f"queue {queue} of {interface.name} was not opened. Next step: name one that was, or open it with `queues=...`."
    )


class Replay:
    """Sends batch after batch, each packet at its time. Not thread-safe: it is the sending thread of the Socket."""

    def __init__(
        self,
        sock: Socket,
        *,
        speed: float | None = 1.0,
        rate: float | None = None,
        max_gap: float | None = None,
        limit: int | None = None,
        finish: bool = True,
        stop: Callable[[], object] = lambda: False,
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the arguments of replay(). stop: called often; ends the replay when true. tick: called often."""
        if speed is not None and not _above_zero(speed):
            raise cannot_be("speed", speed, "a number above 0 (1.0: as recorded), or None")
        if rate is not None and not _above_zero(rate):
            raise cannot_be("rate", rate, "a number of packets per second above 0")
        if max_gap is not None and not _above_zero(max_gap):
            raise cannot_be("max_gap", max_gap, "a number of seconds above 0")
        self._sock = sock
        self._speed = speed
        self._most = float("inf") if max_gap is None else max_gap * _SECOND  # ns
        self._rate = rate
        self._limit = limit
        self._finish = finish
        self._stop = stop
        self.tick = tick
        self._frame_size: int = sock.umem.frame_size
        self._longest: int = sock.device.mtu + _LINK_HEADER
        self._began = 0  # CLOCK_MONOTONIC ns at which the first packet was due
        self._due = 0.0  # ns after that, at which the last scheduled packet is due
        self._last = NAT  # its time in the recording, ns since 1970
        self._front = 0  # ns: the latest time so far, from which due times are measured
        self._ahead = 0  # ns by which the recording's clock was set back so far, in total
        self._counts = {"packets": 0, "octets": 0, "too_long": 0, "too_short": 0, "cut": 0, "finished": 0}
        self._behind = 0

    def __repr__(self) -> str:
        """Show where, and how far it is."""
        packets, octets = self.statistics()[:2]
        return f"<Replay on {self._sock.interface} queue {self._sock.queue}: {packets} packets, {octets} bytes sent>"

    def statistics(self) -> Replayed:
        """Return the counts so far."""
        seconds = (time.monotonic_ns() - self._began) / _SECOND if self._began else 0.0
        return Replayed(**self._counts, behind=self._behind / _SECOND, seconds=seconds)

    @property
    def done(self) -> bool:
        """Whether `limit` is reached, or stop() returned true."""
        return bool(self._stop()) or (self._limit is not None and self._counts["packets"] >= self._limit)

    def round(self, recorded: Any) -> None:
        """Send a recording from its beginning. In a loop, its first packet follows the last one at once."""
        self._last = NAT
        if isinstance(recorded, str | bytes | os.PathLike) or hasattr(recorded, "read"):
            with contextlib.suppress(Ended), read(recorded, batch_size=_BATCH, between=self._between) as opened:
                self._send_all(opened)
        else:
            with contextlib.suppress(Ended):
                self._send_all([recorded] if isinstance(recorded, Batch) else recorded)

    def _between(self) -> None:
        """Call stop() and tick() while a file is read in which no packet comes for long."""
        self.tick()
        if self.done:
            raise Ended

    def _send_all(self, batches: Iterable[Batch]) -> None:
        if isinstance(batches, Recorded):
            batches.between = self._between
        for batch in batches:
            if self.done:
                return
            self.send(batch)

    def send(self, batch: Batch) -> None:
        """Send the packets of one Batch, each when it is due."""
        lengths = batch.lengths
        if not len(lengths):
            return
        if not self._began:
            self._began = time.monotonic_ns()
        due = self._schedule(batch.timestamps.view(np.int64))
        keep, width = self._sendable(batch, lengths)
        if not width:
            return
        cut = batch.wire_lengths > lengths
        matrix = batch.head(width)
        if not keep.all():
            matrix, lengths, due, cut = matrix[keep], lengths[keep], due[keep], cut[keep]
        if self._limit is not None and (left := self._limit - self._counts["packets"]) < len(lengths):
            matrix, lengths, due, cut = matrix[:left], lengths[:left], due[:left], cut[:left]
        finished = finished_in(matrix, lengths) if self._finish else np.zeros(len(lengths), dtype=np.bool_)
        self._send_due(matrix, lengths, due, cut, finished)

    def _schedule(self, times: Times) -> npt.NDArray[np.float64]:
        """Return when each packet is due, ns after the beginning: shape (n,), not decreasing.

        A packet without a time is due with the one before it; so is one with an earlier time, as in a capture of
        several queues, which has them batch by batch.
        """
        n = len(times)
        if self._rate is not None:
            due: npt.NDArray[Any] = self._due + np.arange(n) * (_SECOND / self._rate)
            self._due += n * (_SECOND / self._rate)
            return due
        if self._speed is None:
            return np.zeros(n)
        known = np.maximum.accumulate(np.where(times != NAT, np.arange(n), -1))
        if known[-1] < 0:
            return np.full(n, self._due)
        if self._last == NAT:
            self._last = self._front = int(times[int((known >= 0).argmax())])
            self._ahead = 0
        filled = np.where(known >= 0, times[known], self._last)
        steps = np.diff(filled, prepend=self._last)
        self._last = int(filled[-1])
        # A clock that was set must not stop the following packets, and queues that take turns must not add time.
        was_set = (steps < -_SET_BACK) | (steps > _SET_FORWARD)
        ahead = self._ahead - np.cumsum(np.where(was_set, steps, 0))
        front = np.maximum.accumulate(np.maximum(filled + ahead, self._front))
        gaps = np.diff(front, prepend=self._front)
        self._ahead, self._front = int(ahead[-1]), int(front[-1])
        due = self._due + np.cumsum(np.minimum(np.maximum(gaps, 0) / self._speed, self._most))
        self._due = float(due[-1])
        return due

    def _sendable(self, batch: Batch, lengths: Lengths) -> tuple[npt.NDArray[np.bool_], int]:
        """Return which packets can be sent, and the length of the longest of them."""
        short = lengths < _LINK_HEADER
        long = lengths > min(self._longest, self._frame_size)
        if long.any():
            kinds = batch.head(_LINK_HEADER)[:, 12:].copy().view(">u2").reshape(-1)
            tagged = (kinds == 0x8100) | (kinds == 0x88A8)
            long &= ~tagged | (lengths > min(self._longest + _TAG, self._frame_size))
        self._counts["too_short"] += int(np.count_nonzero(short))
        self._counts["too_long"] += int(np.count_nonzero(long))
        keep = ~(short | long)
        return keep, int(lengths[keep].max(initial=0))

    def _send_due(
        self, matrix: Matrix, lengths: Lengths, due: npt.NDArray[np.float64], cut: Flags, finished: Flags
    ) -> None:
        at, n = 0, len(lengths)
        while at < n and not self._stop():
            self.tick()
            now = time.monotonic_ns() - self._began
            ready = int(np.searchsorted(due, now, side="right"))
            if ready <= at:
                time.sleep(min((float(due[at]) - now) / _SECOND, _TIMEOUT))
                continue
            if self._speed is not None or self._rate is not None:
                self._behind = max(self._behind, now - int(due[at]))
            index = self._sock.tx.next_index
            try:
                self._sock.send(matrix[at:ready], lengths[at:ready], timeout=_TIMEOUT)
            finally:
                sent = (self._sock.tx.next_index - index) & _U32  # also when it ended with an error
                self._counts["packets"] += sent
                self._counts["octets"] += int(lengths[at : at + sent].sum(dtype=np.int64))
                self._counts["cut"] += int(np.count_nonzero(cut[at : at + sent]))
                self._counts["finished"] += int(np.count_nonzero(finished[at : at + sent]))
            at += sent
