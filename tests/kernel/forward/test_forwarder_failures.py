# SPDX-License-Identifier: Apache-2.0
"""Forwarding on bad days: full rings, interfaces that go, and other threads. No frame is lost, and all adds up."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest

import toolkit
from tests.helpers.forwarding import Middle, adds_up, moved, settled, swap_macs
from tests.helpers.sending import Tap, stream
from tests.helpers.wire import Wire, frame, number_of
from toolkit.errors import ClosedError, DeviceGoneError, ToolkitError
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab


@pytest.mark.timing("the end is due in a second")
def test_a_tx_ring_that_stays_full(lab: Lab, near: toolkit.Interface) -> None:
    """What finds no room in 10 ms is dropped and counted; its frames come back; then it goes on."""
    (sock,) = near.sockets
    with Tap.far(lab) as tap, Wire(lab) as wire:
        assert near.send(stream(0, 64)) == 64
        assert len(tap.take(64)) == 64
        n, index = sock.completion.peek()  # kept: a full completion ring, so that the kernel stops sending
        assert n == 64
        forwarder = Forwarder(near, near)
        for first in (100, 140, 180):
            wire.send([frame(first + i) for i in range(40)])
            begin = time.monotonic()
            moved(forwarder, first - 60)
            assert time.monotonic() - begin < 1
        assert (forwarder.statistics().forwarded, forwarder.statistics().no_room) == (64, 56)
        near.umem.free_frames(sock.completion.get_batch(index, n))
        sock.completion.release(n)
        forwarder.step()
        assert [number_of(one) for one in tap.take(64)] == list(range(100, 164))
        wire.send([frame(300 + i) for i in range(40)])
        moved(forwarder, 160)
        assert [number_of(one) for one in tap.take(40)] == list(range(300, 340))
    settled(near)


def test_what_a_busy_kernel_left_is_sent_without_new_packets(lab: Lab, near: toolkit.Interface) -> None:
    """A kick that came to nothing is repeated by the next step, and nobody sleeps over it."""
    (sock,) = near.sockets
    wake = sock.tx._wake
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near)
        sock.tx._wake = lambda: False
        wire.send([frame(1)])
        moved(forwarder, 1)
        assert sock.tx.outstanding == 1
        timer = threading.Timer(0.1, lambda: setattr(sock.tx, "_wake", wake))
        thread = threading.Thread(target=forwarder.run, args=(2.0,), kwargs={"stop": lambda: not sock.tx.outstanding})
        timer.start()
        thread.start()
        assert len(tap.take(1, timeout=1.0)) == 1
        thread.join(1.0)
        assert not thread.is_alive()
    settled(near)


def test_a_target_that_goes_down_and_up_again(middle: Middle) -> None:
    """ENETDOWN is raised and counts stay true; the source is not touched, and later it goes on."""
    from toolkit.net import ethtool

    forwarder = Forwarder(middle.left, middle.right)
    with Wire(middle.lab) as wire, Tap(middle.far, "veth1") as tap:
        with middle.lab.netns.entered():
            ethtool.set_up("right", up=False)
        wire.send([frame(i) for i in range(30)])
        while forwarder.statistics().received < 30:
            with pytest.raises(DeviceGoneError, match="cannot send on queue 0 of right"):
                forwarder.step(5.0)
        adds_up(forwarder)
        assert forwarder.statistics().forwarded == forwarder.statistics().received, (
            "they are in the ring, and leave when the link is up"
        )
        middle.lab.netns.call(lambda: ethtool.set_up("right"))
        wire.send([frame(30)])
        deadline = time.monotonic() + 10
        got: list[bytes] = []
        while not got and time.monotonic() < deadline:  # the carrier takes its time
            forwarder.step(0.01)
            wire.send([frame(31)])
            got = [one for one in tap.take(0, quiet=0.01) if number_of(one) == 31]
        assert got
        adds_up(forwarder)
    settled(middle.left, middle.right)


@pytest.mark.parametrize("which", ["left", "right"])
def test_an_interface_that_vanishes(middle: Middle, which: str, conservation: Any) -> None:
    conservation.may_retire = 64
    forwarder = Forwarder(middle.left, middle.right)
    with contextlib.ExitStack() as stack:
        wire = stack.enter_context(Wire(middle.lab))
        wire.send([frame(i) for i in range(30)])
        moved(forwarder, 30)
        if which == "left":
            middle.lab.delete_interface()
        else:
            middle.far.close()
        deadline = time.monotonic() + 5
        gone = None
        while gone is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                wire.send([frame(1)])
            try:
                forwarder.step(0.1)
            except DeviceGoneError as raised:
                gone = raised
        assert gone is not None
    adds_up(forwarder)


@pytest.mark.timing("the end is due 2 s after close()")
def test_close_while_another_thread_forwards(lab: Lab, near: toolkit.Interface) -> None:
    ended: list[BaseException] = []

    def run() -> None:
        try:
            Forwarder(near, near, swap_macs).run()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    with Wire(lab) as wire:
        wire.send([frame(i) for i in range(500)])
    begin = time.monotonic()
    near.close()
    assert time.monotonic() - begin < 2
    thread.join(5)
    assert isinstance(ended[0], ClosedError), ended


def test_another_thread_that_sends_on_the_target(lab: Lab, near: toolkit.Interface) -> None:
    """It gets the error, or the Forwarder does. Frames stay whole."""
    stop = threading.Event()
    refused: list[str] = []

    def send() -> None:
        while not stop.is_set():
            try:
                near.send([frame(1)] * 30, timeout=0.01)
            except ToolkitError as error:
                refused.append(str(error))

    thread = threading.Thread(target=send)
    forwarder = Forwarder(near, near)
    with Wire(lab) as wire:
        thread.start()
        for _ in range(50):
            wire.send([frame(i) for i in range(20)])
            try:
                forwarder.step(0.01)
            except ToolkitError as error:
                refused.append(str(error))
        stop.set()
        thread.join()
    while forwarder.step(0.05):
        pass
    adds_up(forwarder)
    assert all("two threads send" in text for text in refused)
    settled(near)


@pytest.mark.timing("a timeout is kept to 0.2 s, as far as a CPU is free then")
def test_step_waits_as_long_as_asked_and_run_stops(lab: Lab, near: toolkit.Interface) -> None:
    forwarder = Forwarder(near, near)
    for timeout in (0, 0.1):
        begin = time.monotonic()
        assert forwarder.step(timeout) == 0
        assert timeout <= time.monotonic() - begin < timeout + 0.2
    begin = time.monotonic()
    forwarder.run(0.3)
    assert 0.3 <= time.monotonic() - begin < 0.6
    with Wire(lab) as wire:
        wire.send([frame(i) for i in range(10)])
        forwarder.run(stop=lambda: forwarder.statistics().received)
        assert forwarder.statistics().received <= 10
        assert forwarder.step(limit=3) <= 3
    while forwarder.step(0.05, limit=3):
        pass
    moved(forwarder, 10)
    settled(near)
