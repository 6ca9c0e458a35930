# SPDX-License-Identifier: Apache-2.0
"""The Sender where no kernel gets in a test: ring indices at 2^32, and a kernel as slow, busy and forgetful as may be.

The rings are ordinary memory; the other side of them is played by PlainCore.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.helpers.sending import RING, U32, PlainCore, stream
from tests.helpers.wire import assert_all_free, frame
from toolkit.errors import FrameError
from toolkit.umem.receiving import ReceiveAccount
from toolkit.umem.umem import UMEM
from toolkit.xsk.sender import Sender


@pytest.fixture
def umem() -> Iterator[UMEM]:
    with UMEM(24, 2048) as made:
        yield made


@pytest.mark.parametrize("start", [0, U32 - 1, U32 - RING, U32 - 1000, 1 << 31])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_packets_cross_the_wrap_of_the_indices(umem: UMEM, start: int, seed: int | None) -> None:
    core: Any = PlainCore(umem, start % U32, seed=seed)
    sender = Sender(core, core.tx)
    pick = random.Random(seed)
    packets = [frame(i, pick.randrange(18, 300)) for i in range(2500)]
    done = 0
    while done < len(packets):
        size = pick.choice((1, 2, RING - 1, RING, RING + 1, 100))
        assert sender.send(packets[done : done + size], timeout=20.0) == len(packets[done : done + size])
        done += size
        audit = umem.audit()
        assert audit["free"] + audit["tx"] == umem.frames
    assert sender.flush(20.0)
    assert core.left == packets
    assert_all_free(umem)


@pytest.mark.parametrize("start", [0, U32 - 5])
def test_received_frames_are_passed_on_across_the_wrap(umem: UMEM, start: int) -> None:
    """pass_on() and pass_on_one(), as a Forwarder and a Responder use them."""
    core: Any = PlainCore(umem, start, seed=3)
    sender = Sender(core, core.tx)
    received = ReceiveAccount(umem.ledger, umem.new_holder())
    memory = umem.memory
    assert memory is not None
    expected: list[bytes] = []
    for turn in range(200):
        n = min(turn % 12, umem.n_free_frames)
        addresses = umem.ledger.alloc(n, received.received)
        descs = np.stack([addresses + np.uint64(256), np.full(n, 64, np.uint64)], axis=1)
        rows = stream(100 * turn, n)
        for address, row in zip(descs[:, 0].tolist(), rows, strict=True):
            memory[address : address + 64] = row
        left = sender.pass_on(descs, 0.5)
        expected += [row.tobytes() for row in rows[: n - len(left)]]
        umem.recycle(left[:, 0])
        sender.reclaim()
        audit = umem.audit()
        assert audit["free"] + audit["tx"] == umem.frames
    assert sender.flush(20.0)
    assert core.left == expected
    assert len(expected) > 500
    assert_all_free(umem)


def test_a_busy_kernel_is_not_asked_without_end(umem: UMEM) -> None:
    """While it takes nothing, the pauses grow: no more than some thousand calls a second."""
    core: Any = PlainCore(umem, 0)
    sender = Sender(core, core.tx)
    core.tx._wake = lambda: bool(setattr(core, "wakes", core.wakes + 1))  # always busy
    assert sender.send(stream(0, 100), timeout=0.3) == RING
    assert core.wakes < 1000
    assert not sender.flush(0.1)
    core.tx._wake = core.wake
    assert sender.flush(1.0)
    assert len(core.left) == RING
    assert_all_free(umem)


def test_a_receiving_thread_that_is_quicker_to_the_free_frames(umem: UMEM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the free stack and the hand on it another thread may take them: send() tries again."""
    core: Any = PlainCore(umem, 0)
    sender = Sender(core, core.tx)
    count, taken = umem.ledger.count_free, []

    def count_and_lose() -> int:
        n = count()
        if not taken:
            taken.extend(umem.alloc_frames(n).tolist())
        return n

    monkeypatch.setattr(umem.ledger, "count_free", count_and_lose)
    assert sender.send(stream(0, 5), timeout=0) == 0
    umem.free_frames(taken)
    assert sender.send(stream(0, 5), timeout=0) == 5
    assert sender.flush(1.0)
    assert_all_free(umem)


def test_a_umem_without_a_free_frame_is_an_error_not_a_hang(umem: UMEM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.xsk.sender._STARVED", 0.2)
    core: Any = PlainCore(umem, 0)
    sender = Sender(core, core.tx)
    mine = umem.alloc_frames(umem.frames)
    with pytest.raises(FrameError, match=r"cannot send .* no frame of the UMEM was free.*'user': 24.*Next step"):
        sender.send(stream(0, 5))
    umem.free_frames(mine)
    assert sender.send(stream(0, 5)) == 5
    assert sender.flush(1.0)
    assert_all_free(umem)
