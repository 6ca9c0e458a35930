# SPDX-License-Identifier: Apache-2.0
"""When to rest before looking for packets again, so that a steady stream comes in large batches.

A batch costs about as much for one packet as for a hundred. At 200 000 packets/s a program that takes what is there
as soon as something is there wakes up ten thousand times a second; one that rests for a millisecond, a thousand times.
The packets wait in the ring meanwhile, as they wait in a NIC that moderates its interrupts.
"""

from __future__ import annotations

import time

__all__ = ["LONGEST_DELAY", "Coalescer"]

LONGEST_DELAY = 0.001  # seconds, by default
_WORTH = 10_000.0  # packets/s from which resting is worth it
_LEAST = 4  # packets of one rest below which it was not worth it: somebody may be waiting for our answer to each
_TARGET = 1024  # packets of one rest: a million packets/s cost half of what they cost with 256; more would save little
_RING_SHARE = 8  # a rest fills at most this part of a ring, as far as the past rate says
_SMALLEST_TARGET = 32  # a ring that has no room for that much is looked after without rest
_WINDOW = 16  # batches over which the rate is measured while not resting
_TRUCE, _LONGEST_TRUCE = 0.01, 1.0  # seconds without rest, after one that was not worth it; doubled each time
_SHORTEST = 50e-6  # seconds: a sleep comes back this late anyway, and a shorter one is not worth a system call


class Coalescer:
    """Decides on rests for one receiving thread, from what came so far.

    It rests only while packets come steadily (10 000/s or more), never longer than `longest` seconds, and never when a
    rest brought less than four packets: then it lets be, for 10 ms first and up to a second later. So a conversation
    in which each packet waits for an answer is delayed once a second at most.
    """

    def __init__(self, longest: float, ring_size: int, queues: int = 1) -> None:
        """`ring_size`: packets that one queue can hold, of which a rest may fill an eighth. longest=0: never rest."""
        self._target = min(_TARGET, ring_size // _RING_SHARE)
        self._longest = longest if self._target >= _SMALLEST_TARGET else 0.0
        self._queues = queues
        self.active = False  # whether rests are being taken
        self.turns = queues  # queues that may be looked at before the next rest; counted down by the receiver
        self._cadence = 0.0  # seconds from the end of one rest to the end of the next
        self._asked = 0.0  # CLOCK_MONOTONIC s: last call of rest(), or begin of the window
        self._ended = 0.0  # CLOCK_MONOTONIC s: when the last rest was to end
        self._packets = self._batches = 0  # since _asked
        self._idle = False  # whether the receiver slept since then because nothing came
        self._truce = _TRUCE
        self._not_before = 0.0  # CLOCK_MONOTONIC s: end of the truce

    def note(self, packets: int) -> None:
        """Count a batch that receive() returns."""
        self._packets += packets
        self._batches += 1
        if self._batches >= _WINDOW and self._longest and not self.active:
            self._consider(time.monotonic())

    def idle(self) -> None:
        """Note that nothing came, and that the receiver sleeps until something does."""
        self._idle = True

    def delay(self, timeout: float | None) -> float:
        """Return the seconds to sleep before the next look, at most `timeout`; the caller sleeps right away."""
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
        if left < _SHORTEST or packets >= 2 * self._target:  # late already, or more came than was to be expected
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
            self._idle = True  # what comes before the first rest says nothing about it

    def _stop(self, now: float) -> None:
        self.active = False
        self._asked, self._packets, self._batches = now, 0, 0
        self._not_before = now + self._truce
        self._truce = min(2 * self._truce, _LONGEST_TRUCE)
