# SPDX-License-Identifier: Apache-2.0
"""Ledger: who owns which frame of a UMEM. One array is the authority; the free stack is a cache of it.

A frame is in exactly one place: free, with the user, with the kernel for receiving, received (the user's, on loan from
a socket), or with the kernel for sending. Changes are all or nothing, on whole arrays, under one lock: the receiving
and the sending thread share this and nothing else. Finalizers never take the lock: they leave a note that the next
call acts upon.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import FrameError

__all__ = [
    "FREE",
    "RECEIVED",
    "RETIRED",
    "RX",
    "TX",
    "USER",
    "Addresses",
    "FrameNumbers",
    "Ledger",
    "describe_owner",
    "owner_code",
]

Addresses = npt.NDArray[np.uint64]  # shape (n,): offsets into the UMEM; any byte of a frame names the frame
FrameNumbers = npt.NDArray[np.int64]  # shape (n,): address // frame_size

# The kinds of owner. An owner code is kind + 8 * holder, the holder being the number of a socket on this UMEM.
FREE = 0  # on the free stack (or about to be)
USER = 1  # taken with alloc_frames()
RX = 2  # lent to the kernel for receiving: in the fill ring, in the kernel, or in the RX ring unread
RECEIVED = 3  # read from the RX ring, not yet given back: a Batch's loan, or between peek() and free_frame()
TX = 4  # lent to the kernel for sending: in the TX ring, in the kernel, or in the completion ring unread
RETIRED = 5  # the socket closed while the kernel was still sending it: never used again

_KINDS = ("free", "user", "rx", "received", "tx", "retired")


def owner_code(kind: int, holder: int = 0) -> int:
    """Return the owner code of `kind` for socket number `holder`."""
    return kind | holder << 3


def describe_owner(code: int) -> str:
    """Say in words who an owner code stands for."""
    kind, holder = code & 7, code >> 3
    where = f" (socket {holder} of this UMEM)" if kind in (RX, RECEIVED, TX, RETIRED) else ""
    words = (
        "free",
        "the user",
        "the kernel, for receiving",
        "the user, as a received packet",
        "the kernel, for sending",
        "nobody, retired",
    )
    return words[kind] + where


class Ledger:
    """Owners and free frames of one UMEM of `frames` frames of 2**`shift` bytes. Thread-safe."""

    def __init__(self, frames: int, shift: int) -> None:
        """Begin with every frame free."""
        self.frames = frames  # immutable
        self.shift = shift  # immutable: frame number = address >> shift
        self.lock = threading.Lock()  # guards everything below
        # Owner code of each frame, shape (frames,) u32. The authority: written by move() and free() only.
        self.owner: npt.NDArray[np.uint32] = np.zeros(frames, dtype=np.uint32)
        self._owner_view = memoryview(self.owner)  # the same, for one frame at 25 ns
        # Addresses of free frames; the first `depth` entries are valid. Last in, first out: warm frames first. After an
        # interrupt it may miss a frame that the owner array says is free, and is rebuilt.
        self._stack: Addresses = (np.arange(frames - 1, -1, -1, dtype=np.uint64) << np.uint64(shift)).astype(np.uint64)
        self.depth = frames  # free frames on the stack
        self._torn = False  # set while the stack is behind the owners: an interrupt leaves it set
        # CLOCK_MONOTONIC ns at which each frame was last lent for receiving, shape (frames,) i64, written by
        # ReceiveCustody: an arrival time before it is left over from an earlier packet.
        self.lent_at: npt.NDArray[np.int64] = np.zeros(frames, dtype=np.int64)
        self._stamp: FrameNumbers = np.zeros(frames, dtype=np.int64)  # scratch of _refuse_twins()
        # Owner codes whose frames a finalizer wants freed; append and popleft are atomic, so it needs no lock.
        self._orphans: deque[tuple[int, int]] = deque()
        # (monotonic seconds, owner code): frames that a driver may still write to until then.
        self._quarantine: deque[tuple[float, int]] = deque()

    def numbers(self, addresses: Addresses) -> FrameNumbers:
        """Return frame numbers of addresses: shape (n,) int64. Not checked against the UMEM's size."""
        return (addresses >> np.uint64(self.shift)).view(np.int64)

    def alloc(self, n: int, code: int) -> Addresses:
        """Take `n` free frames and give them to `code`: their addresses, shape (n,) u64. All or none."""
        with self.lock:
            addresses = self.top(n)
            self.give(addresses, code)
            return addresses

    def give(self, addresses: Addresses, code: int) -> None:
        """Take the addresses that top() returned off the stack, for owner `code`. The caller holds the lock."""
        self._torn = True
        self.depth -= len(addresses)
        self.owner[self.numbers(addresses)] = code
        self._torn = False

    def count_free(self) -> int:
        """Return the number of free frames."""
        if self._orphans or self._torn:
            with self.lock:
                self._mend()
        return self.depth

    def top(self, n: int) -> Addresses:
        """Copy the `n` addresses on top of the free stack. The caller holds the lock and commits the change."""
        if self._orphans or self._torn or (n > self.depth and self._quarantine):
            self._mend()
        if not 0 <= n <= self.depth:
            raise FrameError(
                f"cannot take {n} frames: {self.depth} of {self.frames} are free. Likely cause: frames that were "
                "received or allocated were not given back. Next step: release batches (or free_frames), or make the "
                "UMEM larger; audit() says where every frame is."
            )
        return self._stack[self.depth - n : self.depth].copy()

    def free(
        self,
        addresses: Addresses,
        *,
        owner: int | None = None,
        checked: bool = False,
        wipe: Callable[[FrameNumbers], None] | None = None,
    ) -> None:
        """Return frames to the free stack. Refused whole when one is foreign, free already, or the kernel's.

        `owner` is the owner code that each must have instead of being the user's (USER or RECEIVED).
        `checked` skips the look for duplicates within `addresses`: for addresses that one ring gave in one batch.
        `wipe` is called with the frames' numbers once nothing can be refused any more.
        """
        numbers = self.numbers(addresses)
        n = len(numbers)
        with self.lock:
            if self._orphans or self._torn:
                self._mend()
            owners = self._owners(numbers, addresses)
            if owner is not None:
                allowed = owners == owner
            else:
                kind = owners & 7
                allowed = (kind == USER) | (kind == RECEIVED)
            if not allowed.all():
                self._refuse(addresses, owners, allowed, "cannot free")
            if not checked:
                self._refuse_twins(numbers, addresses)
            if wipe is not None:
                wipe(numbers)
            # From here on the owner array says that they are free; an interrupt before the last line only delays them.
            self._torn = True
            self.owner[numbers] = FREE
            depth = self.depth
            self._stack[depth : depth + n] = (addresses >> np.uint64(self.shift)) << np.uint64(self.shift)
            self.depth = depth + n
            self._torn = False

    def free_one(self, address: int, *, wipe: Callable[[int], None] | None = None) -> None:
        """The same for one frame, without NumPy's fixed cost."""
        number = address >> self.shift
        with self.lock:
            if not 0 <= number < self.frames:
                raise self._foreign(address)
            if self._owner_view[number] & 7 not in (USER, RECEIVED):
                raise FrameError(
                    f"cannot free the frame at address {address:#x}: it belongs to "
                    f"{describe_owner(self._owner_view[number])}. Likely cause: it was freed twice, or lent meanwhile."
                )
            if wipe is not None:
                wipe(number)
            if self._torn:
                self._mend()
            self._torn = True
            self._owner_view[number] = FREE
            self._stack[self.depth] = number << self.shift
            self.depth += 1
            self._torn = False

    def move(self, addresses: Addresses, code: int, kinds: tuple[int, ...], holder: int, tried: str) -> None:
        """Give frames to owner `code` if each is of one of `kinds` (and, for RX and TX, `holder`'s). All or none."""
        numbers = self.numbers(addresses)
        with self.lock:
            owners = self._owners(numbers, addresses)
            if len(kinds) == 1 and kinds[0] in (RX, TX):
                allowed = owners == owner_code(kinds[0], holder)
            else:
                kind = owners & 7
                allowed = kind == kinds[0]
                for other in kinds[1:]:
                    allowed |= kind == other
            if not allowed.all():
                self._refuse(addresses, owners, allowed, tried)
            self.owner[numbers] = code

    def move_one(self, address: int, code: int, kinds: tuple[int, ...], holder: int, tried: str) -> None:
        """The same for one frame, without NumPy's fixed cost."""
        number = address >> self.shift
        if not 0 <= number < self.frames:
            raise self._foreign(address)
        with self.lock:
            owner = self._owner_view[number]
            if owner & 7 not in kinds or (owner & 7 in (RX, TX) and owner >> 3 != holder):
                raise FrameError(f"{tried} the frame at address {address:#x}: it belongs to {describe_owner(owner)}")
            self._owner_view[number] = code

    def swap_one(self, address: int, was: int, now: int) -> bool:
        """Give one frame of owner `was` to `now`. False, and nothing changed, when it is not `was`'s.

        Without the lock: of a frame that a Socket's side holds, only that side's thread changes the owner, in one
        store; FREE is neither `was` nor `now`.
        """
        try:
            if self._owner_view[address >> self.shift] != was:
                return False
        except IndexError:
            return False
        self._owner_view[address >> self.shift] = now
        return True

    def disown(self, was: int, now: int) -> None:
        """Give every frame of owner `was` to owner `now`, without the lock, at the next call: for finalizers too."""
        self._orphans.append((was, now))

    def disown_later(self, was: int, retired: int, seconds: float) -> None:
        """Retire every frame of owner `was`; free them when `seconds` have passed and frames are short."""
        self._quarantine.append((time.monotonic() + seconds, retired))
        self._orphans.append((was, retired))

    def numbers_of(self, code: int) -> FrameNumbers:
        """Return the numbers of the frames of one owner: shape (n,) int64."""
        return np.flatnonzero(self.owner == code)

    def rebuild(self) -> None:
        """Make the free stack anew from the owner array. The caller holds the lock."""
        numbers = np.flatnonzero(self.owner == FREE)
        self._stack[: len(numbers)] = numbers.astype(np.uint64) << np.uint64(self.shift)
        self.depth = len(numbers)
        self._torn = False

    def audit(self) -> dict[str, Any]:
        """Count the frames by kind of owner; raise FrameError when the free stack and the owners disagree."""
        with self.lock:
            if self._orphans or self._torn:
                self._mend()
            kinds = np.bincount(self.owner & 7, minlength=len(_KINDS))
            counts = {name: int(kinds[kind]) for kind, name in enumerate(_KINDS)}
            on_stack = np.unique(self.numbers(self._stack[: self.depth]))
            if len(on_stack) != self.depth or (self.owner[on_stack] != FREE).any():
                raise FrameError(f"the free stack holds a frame twice, or one that is not free: {counts}")
            if self.depth != counts["free"]:
                raise FrameError(f"the free stack misses {counts['free'] - self.depth} frames: {counts}")
        counts["frames"] = self.frames
        return counts

    def _reassign(self, was: int, now: int) -> int:
        numbers = np.flatnonzero(self.owner == was)
        self._torn = self._torn or now == FREE
        self.owner[numbers] = now
        if self._torn:
            self.rebuild()
        return len(numbers)

    def _mend(self) -> None:
        while self._orphans:
            self._reassign(*self._orphans[0])
            self._orphans.popleft()  # last: interrupted before, it is done again
        if self._torn:
            self.rebuild()
        while self._quarantine and self._quarantine[0][0] <= time.monotonic():
            self._reassign(self._quarantine[0][1], FREE)
            self._quarantine.popleft()

    def _owners(self, numbers: FrameNumbers, addresses: Addresses) -> npt.NDArray[np.uint32]:
        try:
            return self.owner[numbers]
        except IndexError:
            foreign = addresses[(numbers < 0) | (numbers >= self.frames)]
            raise self._foreign(int(foreign[0])) from None

    def _foreign(self, address: int) -> FrameError:
        return FrameError(
            f"the address {address:#x} is outside the UMEM of {self.frames} frames of {1 << self.shift} bytes. "
            "Likely cause: it comes from another UMEM, or was computed wrongly."
        )

    def _refuse(
        self, addresses: Addresses, owners: npt.NDArray[np.uint32], allowed: npt.NDArray[np.bool_], tried: str
    ) -> None:
        at = int(np.flatnonzero(~allowed)[0])
        raise FrameError(
            f"{tried} the frame at address {int(addresses[at]):#x} (number {at + 1} of {len(addresses)}): it belongs "
            f"to {describe_owner(int(owners[at]))}. Likely cause: it was given away twice. Nothing was changed."
        )

    def refuse_duplicates(self, addresses: Addresses) -> None:
        """Raise FrameError when a frame stands twice among `addresses`, or is foreign."""
        if len(addresses) > 1:
            numbers = self.numbers(addresses)
            with self.lock:
                self._owners(numbers, addresses)
                self._refuse_twins(numbers, addresses)

    def _refuse_twins(self, numbers: FrameNumbers, addresses: Addresses) -> None:
        # Each frame is stamped with its position; of two of a kind, the first finds the second's stamp.
        positions = np.arange(len(numbers))
        self._stamp[numbers] = positions
        twice = self._stamp[numbers] != positions
        if twice.any():
            address = int(addresses[int(np.flatnonzero(twice)[0])])
            raise FrameError(f"the frame at address {address:#x} stands twice in one call. Nothing was changed.")
