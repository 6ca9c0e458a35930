# SPDX-License-Identifier: Apache-2.0
"""Table: a hash table of counters in arrays: many keys are looked up, added and evicted at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["COUNTERS", "FlowTable", "Sums", "grouped"]

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

# The counters of a row. back_: of packets in the opposite direction of the first one.
COUNTERS = ("packets", "octets", "back_packets", "back_octets")
_SLOTS = 4  # for each row, so that most keys are found in their first slot


class Sums(NamedTuple):
    """What a batch adds: k different keys. words: shape (5, k) uint64; the others of shape (k,).

    first, last: ns since 1970. flags: TCP's. turned: whether source and destination of the first packet are exchanged
    in the key. counters: by the names of COUNTERS; here back_ are the packets whose ends are exchanged in the key.
    """

    words: Words
    hashes: Words
    first: Rows
    last: Rows
    flags: npt.NDArray[np.uint16]
    turned: npt.NDArray[np.bool_]
    counters: dict[str, Rows]

    def part(self, which: Any) -> Sums:
        """Return the keys that `which` selects: a slice, a mask or indices."""
        return Sums(
            self.words[:, which],
            self.hashes[which],
            self.first[which],
            self.last[which],
            self.flags[which],
            self.turned[which],
            {name: counter[which] for name, counter in self.counters.items()},
        )


def grouped(hashes: Words, words: Words) -> tuple[Rows, Rows]:
    """Return an order in which packets of the same key are neighbours, and the positions in it where groups begin.

    hashes: shape (n,), of the keys; n is not 0. words: shape (k, n), those that are not the same in all packets.
    """
    order = np.argsort(hashes)
    ranked = hashes[order]
    begins = np.ones(len(order), dtype=np.bool_)
    np.not_equal(ranked[1:], ranked[:-1], out=begins[1:])
    # If two keys have the same hash, a word changes where the hash does not: then the keys themselves are sorted.
    ranked_words = words.take(order, axis=1)
    changes = (ranked_words[:, 1:] != ranked_words[:, :-1]).any(axis=0)
    if (changes > begins[1:]).any():
        order = np.lexsort(tuple(words))
        ranked_words = words.take(order, axis=1)
        begins[1:] = (ranked_words[:, 1:] != ranked_words[:, :-1]).any(axis=0)
    return order, np.flatnonzero(begins)


class FlowTable:
    """Up to `capacity` rows of a key and its counters. Not thread-safe: Flows holds a lock.

    When the table is full, the rows that were idle longest are removed.
    """

    def __init__(self, capacity: int) -> None:
        """Make an empty table."""
        self.capacity = capacity
        self.size = 0
        self.words = np.zeros((5, capacity), dtype=np.uint64)
        self.hashes = np.zeros(capacity, dtype=np.uint64)
        self.first = np.zeros(capacity, dtype=np.int64)
        self.last = np.zeros(capacity, dtype=np.int64)
        self.flags = np.zeros(capacity, dtype=np.uint16)
        self.turned = np.zeros(capacity, dtype=np.bool_)
        self.counters = {name: np.zeros(capacity, dtype=np.int64) for name in COUNTERS}
        self.marked = {name: np.zeros(capacity, dtype=np.int64) for name in COUNTERS}  # as they were at mark()
        self.evicted = 0
        self.evicted_packets = self.evicted_octets = 0
        slots = 1 << (capacity * _SLOTS - 1).bit_length()
        self._mask = np.uint64(slots - 1)
        self._slots = np.full(slots, -1, dtype=np.int32)  # row in each slot; -1: free

    def add(self, counted: Sums) -> None:
        """Add counters to rows. The keys are all different."""
        for at in range(0, len(counted.hashes), self.capacity):
            part = counted if len(counted.hashes) <= self.capacity else counted.part(slice(at, at + self.capacity))
            rows = self._find(part)
            known = rows >= 0
            if known.all():
                self._update(rows, part)
                continue
            # Known rows first, so that they do not count as idle when rows are evicted.
            self._update(rows[known], part.part(known))
            fresh = part.part(~known)
            if (room := self.capacity - self.size) < (new := len(fresh.hashes)):
                self._evict(max(new - room, self.capacity // 8))
            self._insert(fresh)

    def mark(self) -> None:
        """Remember the counters: `counters - marked` is then what is counted from here on."""
        for name, counter in self.counters.items():
            self.marked[name][: self.size] = counter[: self.size]

    def _find(self, counted: Sums) -> Rows:
        """Return the row of each key, -1 where there is none. Linear probing, all keys at once."""
        rows = np.full(len(counted.hashes), -1, dtype=np.int64)
        asked = np.arange(len(rows))
        places = (counted.hashes & self._mask).view(np.int64)
        while asked.size:
            found = self._slots[places]
            taken = found >= 0
            same = taken & (self.hashes[found] == counted.hashes[asked])
            if same.any():
                at = np.flatnonzero(same)
                same[at] = (self.words[:, found[at]] == counted.words[:, asked[at]]).all(axis=0)
                rows[asked[same]] = found[same]
            on = taken & ~same
            asked, places = asked[on], (places[on] + 1) & int(self._mask)
        return rows

    def _update(self, rows: Rows, counted: Sums) -> None:
        self.first[rows] = np.minimum(self.first[rows], counted.first)
        self.last[rows] = np.maximum(self.last[rows], counted.last)
        self.flags[rows] |= counted.flags
        for name in ("packets", "octets"):
            total, turned = counted.counters[name], counted.counters["back_" + name]
            self.counters[name][rows] += total
            self.counters["back_" + name][rows] += np.where(self.turned[rows], total - turned, turned)

    def _insert(self, fresh: Sums) -> None:
        rows = np.arange(self.size, self.size + len(fresh.hashes))
        self.words[:, rows] = fresh.words
        self.hashes[rows] = fresh.hashes
        self.first[rows], self.last[rows] = fresh.first, fresh.last
        self.flags[rows] = 0
        self.turned[rows] = fresh.turned
        for name in COUNTERS:
            self.counters[name][rows] = 0
            self.marked[name][rows] = 0
        self._update(rows, fresh)
        self.size += len(rows)
        self._place(rows)

    def _place(self, rows: Rows) -> None:
        """Enter rows into slots. Where several want the same slot one gets it, and the others try the next slot."""
        places = (self.hashes[rows] & self._mask).view(np.int64)
        while rows.size:
            free = self._slots[places] < 0
            self._slots[places[free]] = rows[free]
            lost = self._slots[places] != rows
            rows, places = rows[lost], (places[lost] + 1) & int(self._mask)

    def _evict(self, number: int) -> None:
        """Remove the `number` rows that were idle longest; the others move up."""
        number = min(number, self.size)
        order = np.argpartition(self.last[: self.size], number - 1)
        gone, kept = order[:number], np.sort(order[number:])
        moved: dict[str, Any] = {"words": self._moved(self.words, kept)}
        for name in ("hashes", "first", "last", "flags", "turned"):
            moved[name] = self._moved(getattr(self, name), kept)
        for name in ("counters", "marked"):
            moved[name] = {of: self._moved(array, kept) for of, array in getattr(self, name).items()}
        moved["evicted"] = self.evicted + number
        moved["evicted_packets"] = self.evicted_packets + int(self.counters["packets"][gone].sum())
        moved["evicted_octets"] = self.evicted_octets + int(self.counters["octets"][gone].sum())
        # All at once: an interrupt finds every row as it was, or every row moved.
        self.__dict__.update(moved, size=len(kept))
        self.repair()

    def _moved(self, array: Array, kept: Rows) -> Array:
        """Copy the rows that are kept to the front of a new array."""
        new = np.zeros_like(array)
        new[..., : len(kept)] = array[..., kept]
        return new

    def repair(self) -> None:
        """Enter all rows into the slots again: an interrupt may have left some out."""
        self._slots.fill(-1)
        self._place(np.arange(self.size))
