# SPDX-License-Identifier: Apache-2.0
"""Writer: a thread that writes, so that the receiving thread need not wait for the disk.

A bounded queue, with counts.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from toolkit.errors import ToolkitError

__all__ = ["Handler", "Item", "UnwrittenError", "Writer"]

_TOGETHER = 8 << 20  # most bytes that the handler gets at a time (or one piece)
_PIECES = 512
_AGE = 1.0  # seconds of writing that may wait: `kill -9` loses that much of a capture
_AT_FIRST = 64 << 20  # bytes that may wait before the disk's rate is known
_WINDOW = 1.0  # seconds of writing over which the rate is measured
_TELLING = 256 << 10  # bytes of the smallest write that measures the rate: in smaller ones the system call dominates


class Item(NamedTuple):
    """A piece of work."""

    payload: Any
    size: int  # bytes that it occupies while it waits
    packets: int


class UnwrittenError(Exception):
    """Raised by a handler: why writing failed, and how many of the packets that it got are not written."""

    def __init__(self, why: Exception, lost: int) -> None:
        super().__init__(str(why))
        self.why = why
        self.lost = lost


class Handler(Protocol):
    """Does the work, in the Writer's thread."""

    def take(self, items: list[Item]) -> None:
        """Write items, in order. UnwrittenError when that fails."""

    def timeout(self) -> float | None:
        """Return the seconds after which to call idle() if no item comes; None: never."""

    def idle(self) -> None:
        """Write what was held back. UnwrittenError when that fails."""

    def progress(self) -> int:
        """Return a number that changes with any progress. Called from other threads."""


class Writer:
    """The thread and its queue. One thread puts; after the first failure all further packets count as lost."""

    def __init__(self, handler: Handler, *, limit: int, timeout: float) -> None:
        """Start the thread. limit: bytes that may wait, but at most those of a second. timeout: seconds of room()."""
        self._handler = handler
        self._limit = limit
        self._timeout = timeout
        self._queue: queue.SimpleQueue[Item | Callable[[], None] | None] = queue.SimpleQueue()
        # Each of these is written by one thread only, so no lock is needed.
        self.offered = self._done = 0  # bytes
        self._put = self._ended = 0  # packets: passed to put(); of these, written or lost
        # Not an Event: an interrupt inside of it can leave its lock held, for which the thread would wait for ever.
        self._freed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._wanted = False  # whether room() is waiting
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lost = 0  # packets; written by the thread
        # Bytes that may wait now: `limit`, or the bytes written in _AGE once known. Written by the thread.
        self._allowed = min(limit, _AT_FIRST)
        self._recent = (0.0, 0)  # seconds of writing and bytes written, in the window; written by the thread
        self._left: int | None = None  # packets that were not written when close() gave up on the thread
        self.error: Exception | None = None  # the first failure
        threading.Thread(target=self._run, name="toolkit-capture", daemon=True).start()

    def room(self, size: int) -> bool:
        """Return whether there is room for `size` more bytes, within `timeout`. An empty queue always has room."""
        deadline = 0.0
        while self.waiting and self.waiting + size > self._allowed:
            deadline = deadline or time.monotonic() + self._timeout
            self._wanted = True  # set before the next check, so that bytes freed after the check wake this thread
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self.waiting and self.waiting + size > self._allowed:
                with contextlib.suppress(queue.Empty):
                    self._freed.get(timeout=left)
        return True

    def put(self, payload: Any, size: int, packets: int) -> None:
        """Queue a piece that occupies `size` bytes until it is written; call room() first."""
        self.offered += size  # first, because an interrupt after this costs only room, and not packets
        self._queue.put(Item(payload, size, packets))
        self._put += packets

    def do(self, work: Callable[[], None]) -> None:
        """Have the thread call `work` after the pieces that were put before."""
        self._queue.put(work)

    def close(self, stalled: float) -> bool:
        """Wait for the thread to end. False after `stalled` seconds without progress: the thread is then left alone."""
        self._queue.put(None)
        seen, since = (self._done, self._handler.progress()), time.monotonic()
        while not self._over(0.05):
            now = (self._done, self._handler.progress())
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > stalled:
                self._left = self._put - self._ended + self._lost
                return False
        self._put = self._ended  # the thread's count, since an interrupt may have cut put() short
        return True

    def _over(self, timeout: float) -> bool:
        """Return whether the thread has ended. Not by join(), which needs a thread of the module threading."""
        try:
            self._end.get(timeout=timeout)
        except queue.Empty:
            return False
        return True

    @property
    def waiting(self) -> int:
        """Bytes that are not yet written."""
        return self.offered - self._done

    @property
    def lost(self) -> int:
        """Packets that were put and not written: writing failed, or close() gave up on the thread."""
        return self._lost if self._left is None else self._left

    @property
    def written(self) -> int:
        """Packets that were put and are not lost."""
        return self._put - self.lost

    def lose(self, packets: int) -> None:
        """Count packets as lost that were written and then removed; for use after the thread has ended."""
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
        """Write this piece and those behind it; return the first item that is not a piece."""
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
        """Record the duration of a write. A short stall of the disk does not reduce the room."""
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
        except Exception as failure:  # of any kind: the receiving thread raises it
            self.error = (
                failure
                if isinstance(failure, ToolkitError)
                else ToolkitError(
                    f"cannot write: {failure!r}. Likely cause: a fault of the toolkit. Next step: report it."
                )
            )


def _nothing() -> None:
    """Do nothing: the default work."""
