# SPDX-License-Identifier: Apache-2.0
"""Devices that go, and closing at bad moments: a clear error, with nothing lost and nothing left attached."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.wire import Wire, assert_all_free, frame, numbers, what_runs
from toolkit.errors import (
    ClosedError,
    DeviceGoneError,
    StaleBatchError,
    ToolkitError,
)
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.umem.umem import UMEM


@pytest.fixture
def near(lab: Lab) -> Iterator[toolkit.Interface]:
    """The near end, open for everything."""
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        yield interface


# --- the device goes ------------------------------------------------------------------------------------------------


def receive_for(seconds: float, receive: Callable[..., toolkit.Batch], timeout: float) -> None:
    """Receive, and throw away, until the time is over or an exception comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        receive(timeout=timeout)


@pytest.mark.timing("the end is due 3 s after the device went")
@pytest.mark.parametrize("how", ["waiting", "polling"])
@pytest.mark.parametrize("level", ["interface", "socket"])
def test_the_device_deleted_while_receiving(lab: Lab, wire: Wire, how: str, level: str) -> None:
    """Deleted under a sleeping receiver and under one that never sleeps: noticed within a second or two."""
    program = Program.build("xsk_redirect.c")
    opened: toolkit.Socket | toolkit.Interface
    if level == "socket":
        opened = toolkit.Socket("veth0", netns=lab.netns)
        program.register(opened)
        program.attach("veth0", netns=lab.netns)
    else:
        opened = toolkit.open("veth0", program=program, netns=lab.netns)
    receive = opened.receive
    receive(timeout=0)
    wire.send([frame(1)])
    assert numbers(receive(timeout=5.0)) == [1]
    threading.Timer(0.2, lab.delete_interface).start()
    begin = time.monotonic()
    with pytest.raises(DeviceGoneError, match=r"veth0.*deleted.*ip link"):
        receive_for(10, receive, 10 if how == "waiting" else 0)
    assert time.monotonic() - begin < 3
    with pytest.raises(DeviceGoneError):  # and again, not a hang, when asked again
        receive_for(1.5, receive, 0.5)
    counts = opened.umem.audit()
    assert sum(counts[kind] for kind in counts if kind != "frames") == counts["frames"]
    opened.close()
    program.close()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()


def test_set_down_while_receiving(lab: Lab, wire: Wire, near: toolkit.Interface) -> None:
    """An interface that is set down delivers nothing, and goes on where it was once it is up again, or says it is gone.

    What the kernel does: AF_XDP sockets stay bound (no SO_ERROR is raised), so receive() just times out.
    """
    wire.send([frame(1)])
    assert numbers(near.receive(timeout=5.0)) == [1]
    lab.set_down()
    assert not near.receive(timeout=0.5)
    lab.set_up()
    deadline = time.monotonic() + 5
    got: list[int] = []
    while not got and time.monotonic() < deadline:
        try:
            wire.send([frame(2)])
        except OSError:  # ENETDOWN: the far end has no carrier yet
            time.sleep(0.01)
            continue
        got = numbers(near.receive(timeout=0.1))
    assert got[:1] == [2]


# --- close ----------------------------------------------------------------------------------------------------------


def test_close_twice_and_use_after_close(lab: Lab, wire: Wire) -> None:
    interface = toolkit.open("veth0", filter="all", netns=lab.netns)
    (sock,) = interface.sockets
    program, umem, link = interface.program, interface.umem, interface.link
    rx, tx, fill, completion = sock.rx, sock.tx, sock.fill, sock.completion
    wire.send([frame(1)])
    batch = interface.receive(timeout=5.0)
    view = batch.packet(0)
    interface.close()
    interface.close()
    sock.close()
    umem.close()
    program.close()
    link.close()
    assert interface.closed
    assert sock.closed
    assert umem.closed
    assert program.closed
    assert link.closed
    uses: list[Callable[[], object]] = [
        lambda: interface.receive(timeout=0),
        lambda: interface.receive(),
        interface.statistics,
        interface.counters,
        interface.detach,
        lambda: sock.receive(timeout=0),
        lambda: sock.wait(0),
        sock.fileno,
        sock.statistics,
        lambda: sock.on_close(print),
        lambda: program.register(sock),
        lambda: program.attach("veth0", netns=lab.netns),
        umem.audit,
        umem.alloc_frame,
        lambda: umem.free_frame(0),
        lambda: umem.get(toolkit.XDPDesc(0, 10)),
        rx.peek,
        lambda: rx.get(0),
        lambda: rx.get_batch(0, 4),
        lambda: rx.release(0),
        rx.receive,
        lambda: rx.available(1 << 20),
        lambda: tx.reserve(tx.size),
        lambda: tx.set(0, toolkit.XDPDesc(0, 1)),
        lambda: tx.put(np.zeros((1, 2), np.uint64)),
        tx.notify,
        tx.wake,
        lambda: fill.set(0, 0),
        lambda: fill.fill_all(umem),
        fill.wake,
        completion.peek,
        lambda: completion.free_all(umem),
        lambda: batch.packet(0),
    ]
    for number, use in enumerate(uses):
        try:
            pytest.fail(f"use {number} after close gave {use()!r}")
        except ClosedError as refused:
            caught = refused
        assert "closed" in str(caught) or isinstance(caught, StaleBatchError), (number, caught)
    for one in (interface, sock, program, umem, link, rx, tx, fill, completion, batch):
        assert repr(one)
    assert bytes(view) == frame(1), "a view that is still held keeps the memory"
    assert what_runs(lab) is None


@pytest.mark.timing("the end is due 2 s after close()")
@pytest.mark.parametrize("level", ["interface", "socket"])
@pytest.mark.parametrize("how", ["blocked", "spinning"])
def test_close_from_another_thread(make_lab: Callable[..., Lab], level: str, how: str) -> None:
    """Many times: the receiver gets ClosedError soon, whatever it was doing, and everything is gone."""
    lab = make_lab()
    program = Program.build("xsk_redirect.c")
    with Wire(lab) as wire, program:
        for turn in range(15):
            if level == "socket":
                target: toolkit.Socket | toolkit.Interface = toolkit.Socket("veth0", netns=lab.netns)
                program.register(target)
                program.attach("veth0", netns=lab.netns)
            else:
                target = toolkit.open("veth0", program=program, ring_size=256, netns=lab.netns)
            outcome: list[BaseException] = []
            started = threading.Event()

            def receive(target: Any = target, outcome: Any = outcome, started: Any = started) -> None:
                try:
                    target.receive(timeout=0)
                    started.set()
                    while True:
                        target.receive(timeout=None if how == "blocked" else 0)
                except BaseException as ended:
                    outcome.append(ended)

            thread = threading.Thread(target=receive)
            thread.start()
            assert started.wait(5)
            if turn % 3:
                wire.send([frame(i) for i in range(20 * turn)])
            begin = time.monotonic()
            target.close()
            thread.join(5)
            assert not thread.is_alive()
            assert time.monotonic() - begin < 2
            assert type(outcome[0]) is ClosedError, outcome
            for link in program.links:
                link.close()
            assert what_runs(lab) is None


def test_two_threads_closing_at_once(lab: Lab) -> None:
    for _ in range(10):
        interface = toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns)
        errors: list[BaseException] = []

        def close(interface: Any = interface, errors: Any = errors) -> None:
            try:
                interface.close()
                assert all(sock._core.fd < 0 for sock in interface.sockets), "close() returned before it was done"
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not errors, errors


def test_two_threads_receiving(lab: Lab) -> None:
    """The second gets an error that says so; the first goes on."""
    for make in (
        lambda: toolkit.open("veth0", filter="all", netns=lab.netns),
        lambda: toolkit.Socket("veth0", netns=lab.netns),
    ):
        with make() as target:
            result: list[object] = []
            thread = threading.Thread(target=lambda target=target, result=result: result.append(target.receive(1.0)))
            thread.start()
            time.sleep(0.2)
            with pytest.raises(ToolkitError, match="two threads"):
                target.receive(timeout=0.1)
            thread.join()
            assert len(result) == 1
            assert not target.receive(timeout=0)


def test_a_forgotten_socket_leaves_its_umem_usable(lab: Lab, wire: Wire) -> None:
    with Program.build("xsk_redirect.c") as program, UMEM(256, 2048) as umem:
        for turn in range(5):
            sock = toolkit.Socket("veth0", umem=umem, netns=lab.netns)
            program.register(sock)
            with program.attach("veth0", netns=lab.netns):
                sock.receive(timeout=0)
                wire.send([frame(turn)])
                assert numbers(sock.receive(timeout=5.0)) == [turn]
                del sock
                gc.collect()
                assert_all_free(umem)
                before = program.counters()
                wire.send([frame(turn)])
                assert program.counters()["redirected"] == before["redirected"], "its XSKMAP entry is still there"


def test_closing_a_umem_under_a_socket_is_refused(lab: Lab) -> None:
    with UMEM(64) as umem, toolkit.Socket("veth0", umem=umem, netns=lab.netns):
        with pytest.raises(ToolkitError, match="close the Socket first"):
            umem.close()
        umem.audit()
