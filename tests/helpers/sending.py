# SPDX-License-Identifier: Apache-2.0
"""What the tests of sending and forwarding share: numbered packets by the thousand, and the kernel as their witness."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import toolkit
from tests.helpers.wire import DEADLINE, ETHERTYPE, HEADER, eventually, frame, number_of
from toolkit.lab import Lab, Namespace
from toolkit.rings import RingMemory
from toolkit.umem.descriptor_check import tx_limits
from toolkit.umem.sending import OwnedCompletion, OwnedTX, SendAccount
from toolkit.umem.umem import UMEM
from toolkit.wait.waiter import DeviceSocket
from toolkit.xsk.options import SocketOptions

__all__ = [
    "RING",
    "U32",
    "PlainCore",
    "Stopwatch",
    "Tap",
    "assert_in_order",
    "edit_matrix",
    "hold_the_completion_ring",
    "in_thread",
    "let_go",
    "plain_socket",
    "send_for_ever",
    "sent_frames",
    "stream",
]

U32 = 1 << 32
RING = 16  # entries of a PlainCore's rings
_BUFFER = 1 << 29  # bytes: 200,000 packets wait in it


class Tap:
    """Frames of ETHERTYPE (or of `protocol`) that arrive at an interface, in order, by AF_PACKET."""

    def __init__(self, namespace: Namespace, name: str, protocol: int = ETHERTYPE) -> None:
        with namespace.entered():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
            self.sock.bind((name, protocol))

    @classmethod
    def far(cls, lab: Lab, protocol: int = ETHERTYPE) -> Tap:
        return cls(lab.far, lab.peer, protocol)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def take(self, count: int, timeout: float = DEADLINE, quiet: float = 0.05) -> list[bytes]:
        """`count` frames, fewer after `timeout` seconds; more if more arrive within `quiet` seconds after that."""
        got: list[bytes] = []
        deadline = time.monotonic() + timeout
        receive = self.sock.recv
        while len(got) < count and (left := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left)
            with contextlib.suppress(TimeoutError):
                got.append(receive(65536))
                self.sock.settimeout(0)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        got.append(receive(65536))
        self.sock.settimeout(quiet)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                got.append(receive(65536))
        return got


class Stopwatch(Tap):
    """Frames with the kernel's times of arrival."""

    SO_TIMESTAMPNS = 35

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab.far, lab.peer)
        self.sock.setsockopt(1, self.SO_TIMESTAMPNS, 1)  # SOL_SOCKET

    def timed(self, count: int, timeout: float = 10.0) -> list[tuple[bytes, int]]:
        """The next frames, each with its time in ns since 1970."""
        found = []
        self.sock.settimeout(timeout)
        for _ in range(count):
            data, ancillary, _, _ = self.sock.recvmsg(65536, 128)
            seconds, ns = struct.unpack("qq", ancillary[0][2])
            found.append((data, seconds * 10**9 + ns))
        return found


def sent_frames(count: int, *, start: int = 0, lengths: range = range(64, 65)) -> list[bytes]:
    """Numbered frames whose lengths go round in `lengths`."""
    return [frame(start + i, lengths[i % len(lengths)]) for i in range(count)]


def stream(first: int, count: int, length: int = 64) -> np.ndarray:
    """Numbered frames as a matrix, shape (count, length) u8: frame() without its fixed costs."""
    rows = np.empty((count, length), dtype=np.uint8)
    rows[:, :14] = np.frombuffer(HEADER, np.uint8)
    numbers = np.arange(first, first + count, dtype=np.uint32)
    rows[:, 14:18] = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)
    rows[:, 18:] = (numbers[:, None] + np.arange(length - 18, dtype=np.uint32)).astype(np.uint8)
    return rows


def edit_matrix(frames: list[bytes]) -> np.ndarray:
    """Frames of one length as a matrix, shape (n, length) u8."""
    return np.frombuffer(b"".join(frames), dtype=np.uint8).reshape(len(frames), -1)


def assert_once(frames: list[bytes]) -> list[int]:
    """Each frame is one that frame() made, whole; none comes twice. Returns their numbers."""
    found = [number_of(one) for one in frames]
    for one, number in zip(frames, found, strict=True):
        assert one == frame(number, len(one)), f"frame {number} was damaged"
    assert len(set(found)) == len(found), "twice"
    return found


def assert_in_order(frames: list[bytes]) -> list[int]:
    """Each frame is one that frame() made, whole; none comes twice or late. Returns their numbers."""
    found = assert_once(frames)
    late = [b for a, b in itertools.pairwise(found) if a >= b]
    assert not late, f"out of order: {late}"
    return found


@contextlib.contextmanager
def plain_socket(
    lab: Lab, *, frames: int = 256, frame_size: int = 2048, ring: int = 64, **options: Any
) -> Iterator[toolkit.Socket]:
    """A Socket for sending on the lab's near end: no program is needed for that."""
    with (
        toolkit.UMEM(frames, frame_size, fill_size=ring, comp_size=ring) as umem,
        toolkit.Socket(
            lab.interface,
            umem=umem,
            rx_size=ring,
            tx_size=ring,
            netns=lab.netns,
            **options,
        ) as sock,
    ):
        yield sock


def hold_the_completion_ring(sock: toolkit.Socket) -> tuple[int, int]:
    """Fill the completion ring and keep its entries, so that the kernel cannot send: (n, index) of the peek."""
    size = sock.completion.size
    assert sock.send(stream(0, size)) == size
    assert eventually(lambda: sock.completion.available(size) == size)
    return sock.completion.peek()


def let_go(sock: toolkit.Socket, held: tuple[int, int]) -> None:
    """Give these entries back: the kernel sends on."""
    n, index = held
    sock.umem.free_frames(sock.completion.get_batch(index, n))
    sock.completion.release(n)


def send_for_ever(sock: toolkit.Socket, packets: np.ndarray) -> None:
    """Until it raises."""
    while True:
        sock.send(packets)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run `work` in a thread; what it returned or raised comes into the list."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, result


class PlainCore:
    """What a Sender needs of a Core, over rings of ordinary memory, and the kernel on the other side of them.

    It keeps the kernel's rules: it reads TX from its consumer index on, stops when the completion ring is full, and
    says busy when it likes (with a `seed`; without, it does all there is to do at once).
    """

    def __init__(self, umem: UMEM, start: int, *, seed: int | None = None, ring: int = RING) -> None:
        self.umem = umem
        self.where = "a ring of plain memory"
        self.options = SocketOptions(ring, ring, None, True, False, False, True)
        self.zero_copy = False
        self.tx_guard = threading.Lock()
        self.holder = umem.new_holder()
        self.send_account = SendAccount(umem.ledger, self.holder)
        self._tx = RingMemory.plain(ring, 16, start=start)
        self._comp = RingMemory.plain(ring, 8, start=start + 7)
        self._tx.flags[0] = 1  # XDP_RING_NEED_WAKEUP
        self.tx = OwnedTX(self._tx, self.send_account, tx_limits(umem.frame_size, False, 0), self.wake)
        self.completion = OwnedCompletion(self._comp, self.send_account)
        self.sock = DeviceSocket()
        self.random = random.Random(seed) if seed is not None else None
        self.held: list[int] = []  # addresses that the "driver" has sent and not completed yet
        self.left: list[bytes] = []  # packets that left, in order
        self.wakes = 0

    def check_open(self) -> None:
        """It is."""

    def on_close(self, callback: Any) -> None:
        """Never."""

    def wake(self) -> bool:
        """Do what the kernel does in sendto(): False stands for EAGAIN, EBUSY and ENOBUFS."""
        self.wakes += 1
        pick = self.random
        if pick and pick.random() < 0.3:
            return False
        at, end = self._tx.consumer[0], self._tx.producer[0]
        budget = pick.randrange(RING + 1) if pick else self._tx.size
        while at != end and budget and len(self.held) < self._room():
            assert self._tx.entries is not None
            address, length = self._tx.entries[at % self._tx.size].tolist()
            memory = self.umem.memory
            assert memory is not None
            self.left.append(memory[address : address + (length & 0xFFFFFFFF)].tobytes())
            self.held.append(address)
            at = (at + 1) % U32
            budget -= 1
        self._tx.consumer[0] = at
        self._complete(pick.randrange(len(self.held) + 1) if pick else len(self.held))
        return at == end

    def _room(self) -> int:
        return self._comp.size - (self._comp.producer[0] - self._comp.consumer[0]) % U32

    def _complete(self, n: int) -> None:
        if self.random:
            self.random.shuffle(self.held)  # hardware queues may complete out of order
        index = self._comp.producer[0]
        assert self._comp.entries is not None
        for i in range(n):  # no code of the toolkit's: the kernel is not interrupted
            self._comp.entries[(index + i) % self._comp.size] = self.held[i]
        self._comp.producer[0] = (index + n) % U32
        del self.held[:n]
