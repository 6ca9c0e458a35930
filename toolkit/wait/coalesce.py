# SPDX-License-Identifier: Apache-2.0
"""Coalescer: when to delay the next poll of the rings, so that a steady stream comes in large batches.

A batch of one packet costs about as much as a batch of a hundred. At 200 000 packets/s a program that receives as soon
as a packet is there wakes up ten thousand times a second; with a delay of a millisecond, a thousand times. Meanwhile
the packets wait in the ring, as they wait in a NIC that moderates its interrupts.
"""

from __future__ import annotations

import time

__all__ = ["LONGEST_DELAY", "Coalescer"]

LONGEST_DELAY = 0.001  # seconds, by default
_WORTH = 10_000.0  # packets/s from which a delay is worth it
_LEAST = 4  # packets of one delay below which it was not worth it: the sender may be waiting for our answer to each
_TARGET = 1024  # packets of one delay: a million packets/s cost half of what they cost with 256; more saves little
_RING_SHARE = 8  # a delay fills at most this part of a ring, by the rate so far
_SMALLEST_TARGET = 32  # packets: a ring with less room than this is polled without delay
_WINDOW = 16  # batches over which the rate is measured while there is no delay
_TRUCE, _LONGEST_TRUCE = 0.01, 1.0  # seconds without delay, after one that was not worth it; doubled each time
_SHORTEST = 50e-6  # seconds: a sleep may end this late, so a shorter one is not worth a system call


class Coalescer:
    """Chooses the delays of one receiving thread by the packets that came so far. Not thread-safe.

    It delays only while packets come steadily (10 000/s or more), and never longer than `longest` seconds. After a
    delay that brought fewer than four packets there is none for 10 ms, later for up to a second. So a conversation in
    which each packet waits for an answer is delayed at most once a second.
    """

    def __init__(self, longest: float, ring_size: int, queues: int = 1) -> None:
        """longest: seconds; 0: never delay. ring_size: packets that one queue holds; a delay may fill an eighth."""
        self._target = min(_TARGET, ring_size // _RING_SHARE)
        self._longest = longest if self._target >= _SMALLEST_TARGET else 0.0
        self._queues = queues
        self.active = False  # whether there are delays at present
        self.turns = queues  # queues to poll before the next delay; counted down by the receiver
        self._cadence = 0.0  # seconds from the end of one delay to the end of the next
        self._asked = 0.0  # CLOCK_MONOTONIC s: last call of delay(), or begin of the window
        self._ended = 0.0  # CLOCK_MONOTONIC s: when the last delay was to end
        self._packets = self._batches = 0  # since _asked
        self._idle = False  # whether the receiver slept since then because nothing came
        self._truce = _TRUCE
        self._not_before = 0.0  # CLOCK_MONOTONIC s: end of the truce

    def note(self, packets: int) -> None:
        """Count a batch of `packets` that receive() returns."""
        self._packets += packets
        self._batches += 1
        if self._batches >= _WINDOW and self._longest and not self.active:
            self._consider(time.monotonic())

    def idle(self) -> None:
        """Record that no packet came, and that the receiver sleeps until one does."""
        self._idle = True

    def delay(self, timeout: float | None) -> float:
        """Return the seconds to sleep before the next poll, at most `timeout`; the caller sleeps at once."""
        if not self.active or timeout == 0:
            return 0.0
        now = time.monotonic()
        packets, idle = self._packets, self._idle
        if not idle:
            if packets < _LEAST:
                self._stop(now)
                return 0.0
            self._truce = max(self._truce / 2, _TRUCE)
            self._cadence = min(self._longest, self._target * (now - self._asked) / packets)
        left = self._cadence if idle else self._ended + self._cadence - now
        if timeout is not None:
            left = min(left, timeout)
        if left < _SHORTEST or packets >= 2 * self._target:  # late already, or more packets came than expected
            left = 0.0
        self._asked, self._ended = now, now + left
        self._packets, self._idle, self.turns = 0, False, self._queues
        return left

    def _consider(self, now: float) -> None:
        elapsed, packets, batches = max(now - self._asked, 1e-6), self._packets, self._batches
        self._asked, self._packets, self._batches = now, 0, 0
        if now >= self._not_before and _WORTH * elapsed <= packets < self._target * batches:
            self.active, self.turns = True, self._queues
            self._cadence = min(self._longest, self._target * elapsed / packets)
            self._idle = True  # the packets before the first delay do not measure a delay

    def _stop(self, now: float) -> None:
        self.active = False
        self._asked, self._packets, self._batches = now, 0, 0
        self._not_before = now + self._truce
        self._truce = min(2 * self._truce, _LONGEST_TRUCE)
