# SPDX-License-Identifier: Apache-2.0
"""Order: the frames that a fill ring was given, in order, and when: what the RX ring returns next, if it keeps them so.

Most drivers return frames in the order in which they were posted. While they do, one comparison proves of a whole batch
that the kernel had each of its frames and that none is named twice. A driver that does not is found out by the same
comparison, and from then on the ledger checks frame by frame.

Entries are kept and copied as bytes: for small batches NumPy's fixed costs would show.
"""

from __future__ import annotations

import struct
import time
from collections import deque

import numpy as np
import numpy.typing as npt

from toolkit.abi.if_xdp import XDP_PACKET_HEADROOM
from toolkit.rings import RingMemory
from toolkit.rings.memory import U32
from toolkit.umem.ledger import Addresses, Ledger

__all__ = ["Order"]

_ADDRESS = struct.Struct("=Q")


class Order:
    """The frames of one fill ring, by their index in it. Used by the receiving thread.

    An index of the RX ring stands for the frame that was posted at the same index of the fill ring, but for a
    difference. Frames are given by the addresses of their bytes 0, u64 each.
    """

    def __init__(self, ledger: Ledger, fill: RingMemory, headroom: int) -> None:
        """Begin with an empty fill ring. headroom: bytes in front of packets, in addition to the kernel's own."""
        self.kept = True  # whether the RX ring has returned every frame in order so far
        self._ledger = ledger
        self._frame_size = 1 << ledger.shift
        self._fill = fill
        self._first: int = fill.producer[0]
        self._difference = 0  # from an index of the RX ring to that of the fill ring
        # The kernel puts packets here in their frames, unless the program moves the start of one.
        self.start_of_packets = XDP_PACKET_HEADROOM + headroom
        self._start = np.array(self.start_of_packets, dtype=np.uint64)
        # Of each index of the fill ring (modulo size), as bytes: the frame, and where its packet will begin. Our own
        # memory, so that nothing else writes to it; twice the ring, since the kernel has frames beside those in it.
        self.size = 2 * fill.size
        self._frames, self._packets = memoryview(bytearray(8 * self.size)), memoryview(bytearray(8 * self.size))
        # (fill index of the end, CLOCK_MONOTONIC ns) of each posting, from that of `since` on.
        self._times: deque[tuple[int, int]] = deque()
        # Fill index of the first frame of the last call of take(): what is before is not kept.
        self._since = self._first

    def start(self, rx: RingMemory) -> None:
        """Record that the frame that was posted first comes back as the next entry of the RX ring."""
        index = rx.consumer[0]
        self._difference = (self._first - index) & U32
        self.kept = rx.producer[0] == index

    def post(self, index: int, frames: bytes, packets: bytes = b"") -> None:
        """Record that `frames` are about to be published from `index` of the fill ring on. packets: from next()."""
        end, times = (index + (len(frames) >> 3)) & U32, self._times
        if self.kept and (end - self._since) & U32 > self.size:
            self.leave()
        if not self.kept:
            numbers = self._ledger.numbers(np.frombuffer(frames, np.uint64))
            self._ledger.posted_at[numbers] = time.monotonic_ns()
            return
        if not packets:
            packets = (np.frombuffer(frames, np.uint64) + self._start).tobytes()
        while times and 0 < (times[-1][0] - index) & U32 <= 1 << 31:
            times.pop()  # left by an interrupt: those frames were not published
        while times and not 0 < (times[0][0] - self._since) & U32 <= 1 << 31:
            times.popleft()
        at = (index & (self.size - 1)) << 3
        to = at + len(frames)
        if to <= len(self._frames):
            self._frames[at:to], self._packets[at:to] = frames, packets
        else:
            _write(self._frames, at, frames)
            _write(self._packets, at, packets)
        times.append((end, time.monotonic_ns()))

    def next(self, rx_index: int, addresses: Addresses) -> tuple[bytes, bytes, int] | None:
        """Return (frames, packets, largest offset) if entries of the RX ring name the frames that are next; else None.

        rx_index: of the first entry. The offset is that of a packet in its frame; packets are for post(), later.
        """
        index, size, fill = (rx_index + self._difference) & U32, len(addresses) << 3, self._fill
        if not self.kept or ((fill.load(fill.producer) - index) & U32) << 3 < size:
            return None
        at = (index & (self.size - 1)) << 3
        end = at + size
        if end <= len(self._frames):
            frames, packets = bytes(self._frames[at:end]), bytes(self._packets[at:end])
        else:
            frames, packets = _read(self._frames, at, size), _read(self._packets, at, size)
        if addresses.tobytes() == packets:
            return frames, packets, self.start_of_packets
        largest = int(np.maximum.reduce(addresses - np.frombuffer(frames, np.uint64)))
        return (frames, packets, largest) if largest < self._frame_size else None

    def next_one(self, rx_index: int, address: int) -> bool:
        """Return whether an entry of the RX ring, which is about to be taken, names the frame that is next."""
        index = (rx_index + self._difference) & U32
        if not self.kept or self._fill.load(self._fill.producer) == index:
            return False
        frame: int = _ADDRESS.unpack_from(self._frames, (index & (self.size - 1)) << 3)[0]
        self._since = index  # as take() does
        return 0 <= address - frame < self._frame_size

    def take(self, rx_index: int) -> None:
        """Record that the entries from `rx_index` on are taken from the RX ring: what was before may be forgotten."""
        self._since = (rx_index + self._difference) & U32

    def leave(self) -> None:
        """Record that the RX ring does not keep the order. The ledger gets the times of posting of each frame."""
        self.kept = False
        index, ledger = self._since, self._ledger
        n = (self._fill.load(self._fill.producer) - index) & U32
        if n <= self.size:
            frames = _read(self._frames, (index & (self.size - 1)) << 3, n << 3)
            ledger.posted_at[ledger.numbers(np.frombuffer(frames, np.uint64))] = self._posted_ns(index, n)

    def posted_ns(self, rx_index: int, n: int) -> npt.NDArray[np.int64]:
        """Return when the frames of `n` entries of the RX ring from `rx_index` on were posted: (n,), i64.

        In ns of CLOCK_MONOTONIC. For entries of the last call of take(), and for those that were not taken yet.
        """
        return self._posted_ns((rx_index + self._difference) & U32, n)

    def _posted_ns(self, index: int, n: int) -> npt.NDArray[np.int64]:
        counts, found, done = [], [], 0
        for end, posted in self._times:
            count = (end - index) & U32
            if done < count <= 1 << 31:
                counts.append(min(count, n) - done)
                found.append(posted)
                done = min(count, n)
            if done == n:
                break
        return np.repeat(np.array(found, dtype=np.int64), counts)


def _read(ring: memoryview, at: int, size: int) -> bytes:
    """Copy `size` bytes from `at` on; the ring goes on at its begin."""
    end = at + size
    return bytes(ring[at:end]) if end <= len(ring) else bytes(ring[at:]) + bytes(ring[: end - len(ring)])


def _write(ring: memoryview, at: int, entries: bytes) -> None:
    """Write bytes from `at` on; the ring goes on at its begin."""
    end = at + len(entries)
    if end <= len(ring):
        ring[at:end] = entries
    else:
        room = len(ring) - at
        ring[at:] = entries[:room]
        ring[: end - len(ring)] = entries[room:]
