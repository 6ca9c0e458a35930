# SPDX-License-Identifier: Apache-2.0
"""KeyboardInterrupt at every line of receiving and filling: a frame may come late, it is never lost or in two places.

The Socket is the real one; its rings lie in plain memory, and the kernel's part is played by the test.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.helpers.interrupts import Interrupt, every_line
from tests.helpers.receiver_rig import FRAMES, Receiver, recovered
from toolkit.errors import ToolkitError
from toolkit.umem.ledger import USER
from toolkit.umem.umem import UMEM


def prepared(stage: str) -> Receiver:
    receiver = Receiver()
    if stage == "first":
        return receiver
    receiver.sock.poll_once()
    receiver.kernel(5 if stage != "one" else 1)
    if stage in ("borrowed", "one"):
        batch = receiver.sock.poll_once(3)
        assert batch
        receiver.kernel(6 if stage == "borrowed" else 1)
        receiver.check(batch)
    return receiver


@pytest.mark.parametrize("stage", ["first", "waiting", "borrowed", "one"])
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


@pytest.mark.parametrize("stage", ["waiting", "borrowed"])
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


def test_take_back_interrupted_at_every_line() -> None:
    """As Interface calls it, for the queue whose Batch came last."""

    def at(k: int) -> bool:
        receiver, interrupt = prepared("borrowed"), Interrupt(k)
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


def test_frames_of_an_interrupted_post_that_the_sender_took_meanwhile_stay_the_sender_s() -> None:
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
