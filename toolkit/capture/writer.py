# SPDX-License-Identifier: Apache-2.0
"""A thread that writes, so that who receives need not wait for a disk: a bounded queue of pieces, and its accounts."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from toolkit.errors import ToolkitError

__all__ = ["Handler", "Item", "UnwrittenError", "Writer"]

_TOGETHER = 8 << 20  # bytes that go to the handler at once, at most (or one piece)
_PIECES = 512
_AGE = 1.0  # seconds that the disk may need for what waits: so much of a capture is lost by `kill -9`
_AT_FIRST = 64 << 20  # bytes that may wait until something is written
_WINDOW = 1.0  # seconds of writing, over which its rate is known
_TELLING = 256 << 10  # bytes of a write that tells the disk's rate: a smaller one takes as long as a system call does


class Item(NamedTuple):
    """A piece of work."""

    payload: Any
    size: int  # bytes that it occupies while it waits
    packets: int


class UnwrittenError(Exception):
    """Raised by a handler: why it failed, and how many packets of what it was given are not written."""

    def __init__(self, why: Exception, lost: int) -> None:
        super().__init__(str(why))
        self.why = why
        self.lost = lost


class Handler(Protocol):
    """What does the work, in the thread."""

    def take(self, items: list[Item]) -> None:
        """Write them, in order. UnwrittenError when that is refused."""

    def timeout(self) -> float | None:
        """Seconds after which idle() wants to be called if nothing comes; None: never."""

    def idle(self) -> None:
        """Write what was held back. UnwrittenError when that is refused."""

    def progress(self) -> int:
        """Return what is another number whenever something moved; asked from outside of the thread."""


class Writer:
    """The thread and its queue. One thread puts; after the first failure all that comes is counted as lost."""

    def __init__(self, handler: Handler, *, limit: int, timeout: float) -> None:
        """limit: bytes that may wait, and no more than are written in a second. patience: seconds that room() waits."""
        self._handler = handler
        self._limit = limit
        self._timeout = timeout
        self._queue: queue.SimpleQueue[Item | Callable[[], None] | None] = queue.SimpleQueue()
        # Each is written by one side only, so neither needs a lock.
        self.offered = self._done = 0  # bytes
        self._put = self._ended = 0  # packets: given to put(); of these, written or lost
        # Not an Event: an interrupt inside of one can leave its lock held, and the thread would wait for that for ever.
        self._freed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._wanted = False  # whether somebody waits for room
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lost = 0  # packets; written by the thread
        # Bytes that may wait now: `limit`, or what is written in _AGE, as far as that is known. Written by the thread.
        self._allowed = min(limit, _AT_FIRST)
        self._recent = (0.0, 0)  # seconds spent on writing and bytes written, as far as they count still; the thread's
        self._left: int | None = None  # packets that were not written when the thread was left behind
        self.error: Exception | None = None  # the first failure
        threading.Thread(target=self._run, name="toolkit-capture", daemon=True).start()

    def room(self, size: int) -> bool:
        """Whether there is room for `size` bytes more, after `patience` at the latest. An empty queue has always."""
        deadline = 0.0
        while self.waiting and self.waiting + size > self._allowed:
            deadline = deadline or time.monotonic() + self._timeout
            self._wanted = True  # before the next look: what is freed after that look tells
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self.waiting and self.waiting + size > self._allowed:
                with contextlib.suppress(queue.Empty):
                    self._freed.get(timeout=left)
        return True

    def put(self, payload: Any, size: int, packets: int) -> None:
        """Take a piece that occupies `size` bytes until it is written: ask for room() before."""
        self.offered += size  # first: an interrupt here costs room, the other way round it would cost packets
        self._queue.put(Item(payload, size, packets))
        self._put += packets

    def do(self, work: Callable[[], None]) -> None:
        """Have the thread do something else between the pieces before and those behind."""
        self._queue.put(work)

    def close(self, stalled: float) -> bool:
        """Let the thread come to its end. False: for `stalled` seconds nothing moved, and it was left behind."""
        self._queue.put(None)
        seen, since = (self._done, self._handler.progress()), time.monotonic()
        while not self._over(0.05):
            now = (self._done, self._handler.progress())
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > stalled:
                self._left = self._put - self._ended + self._lost
                return False
        self._put = self._ended  # what the thread has seen: an interrupt may have come between put()'s steps
        return True

    def _over(self, timeout: float) -> bool:
        """Whether the thread came to its end. Not by join(): uninterrupted()'s threads must not ask who they are."""
        try:
            self._end.get(timeout=timeout)
        except queue.Empty:
            return False
        return True

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self.offered - self._done

    @property
    def lost(self) -> int:
        """Packets that were put and not written: writing failed, or the thread was left behind with them."""
        return self._lost if self._left is None else self._left

    @property
    def written(self) -> int:
        """Packets that were put and are not lost."""
        return self._put - self.lost

    def lose(self, packets: int) -> None:
        """Count packets as lost that were written, and taken back; once the thread has ended."""
        self._lost += packets

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._end.put(None)

    def _work(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=self._handler.timeout() if self.error is None else None)
            except queue.Empty:
                self._guarded(self._handler.idle)
                continue
            while isinstance(item, Item):
                item = self._take(item)
            if item is None:
                self._guarded(self._handler.idle)
                return
            if callable(item):
                self._guarded(item)

    def _take(self, first: Item) -> Item | Callable[[], None] | None:
        """Write this piece and those behind it; return what came then: work of another kind."""
        items, size = [first], first.size
        following: Item | Callable[[], None] | None = _nothing
        while size < _TOGETHER and len(items) < _PIECES:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if not isinstance(following, Item):
                break
            items.append(following)
            size += following.size
            following = _nothing
        packets = sum(item.packets for item in items)
        if self.error is not None:
            self._lost += packets
        else:
            began = time.monotonic()
            self._guarded(lambda: self._handler.take(items))
            self._allow(time.monotonic() - began, size)
        self._ended += packets
        self._done += size
        if self._wanted:
            self._wanted = False
            self._freed.put(None)
        return following

    def _allow(self, seconds: float, size: int) -> None:
        """Take in how long some bytes took. A disk that stands still for a moment loses no room by that."""
        if size < _TELLING:
            return
        spent, written = self._recent[0] + seconds, self._recent[1] + size
        if spent > 0:
            self._allowed = min(self._limit, max(int(written / spent * _AGE), _TOGETHER))
        self._recent = (spent / 2, written // 2) if spent > _WINDOW else (spent, written)

    def _guarded(self, work: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            work()
        except UnwrittenError as failure:
            self.error, self._lost = failure.why, self._lost + failure.lost
        except Exception as failure:  # a bug, or a library's refusal: the receiving thread must hear of it
            self.error = failure if isinstance(failure, ToolkitError) else ToolkitError(f"cannot write: {failure!r}")


def _nothing() -> None:
    """Stand for: no work of another kind."""
