# SPDX-License-Identifier: Apache-2.0
"""A frame is in exactly one place at any time: random walks under traffic, and two threads on one UMEM."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import toolkit
from tests.helpers.wire import HEADER, Wire, assert_all_free, frame
from toolkit.errors import FrameError
from toolkit.lab import Lab
from toolkit.umem.umem import UMEM

pytestmark = pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU")

PACKET = HEADER + b"sent by the near end".ljust(46)


def descriptors(addresses: np.ndarray) -> np.ndarray:
    """Descriptors of PACKET at these addresses, shape (n, 2), u64."""
    return np.stack([addresses, np.full(len(addresses), len(PACKET), np.uint64)], axis=1).astype(np.uint64)


def write_packets(umem: UMEM, addresses: np.ndarray) -> None:
    for address in addresses.tolist():
        umem.get(toolkit.XDPDesc(address, len(PACKET)))[:] = PACKET


def collect_sent(sock: toolkit.Socket) -> int:
    """Have the kernel send what waits, and take back what was sent."""
    if sock.tx.outstanding:
        sock.tx.wake()
    return sock.completion.free_all(sock.umem)


@pytest.mark.parametrize("seed", range(4))
def test_a_random_walk_keeps_every_frame(make_lab: Callable[..., Lab], seed: int) -> None:
    """After each step the audit agrees with what we hold ourselves, to the frame."""
    pick = random.Random(seed)
    lab = make_lab(queues=2)
    with toolkit.open("veth0", filter="all", ring_size=64, frames=128, netns=lab.netns) as near, Wire(lab) as wire:
        umem = near.umem
        mine: list[int] = []
        sending = received = 0
        batch = near.receive(timeout=0)
        for _ in range(400):
            step = pick.choice(("traffic", "receive", "release", "alloc", "free", "send", "complete", "too many"))
            sock = pick.choice(near.sockets)
            if step == "traffic":
                wire.send([frame(i) for i in range(pick.randrange(100))])
            elif step == "receive":
                batch = near.receive(timeout=0, limit=pick.choice((None, 1, 2, 7)))
                received += len(batch)
            elif step == "release":
                batch.release()
            elif step == "alloc":
                mine += umem.alloc_frames(min(pick.randrange(10), umem.n_free_frames)).tolist()
            elif step == "free" and mine:
                given = [mine.pop() + pick.randrange(2048) for _ in range(pick.randrange(len(mine)))]
                umem.free_frames(given)
            elif step == "send" and mine:
                addresses = np.array(mine, np.uint64)
                write_packets(umem, addresses)
                n = sock.tx.put(descriptors(addresses))
                sending += n
                mine = mine[n:]
            elif step == "complete":
                sending -= collect_sent(sock)
            elif step == "too many":
                with pytest.raises(FrameError, match="cannot take"):
                    umem.alloc_frames(umem.frames + 1)
            audit = umem.audit()
            assert audit["user"] == len(mine)
            assert audit["tx"] == sending
            assert audit["received"] == (0 if batch.stale or not batch else len(batch))
            assert audit["free"] + audit["rx"] + audit["user"] + audit["received"] + audit["tx"] == umem.frames
        assert received > 0
    counts = umem.ledger.audit()
    assert counts["user"] == len(mine), "what the user allocated is the user's, whatever closes"
    # For the accounts after the test: that UMEM is closed, nobody can give these back any more.
    umem.ledger.free(np.array(mine, np.uint64)) if mine else None


def test_a_receiving_and_a_sending_thread_share_a_umem(lab: Lab, wire: Wire) -> None:
    """Each has its rings; the free stack is what they share. Nothing is lost, nothing is given out twice."""
    with toolkit.open("veth0", filter="all", ring_size=128, frames=256, netns=lab.netns) as near:
        umem, (sock,) = near.umem, near.sockets
        stop = threading.Event()
        errors: list[BaseException] = []
        sent = received = 0

        def send() -> None:
            nonlocal sent
            try:
                while not stop.is_set():
                    n = min(16, umem.n_free_frames)
                    try:
                        addresses = umem.alloc_frames(n)
                    except FrameError:  # the receiver was quicker
                        continue
                    write_packets(umem, addresses)
                    done = sock.tx.put(descriptors(addresses))
                    if done < n:
                        umem.free_frames(addresses[done:])
                    sent += collect_sent(sock)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        end = time.monotonic() + 2
        while time.monotonic() < end and not errors:
            wire.send([frame(i) for i in range(32)])
            for _ in range(4):
                received += len(near.receive(timeout=0.001))
            audit = umem.audit()
            assert sum(audit[kind] for kind in audit if kind != "frames") == umem.frames
        stop.set()
        thread.join()
        assert not errors, errors
        assert min(sent, received) > 100
        while umem.audit()["tx"]:
            collect_sent(sock)
        umem.audit()


def test_the_accounts_notice_a_lost_frame(lab: Lab) -> None:
    """The check itself: a frame that is nobody's, and one that is free twice."""
    with UMEM(64, 2048) as umem:
        address = umem.alloc_frame()
        with pytest.raises(AssertionError):
            assert_all_free(umem)
        umem.free_frame(address)
        assert_all_free(umem)
        umem.ledger._stack[0] = umem.ledger._stack[1]
        with pytest.raises(FrameError, match="twice"):
            umem.audit()
        umem.ledger.rebuild()
        assert_all_free(umem)
