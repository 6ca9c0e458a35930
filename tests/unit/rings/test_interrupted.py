# SPDX-License-Identifier: Apache-2.0
"""KeyboardInterrupt at every line of receiving and filling: a frame may come late, it is never lost or in two places.

The Socket is the real one; its rings lie in plain memory, and the kernel's part is played by the test.
"""

from __future__ import annotations

import linecache
import random
import signal
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.helpers.rings_oracle import U32
from toolkit.batch.batch import Batch
from toolkit.errors import ToolkitError
from toolkit.rings import FillQueue, RingMemory, RXQueue
from toolkit.umem.accounts import ReceiveAccount
from toolkit.umem.ledger import RECEIVED, RX, USER, owner_code
from toolkit.umem.umem import UMEM
from toolkit.xsk.socket import Socket

FRAMES = 16
START = U32 - 20


class Receiver:
    """A Socket over plain rings, and the kernel on the other side of them."""

    def __init__(self) -> None:
        self.umem = UMEM(FRAMES, 2048)
        self.fill_memory = RingMemory.plain(32, 8, start=START)
        self.rx_memory = RingMemory.plain(32, 16, start=START)
        account = ReceiveAccount(self.umem.ledger, self.umem.new_holder())
        sock: Any = Socket.__new__(Socket)
        core = types.SimpleNamespace(
            rx_guard=threading.Lock(), receive_account=account, why_dead="", where="queue 0 of a test", sock=None,
            options=types.SimpleNamespace(sg=False),
            check_open=lambda: None, rx=RXQueue(self.rx_memory, account),
        )  # fmt: skip
        sock._core, sock.umem, sock.queue = core, self.umem, 0
        sock.fill = FillQueue(self.fill_memory, account)
        sock._receiver._next_gone_check, sock.rx_limit = 1 << 62, FRAMES * 3 // 4
        self.sock: Socket = sock
        self.in_kernel: list[int] = []  # frames that the kernel took from the fill ring
        self.filled = self.delivered = START
        self.sequence = 0  # packets that arrived

    def kernel(self, packets: int) -> None:
        """Take everything from the fill ring, and deliver packets, numbered, as far as there are frames."""
        fill, rx = self.fill_memory, self.rx_memory
        while self.filled != fill.producer[0]:
            (address,) = struct.unpack_from("=Q", fill.bytes, (self.filled & 31) << 3)
            assert address not in self.in_kernel, "the same frame was lent twice"
            self.in_kernel.append(address)
            self.filled = (self.filled + 1) & U32
        fill.consumer[0] = self.filled
        for _ in range(min(packets, len(self.in_kernel))):
            address = self.in_kernel.pop(0)
            self.umem._mapping[address + 256 : address + 260] = struct.pack("=I", self.sequence)
            struct.pack_into("=QII", rx.bytes, (self.delivered & 31) << 4, address + 256, 4, 0)
            self.delivered = (self.delivered + 1) & U32
            self.sequence += 1
        rx.producer[0] = self.delivered

    def unread(self) -> list[int]:
        """Frames in the RX ring."""
        n = (self.delivered - self.rx_memory.consumer[0]) & U32
        entries = self.rx_memory.read(self.rx_memory.consumer[0], n)
        return [int(address) & ~2047 for address in entries[:, 0]]

    def unfilled(self) -> list[int]:
        """Frames in the fill ring."""
        n = (self.fill_memory.producer[0] - self.filled) & U32
        return [int(address) for address in self.fill_memory.read(self.filled, n)]

    def check(self, batch: Batch | None = None) -> None:
        """The ledger says of every frame what is true."""
        audit = self.umem.audit()
        owner = self.umem.ledger.owner
        kernels = self.unread() + self.unfilled() + self.in_kernel
        assert len(set(kernels)) == len(kernels), "a frame is in two places"
        lent = {int(n) * 2048 for n in np.flatnonzero(owner == owner_code(RX, 1))}
        assert lent == set(kernels), "the ledger and the rings disagree about what the kernel has"
        received = {int(n) * 2048 for n in np.flatnonzero(owner == owner_code(RECEIVED, 1))}
        loan = {int(address) & ~2047 for address in batch.addresses} if batch else set()
        assert received == loan, "frames are with nobody"
        assert audit["free"] == FRAMES - len(lent) - len(received) - audit["user"]
        assert audit["free"] == self.umem.n_free_frames


class Interrupt:
    """Raises KeyboardInterrupt at the k-th line that toolkit code executes.

    Not at the line event that leaves a with block before __exit__ is called: no signal is handled there, so Python's
    compiler does not protect it (a lock would stay held).
    """

    def __init__(self, k: int) -> None:
        self.left = k
        self.where = ""
        self.line: dict[int, int] = {}  # of each frame, the line before

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        name = frame.f_globals.get("__name__", "")
        # The clock holds no frame, and how much of it runs depends on the time.
        if not name.startswith("toolkit") or name in ("toolkit.errors", "toolkit._base.clock"):
            return None
        if event in ("line", "call"):
            line, before = frame.f_lineno, self.line.get(id(frame), 0) if event == "line" else 0
            self.line[id(frame)] = line
            leaves_with = line <= before and linecache.getline(frame.f_code.co_filename, line).lstrip().startswith(
                "with "
            )
            self.left -= not leaves_with
            if self.left == 0 and not leaves_with:
                self.where = f"{name}:{line}"
                raise KeyboardInterrupt
        return self

    def run(self, work: Callable[[], object]) -> bool:
        """Whether it came to the interrupt."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            work()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def every_line(work: Callable[[int], bool]) -> int:
    """Call `work(k)` for k = 1, 2, ... until it says that no interrupt came any more; how many came."""
    for k in range(1, 5000):
        if not work(k):
            return k - 1
    raise AssertionError("it does not end")


def recovered(receiver: Receiver) -> None:
    """After an interrupt, receiving goes on as if nothing had been: every frame circulates."""
    sock = receiver.sock
    for packets in (0, 3, 1, 20, 0):
        receiver.kernel(packets)
        batch = sock.poll_once()
        receiver.check(batch)
    sock.take_back()
    receiver.check()
    free = receiver.umem.n_free_frames
    assert free + len(receiver.in_kernel) + len(receiver.unfilled()) + len(receiver.unread()) == FRAMES


def prepared(stage: str) -> Receiver:
    receiver = Receiver()
    if stage == "first":
        return receiver
    receiver.sock.poll_once()
    receiver.kernel(5 if stage != "one" else 1)
    if stage in ("loan", "one"):
        batch = receiver.sock.poll_once(3)
        assert batch
        receiver.kernel(6 if stage == "loan" else 1)
        receiver.check(batch)
    return receiver


@pytest.mark.parametrize("stage", ["first", "waiting", "loan", "one"])
def test_receive_interrupted_at_every_line(stage: str) -> None:
    def at(k: int) -> bool:
        receiver, interrupt = prepared(stage), Interrupt(k)
        came = interrupt.run(receiver.sock.poll_once)
        try:
            recovered(receiver)
        except (AssertionError, ToolkitError) as error:
            raise AssertionError(f"after an interrupt at {interrupt.where} (event {k}): {error}") from error
        return came

    assert every_line(at) > 50


@pytest.mark.parametrize("stage", ["waiting", "loan"])
def test_recovery_interrupted_at_every_line(stage: str) -> None:
    """The second Ctrl-C, while the first one is being mended; each first one that leaves most to mend."""

    def whole(k: int) -> bool:
        receiver = prepared(stage)  # kept: what its end executes is not to be counted
        return Interrupt(k).run(receiver.sock.poll_once)

    depth = every_line(whole)
    for first in range(1, depth + 1, 7):

        def at(k: int, first: int = first) -> bool:
            receiver, second = prepared(stage), Interrupt(k)
            assert Interrupt(first).run(receiver.sock.poll_once)
            came = second.run(receiver.sock.poll_once)
            try:
                recovered(receiver)
            except (AssertionError, ToolkitError) as error:
                raise AssertionError(f"after interrupts at {first} and {second.where} ({k}): {error}") from error
            return came

        assert every_line(at) > 50


def test_release_interrupted_at_every_line() -> None:
    """Of a Batch, at the end of its with block: its frames come back with the next receive()."""

    def at(k: int) -> bool:
        receiver, interrupt = prepared("waiting"), Interrupt(k)
        batch = receiver.sock.poll_once()
        assert batch
        came = interrupt.run(batch.release)
        recovered(receiver)
        return came

    assert every_line(at) > 10


def test_end_loan_interrupted_at_every_line() -> None:
    """As Interface calls it, for the queue that lent last."""

    def at(k: int) -> bool:
        receiver, interrupt = prepared("loan"), Interrupt(k)
        came = interrupt.run(receiver.sock.take_back)
        recovered(receiver)
        return came

    assert every_line(at) > 10


def test_fill_all_interrupted_at_every_line() -> None:
    """Called piece by piece, without a Socket's recovery behind it: the next fill_all() mends it."""

    def at(k: int) -> bool:
        receiver, interrupt = Receiver(), Interrupt(k)
        fill, umem = receiver.sock.fill, receiver.umem
        assert fill.fill_all(umem, 3) == 3
        came = interrupt.run(lambda: fill.fill_all(umem, 5))
        done = 3 + (5 if fill.outstanding == 8 else 0)
        assert fill.outstanding == done
        assert fill.fill_all(umem) == FRAMES - done, f"after an interrupt at {interrupt.where}"
        receiver.check()
        assert umem.audit()["rx"] == FRAMES
        return came

    assert every_line(at) > 20


@pytest.mark.parametrize("call", ["alloc", "free", "free_one"])
def test_the_user_s_own_calls_interrupted_at_every_line(call: str) -> None:
    """A frame is free or the user's, and the stack shows every free one at once."""

    def at(k: int) -> bool:
        umem = UMEM(FRAMES, 2048)
        mine = umem.alloc_frames(6)
        work: dict[str, Callable[[], object]] = {
            "alloc": lambda: umem.alloc_frames(4),
            "free": lambda: umem.free_frames(mine[:4]),
            "free_one": lambda: umem.free_frame(int(mine[0])),
        }
        came = Interrupt(k).run(work[call])
        users = int((umem.ledger.owner == USER).sum())
        assert umem.n_free_frames == FRAMES - users
        umem.audit()
        umem.free_frames(np.flatnonzero(umem.ledger.owner == USER).astype(np.uint64) << np.uint64(11))
        assert umem.audit()["free"] == FRAMES
        assert sorted(umem.alloc_frames(FRAMES).tolist()) == [n * 2048 for n in range(FRAMES)]
        return came

    assert every_line(at) > 5


def test_frames_of_an_interrupted_loan_that_the_sender_took_meanwhile_stay_the_sender_s() -> None:
    """fill_all() is interrupted before it marked its frames; another thread, short of frames, gets them."""

    def at(k: int) -> bool:
        receiver = Receiver()
        if not Interrupt(k).run(receiver.sock.poll_once):
            return False
        free = receiver.umem.n_free_frames
        sent = receiver.umem.alloc_frames(free)
        receiver.sock.poll_once()
        owners = receiver.umem.ledger.owner[(sent >> np.uint64(11)).astype(np.int64)]
        assert (owners == USER).all(), f"event {k}: frames of the sender were taken away"
        receiver.umem.free_frames(sent)
        recovered(receiver)
        return True

    assert every_line(at) > 50


# --- real signals -----------------------------------------------------------------------------------------------------


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """KeyboardInterrupt after so many seconds, by a real signal."""

    def raise_(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raise_)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_receive_interrupted_by_signals(alarm: Callable[[float], None]) -> None:
    seed = random.SystemRandom().getrandbits(32)
    rng, receiver, came = random.Random(seed), Receiver(), 0
    sock = receiver.sock
    for _ in range(400):
        receiver.kernel(rng.randrange(9))
        try:
            alarm(rng.uniform(5e-6, 120e-6))
            while True:
                sock.poll_once(rng.randrange(1, 6))
        except KeyboardInterrupt:
            came += 1
        batch = sock.poll_once(1)
        receiver.check(batch)
    assert came == 400
    recovered(receiver)
