# SPDX-License-Identifier: Apache-2.0
"""Sending while Batches are held: some frames stay free for it; where none are, the error comes at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import toolkit
from tests.helpers.sending import Tap, assert_in_order, stream
from tests.helpers.wire import Wire, eventually, frame
from toolkit.errors import FrameError
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab
from toolkit.program import Program

RING = 64


def full_batch(near: toolkit.Interface, wire: Wire) -> toolkit.Batch:
    """As many packets as one Batch has by default, held; more wait in the ring."""
    wire.send([frame(i) for i in range(2 * RING)])
    want = max(near.sockets[0].rx_limit // 4, 1)
    assert eventually(lambda: (near.waiting() or want) >= want)
    batch = near.receive(timeout=5.0)
    assert len(batch) == want
    return batch


@contextlib.contextmanager
def nothing_free(lab: Lab) -> Iterator[toolkit.Socket]:
    """A Socket whose frames are all in the fill ring."""
    with (
        toolkit.UMEM(RING, 2048, fill_size=RING, comp_size=RING) as umem,
        Program.build("xsk_redirect.c", filter="all") as program,
        toolkit.Socket("veth0", umem=umem, prefill=RING, netns=lab.netns) as sock,
    ):
        program.attach("veth0", netns=lab.netns)
        program.register(sock)
        yield sock


@pytest.mark.timing("it is due in a second, without a wait")
@pytest.mark.parametrize("queues", [1, 3])
def test_send_while_a_full_batch_is_held(make_lab: Callable[..., Lab], queues: int) -> None:
    lab = make_lab(queues=queues)
    with (
        toolkit.open("veth0", filter="all", ring_size=RING, netns=lab.netns) as near,
        Tap.far(lab) as tap,
        Wire(lab) as wire,
    ):
        batch = full_batch(near, wire)
        begin = time.monotonic()
        assert near.send(stream(0, 200)) == 200
        assert time.monotonic() - begin < 1
        assert len(batch.head(14)) == len(batch), "it is still held"
        assert near.flush(5.0)
        assert assert_in_order(tap.take(200)) == list(range(200))


def test_every_socket_of_a_umem_sends_while_each_holds_a_batch(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    other = make_lab()
    with (
        toolkit.UMEM(256, 2048, fill_size=RING, comp_size=RING) as umem,
        toolkit.open("veth0", filter="all", umem=umem, netns=lab.netns) as one,
        toolkit.open("veth0", filter="all", umem=umem, netns=other.netns) as two,
        Wire(lab) as wire,
        Wire(other) as other_wire,
    ):
        batches = [full_batch(one, wire), full_batch(two, other_wire)]
        for near in (one, two):
            assert near.send(stream(0, 100), timeout=1.0) == 100
            assert near.flush(5.0)
        assert not any(batch.stale for batch in batches)


def test_answers_and_forwarding_go_on_while_another_holds_a_batch(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    """On one UMEM: the frames that they need are those that they receive."""
    other = make_lab()
    with (
        toolkit.UMEM(256, 2048, fill_size=RING, comp_size=RING) as umem,
        toolkit.open("veth0", filter="all", umem=umem, netns=lab.netns) as one,
        toolkit.open("veth0", filter="all", umem=umem, netns=other.netns) as two,
        Wire(lab) as wire,
        Wire(other) as other_wire,
        Tap.far(other) as tap,
    ):
        batch = full_batch(one, wire)
        forwarder = Forwarder(two, two)
        for first in range(0, 400, 20):
            other_wire.send([frame(first + i) for i in range(20)])
            while forwarder.statistics().received < first + 20:
                assert forwarder.step(5.0)
        assert forwarder.statistics().no_room == 0
        other_wire.send([frame(1000)])
        assert eventually(lambda: two.sockets[0].reply(lambda packet: True) == (1, 1))
        assert two.flush(5.0)
        assert len(tap.take(401)) == 401
        assert not batch.stale


@pytest.mark.timing("the error is due at once")
def test_without_a_free_frame_the_error_comes_at_once_and_names_the_batch(lab: Lab, wire: Wire) -> None:
    with nothing_free(lab) as sock:
        wire.send([frame(i) for i in range(RING)])
        batch = sock.receive(timeout=5.0)
        assert batch
        begin = time.monotonic()
        with pytest.raises(FrameError, match=rf"{len(batch)} are in the Batch that you hold, \d+ are posted.*release"):
            sock.send(stream(0, 3))
        assert time.monotonic() - begin < 1
        assert sock.send(stream(0, 3), timeout=0) == 0, "who does not wait only gets the number"
        batch.release()
        assert sock.send(stream(0, 3)) == 3
        assert sock.flush(5.0)


def test_another_thread_that_holds_the_batch_may_give_it_back_meanwhile(lab: Lab, wire: Wire) -> None:
    """Then send() waits for it."""
    with nothing_free(lab) as sock:
        wire.send([frame(i) for i in range(RING)])
        held, go = threading.Event(), threading.Event()

        def receive() -> None:
            batch = sock.receive(timeout=5.0)
            held.set()
            go.wait(10)
            batch.release()

        thread = threading.Thread(target=receive)
        thread.start()
        assert held.wait(10)
        threading.Timer(0.2, go.set).start()
        assert sock.send(stream(0, 3)) == 3
        thread.join()
        assert sock.flush(5.0)
