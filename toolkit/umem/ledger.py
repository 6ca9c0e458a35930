# SPDX-License-Identifier: Apache-2.0
"""Ledger: who owns which frame of a UMEM. The array `owner` decides; the stack of free frames can be rebuilt from it.

A frame has exactly one owner: it is free, the user's, the kernel's for receiving, received (borrowed by the user from a
socket), or the kernel's for sending. The receiving and the sending thread share only the ledger, so each change is made
under one lock, completely or not at all; set_one() alone may do without. Finalizers never take the lock: they leave a
note, and the next call acts on it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.errors import RING_LIES, FrameError

__all__ = [
    "FREE",
    "RECEIVED",
    "RETIRED",
    "RETURNED",
    "RX",
    "TX",
    "USER",
    "Addresses",
    "FrameNumbers",
    "Ledger",
    "as_array",
    "describe_owner",
    "owner_code",
]

Addresses = npt.NDArray[np.uint64]  # shape (n,): offsets into the UMEM; any byte of a frame names the frame
FrameNumbers = npt.NDArray[np.int64]  # shape (n,): address // frame_size
Codes = int | npt.NDArray[np.uint32]  # an owner code, or one a frame, shape (n,)

# The kinds of owner. An owner code is kind + 8 * holder, the holder being the number of a socket on this UMEM.
FREE = 0  # on the free stack (or about to be)
USER = 1  # taken with alloc_frames()
RX = 2  # the kernel's, for receiving: in the fill ring, in the kernel, or in the RX ring unread
RECEIVED = 3  # read from the RX ring, not yet given back: borrowed by a Batch, or between peek() and free_frame()
TX = 4  # the kernel's, for sending: in the TX ring, in the kernel, or in the completion ring unread
RETIRED = 5  # the socket closed while the kernel might still use it: not used again, or late (disown_later())

_KINDS = ("free", "user", "rx", "received", "tx", "retired")

# code & _USERS == _USER is true for USER and RECEIVED, and for no other kind. Arrays: quicker than integers in NumPy.
_USERS, _USER = np.array(5, dtype=np.uint32), np.array(USER, dtype=np.uint32)

RETURNED = "the kernel returned, unexpectedly,"  # begin of an error about a frame that a ring named
_GIVEN_TWICE = (
    "Nothing was changed. Likely cause: it was given back, posted or sent twice. Next step: give each frame back once; "
    "umem.audit() says where every frame is."
)
_FOREIGN = (
    "Likely cause: it comes from another UMEM, or was computed wrongly. Next step: give addresses that alloc_frames() "
    "or a descriptor of this UMEM named."
)
_TORN = "Likely cause: a fault of the toolkit. Next step: report it; close the UMEM and make another one."


def owner_code(kind: int, holder: int = 0) -> int:
    """Return the owner code of `kind` for socket number `holder`."""
    return kind | holder << 3


def describe_owner(code: int) -> str:
    """Return as text whom an owner code stands for."""
    kind, holder = code & 7, code >> 3
    where = f" (socket {holder} of this UMEM)" if kind in (RX, RECEIVED, TX, RETIRED) else ""
    names = (
        "the free stack",
        "the user",
        "the kernel, for receiving",
        "the user, as a received packet",
        "the kernel, for sending",
        "no owner any more: it is retired",
    )
    return names[kind] + where


def as_array(addresses: Addresses | bytes | Sequence[int]) -> Addresses:
    """Return addresses as an array, shape (n,), u64; bytes hold eight of each."""
    return np.frombuffer(addresses, np.uint64) if isinstance(addresses, bytes) else np.asarray(addresses, np.uint64)


def _why(tried: str) -> str:
    """Return the likely cause of a wrong frame that a ring (RETURNED), or else the user, named."""
    return RING_LIES if tried == RETURNED else _GIVEN_TWICE


class Ledger:
    """Owners and free frames of one UMEM of `frames` frames of 2**`shift` bytes. Thread-safe."""

    def __init__(self, frames: int, shift: int) -> None:
        """Begin with every frame free."""
        self.frames = frames  # immutable
        self.shift = shift  # immutable: frame number = address >> shift
        self._shift = np.array(shift, dtype=np.uint64)  # as an array: NumPy takes it three times quicker than an int
        self.lock = threading.Lock()  # guards everything below
        # Owner code of each frame, shape (frames,) u32. The authority.
        self.owner: npt.NDArray[np.uint32] = np.zeros(frames, dtype=np.uint32)
        self._owner_view = memoryview(self.owner)  # the same memory: reads one frame's code in 25 ns
        # Addresses of free frames; the first `depth` entries are valid. Last in, first out: such a frame is likely in
        # the CPU's cache. After an interrupt a free frame may be missing here: then it is rebuilt from `owner`.
        self._stack: Addresses = np.arange(frames - 1, -1, -1, dtype=np.uint64) << self._shift
        self.depth = frames  # free frames on the stack
        self._torn = False  # true while stack and owners differ; only an interrupt leaves it true
        # CLOCK_MONOTONIC ns at which each frame was last posted, shape (frames,) i64; written by ReceiveAccount. An
        # arrival time before it is left over from an earlier packet.
        self.posted_at: npt.NDArray[np.int64] = np.zeros(frames, dtype=np.int64)
        # Scratch of _duplicate(): a position for each frame, and 0, 1, 2, ...
        self._stamp: npt.NDArray[np.uint32] = np.zeros(frames, dtype=np.uint32)
        self._positions: npt.NDArray[np.uint32] = np.arange(0, dtype=np.uint32)
        # (owner code, new owner code), from disown(). Append and popleft are atomic, so it needs no lock.
        self._orphans: deque[tuple[int, int]] = deque()
        # (CLOCK_MONOTONIC seconds, owner code): frames that a driver may still write to until then.
        self._quarantine: deque[tuple[float, int]] = deque()
        # Frames that whole Batches borrow: (owner code, addresses), by a key that their account chooses. They are not
        # in the owner array, which still counts them as the kernel's, until somebody asks: see write_down().
        self.borrowed: dict[int, tuple[int, Addresses | bytes]] = {}
        self._writing = False  # true during write_down(); only an interrupt leaves it true

    def numbers(self, addresses: Addresses) -> FrameNumbers:
        """Return the frame numbers of addresses: shape (n,), i64. They may be outside the UMEM."""
        return (addresses >> self._shift).view(np.int64)

    def alloc(self, n: int, code: int) -> Addresses:
        """Give `n` free frames to owner `code`, all or none; return their addresses, shape (n,), u64."""
        with self.lock:
            addresses = self.top(n)
            self.give(addresses, code)
            return addresses

    def give(self, addresses: Addresses, code: int) -> None:
        """Remove the addresses that top() returned from the stack, for owner `code`. The caller holds the lock."""
        self._torn = True
        self.depth -= len(addresses)
        self.owner[self.numbers(addresses)] = code
        self._torn = False

    def write_down(self) -> None:
        """Enter the frames that Batches borrow in the owner array. The caller holds the lock."""
        self._writing = True
        for key, (code, addresses) in list(self.borrowed.items()):
            self.owner[self.numbers(as_array(addresses))] = code
            self.borrowed.pop(key, None)
        self._writing = False

    def withdraw(self, key: int) -> bool:
        """End a loan that was not written down, True; or False: the owner array has those frames."""
        with self.lock:
            if self._writing:
                self.write_down()
            return self.borrowed.pop(key, None) is not None

    def count_free(self) -> int:
        """Return the number of free frames."""
        if self._orphans or self._torn:
            with self.lock:
                self._mend()
        return self.depth

    def top(self, n: int) -> Addresses:
        """Return a copy of the top `n` addresses of the free stack; give() removes them. The caller holds the lock."""
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
        was: int | None = None,
        distinct: bool = False,
        wipe: Callable[[FrameNumbers], None] | None = None,
    ) -> None:
        """Return frames to the free stack, all or none.

        was: the owner code that each frame must have. None: each must be the user's, that is, USER or RECEIVED.
        distinct: the caller knows that no frame is named twice; otherwise that is checked.
        wipe: called with the frames' numbers once they are known to be freed.
        FrameError when one is outside the UMEM, has another owner, or is named twice.
        """
        numbers = self.numbers(addresses)
        with self.lock:
            self.mend()
            self.claim(numbers, addresses, was, "cannot free", distinct=distinct)
            self.push(numbers, wipe)

    def push(self, numbers: FrameNumbers, wipe: Callable[[FrameNumbers], None] | None = None) -> None:
        """Put frames on the free stack; wipe: as in free(). The caller holds the lock, and has claimed them."""
        if wipe is not None:
            wipe(numbers)
        # The owner array is written first: an interrupt before the last line loses no frame, the stack is rebuilt.
        self._torn = True
        self.owner[numbers] = FREE
        depth, n = self.depth, len(numbers)
        self._stack[depth : depth + n] = numbers.view(np.uint64) << self._shift
        self.depth = depth + n
        self._torn = False

    def free_one(self, address: int, *, wipe: Callable[[int], None] | None = None) -> None:
        """Do free() for one frame of the user, without NumPy's fixed costs."""
        number = address >> self.shift
        with self.lock:
            if not 0 <= number < self.frames:
                raise self._foreign(address, "cannot free")
            if self.borrowed:
                self.write_down()
            if self._owner_view[number] & 7 not in (USER, RECEIVED):
                raise FrameError(
                    f"cannot free the frame at address {address:#x}: it belongs to "
                    f"{describe_owner(self._owner_view[number])}. {_GIVEN_TWICE}"
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

    def move(self, addresses: Addresses, code: int, was: int | None, tried: str, *, distinct: bool = False) -> None:
        """Give frames to owner `code`, all or none. was, tried, distinct, FrameError: as in claim()."""
        numbers = self.numbers(addresses)
        with self.lock:
            self.claim(numbers, addresses, was, tried, distinct=distinct)
            self.owner[numbers] = code

    def swap(self, addresses: Addresses, was: Codes, now: Codes) -> None:
        """Change the owner of each frame that `was` owns to `now`; skip others, and addresses outside the UMEM.

        was, now: an owner code, or one a frame, shape (n,). For recovery after an interrupt; the caller holds the lock.
        """
        numbers = self.numbers(addresses)
        chosen = self.belong(numbers, was)
        self._torn = True  # until rebuild()
        self.owner[numbers[chosen]] = np.broadcast_to(now, numbers.shape)[chosen]
        self.rebuild()

    def belong(self, numbers: FrameNumbers, code: Codes) -> npt.NDArray[np.bool_]:
        """Return which frames are in the UMEM and belong to `code`: shape (n,). The caller holds the lock."""
        if self.borrowed:
            self.write_down()
        found = (numbers >= 0) & (numbers < self.frames)
        found[found] = self.owner[numbers[found]] == np.broadcast_to(code, numbers.shape)[found]
        return found

    def owner_of(self, address: int) -> int:
        """Return the owner code of one frame, without a lock; -1 outside of the UMEM."""
        number = address >> self.shift
        return self._owner_view[number] if 0 <= number < self.frames else -1

    def claim_one(self, address: int, was: int | None, tried: str) -> int:
        """Do claim() for one frame, without NumPy's fixed costs; return its owner code. The caller holds the lock."""
        number = address >> self.shift
        if not 0 <= number < self.frames:
            raise self._foreign(address, tried)
        if self.borrowed:
            self.write_down()
        owner = self._owner_view[number]
        if owner != was if was is not None else owner & 7 not in (USER, RECEIVED):
            raise FrameError(
                f"{tried} the frame at address {address:#x}: it belongs to {describe_owner(owner)}. {_why(tried)}"
            )
        return owner

    def set_one(self, address: int, code: int) -> None:
        """Give one frame to owner `code`; neither it nor the owner before is FREE. The caller has claimed it.

        One store: it needs the lock only if another thread may change the same frame.
        """
        self._owner_view[address >> self.shift] = code

    def disown(self, was: int, now: int) -> None:
        """Have the next call give every frame of owner `was` to `now`. Takes no lock, so finalizers may call it."""
        self._orphans.append((was, now))

    def disown_later(self, was: int, retired: int, seconds: float) -> None:
        """Retire every frame of owner `was`; free them once `seconds` have passed and frames are needed."""
        self._quarantine.append((time.monotonic() + seconds, retired))
        self._orphans.append((was, retired))

    def numbers_of(self, code: int) -> FrameNumbers:
        """Return the numbers of the frames of one owner: shape (n,), i64."""
        return np.flatnonzero(self.owner == code)

    def rebuild(self) -> None:
        """Rebuild the free stack from the owner array. The caller holds the lock."""
        numbers = np.flatnonzero(self.owner == FREE)
        self._stack[: len(numbers)] = numbers.astype(np.uint64) << self._shift
        self.depth = len(numbers)
        self._torn = False

    def audit(self) -> dict[str, Any]:
        """Count the frames by kind of owner; raise FrameError when the free stack and the owners disagree."""
        with self.lock:
            if self.borrowed:
                self.write_down()
            if self._orphans or self._torn:
                self._mend()
            kinds = np.bincount(self.owner & 7, minlength=len(_KINDS))
            counts = {name: int(kinds[kind]) for kind, name in enumerate(_KINDS)}
            on_stack = np.unique(self.numbers(self._stack[: self.depth]))
            if len(on_stack) != self.depth or (self.owner[on_stack] != FREE).any():
                raise FrameError(f"the free stack holds a frame twice, or one that is not free: {counts}. {_TORN}")
            if self.depth != counts["free"]:
                raise FrameError(f"the free stack lacks {counts['free'] - self.depth} frames: {counts}. {_TORN}")
        counts["frames"] = self.frames
        return counts

    def mend(self) -> None:
        """Act on what finalizers and interrupts left. The caller holds the lock."""
        if self._orphans or self._torn:
            self._mend()

    def count_elsewhere(self) -> int:
        """Return the number of frames that are neither free nor on the way of received packets."""
        kinds = self.owner & 7
        return int(np.count_nonzero((kinds == USER) | (kinds == TX)))

    def reassign(self, was: int, now: int) -> int:
        """Give every frame of owner `was` to `now`; return how many. The caller holds the lock."""
        if self.borrowed:
            self.write_down()
        numbers = np.flatnonzero(self.owner == was)
        self._torn = self._torn or now == FREE
        self.owner[numbers] = now
        if self._torn:
            self.rebuild()
        return len(numbers)

    def _mend(self) -> None:
        while self._orphans:
            self.reassign(*self._orphans[0])
            self._orphans.popleft()  # last, so that after an interrupt it is done again
        if self._torn:
            self.rebuild()
        while self._quarantine and self._quarantine[0][0] <= time.monotonic():
            self.reassign(self._quarantine[0][1], FREE)
            self._quarantine.popleft()

    def claim(
        self, numbers: FrameNumbers, addresses: Addresses, was: int | None, tried: str, *, distinct: bool = False
    ) -> npt.NDArray[np.uint32]:
        """Return the owner codes of frames, shape (n,), u32; FrameError unless each may be taken from its owner.

        That is: it exists, belongs to `was` (None: to the user, as USER or RECEIVED), and is named once. The caller
        holds the lock. numbers: of the addresses. distinct: the caller knows that no frame is named twice. tried: begin
        of the error; RETURNED where a ring named the frames.
        """
        # Results are compared as bytes: NumPy's own all() and any() cost 1 us more.
        if self.borrowed:
            self.write_down()
        try:
            owners = self.owner[numbers]
        except IndexError:
            raise self._foreign(int(addresses[numbers >= self.frames][0]), tried) from None
        if was is None:
            refused = b"\0" in (owners & _USERS == _USER).tobytes()
        else:
            refused = owners.tobytes() != was.to_bytes(4, sys.byteorder) * len(owners)
        if refused:
            at = int(np.flatnonzero(owners & _USERS != _USER if was is None else owners != was)[0])
            raise FrameError(
                f"{tried} the frame at address {int(addresses[at]):#x} (number {at + 1} of {len(addresses)}): it "
                f"belongs to {describe_owner(int(owners[at]))}. {_why(tried)}"
            )
        if not distinct and len(numbers) > 1:
            at = self._duplicate(numbers)
            if at >= 0:
                raise FrameError(
                    f"{tried} the frame at address {int(addresses[at]):#x} (number {at + 1} of {len(addresses)}): it "
                    f"is named twice. {_why(tried)}"
                )
        return owners

    def _duplicate(self, numbers: FrameNumbers) -> int:
        """Return the position of a frame that is named twice, or -1.

        The caller holds the lock, and checked the range.
        """
        # Each frame is stamped with its position; a frame that is named twice keeps the stamp of the later position
        # only. This is a few times quicker than sorting.
        n = len(numbers)
        if n > len(self._positions):
            self._positions = np.arange(2 * n, dtype=np.uint32)
        positions = self._positions[:n]
        self._stamp[numbers] = positions
        stamps = self._stamp[numbers]
        return -1 if stamps.tobytes() == positions.tobytes() else int(np.flatnonzero(stamps != positions)[0])

    def _foreign(self, address: int, tried: str) -> FrameError:
        cause = RING_LIES if tried == RETURNED else _FOREIGN
        return FrameError(
            f"{tried} the frame at address {address:#x}: it is outside the UMEM of {self.frames} frames of "
            f"{1 << self.shift} bytes. {cause}"
        )
