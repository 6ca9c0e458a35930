# SPDX-License-Identifier: Apache-2.0
"""fork after open: in the child everything inherited is dead, in the parent nothing changes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import toolkit
from tests.helpers.forks import forks_with_threads, started
from tests.helpers.wire import Wire, eventually, frame, numbers, piece_by_piece
from toolkit.errors import ClosedError
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.umem.umem import UMEM

pytestmark = forks_with_threads


def in_child(work: Callable[[], None], *, stay: bool = False) -> int:
    """Fork, run `work` in the child, and stop there; with `stay` the child then sleeps until it is killed. Its pid.

    Without `stay` the child is waited for, and must have succeeded.
    """
    reader, writer = os.pipe()

    def steps() -> None:
        os.close(reader)
        work()
        os.write(writer, b"ok")
        os.close(writer)
        if stay:
            signal.pause()

    pid = started(steps)
    os.close(writer)
    said = os.read(reader, 10)
    os.close(reader)
    if not stay:
        _, status = os.waitpid(pid, 0)
        assert status == 0
    assert said == b"ok"
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def check_dead(interface: toolkit.Interface, batch: toolkit.Batch, af_xdp: str) -> None:
    """Every object that a child inherited refuses, and closing it does nothing."""
    (sock,) = interface.sockets
    uses: list[Callable[[], Any]] = [
        lambda: interface.receive(timeout=0),
        interface.statistics,
        interface.counters,
        lambda: sock.receive(timeout=0),
        lambda: sock.wait(0),
        sock.fileno,
        sock.statistics,
        interface.umem.alloc_frame,
        interface.umem.audit,
        sock.rx.peek,
        lambda: sock.fill.fill_all(interface.umem),
        sock.tx.notify,
        sock.completion.peek,
        lambda: batch.packet(0),
        lambda: interface.program.register(sock),
        lambda: interface.program.attach("veth0"),
        lambda: interface.program.maps["xsks_map"].fd,
    ]
    for number, use in enumerate(uses):
        try:
            raise AssertionError(f"use {number} in a child gave {use()!r}")
        except ClosedError as refused:
            said = str(refused)
        assert "parent" in said or "stale" in said, said
    for one in (interface, sock, batch, interface.umem, interface.program):
        repr(one)
    interface.close()
    sock.close()
    interface.umem.close()
    interface.program.close()
    # Nothing of the parent's is held by this process, or it would live on here.
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert not [one for one in held if "bpf" in one], held
    assert af_xdp.startswith("socket:")
    assert af_xdp not in held, "the child still holds the parent's AF_XDP socket"
    with open("/proc/self/maps") as maps:
        assert af_xdp not in maps.read(), "the child still maps the parent's rings"


def test_the_child_is_dead_and_the_parent_goes_on(lab: Lab, wire: Wire) -> None:
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        wire.send([frame(1)])
        batch = interface.receive(timeout=5.0)
        af_xdp = os.readlink(f"/proc/self/fd/{interface.sockets[0].fileno()}")
        in_child(lambda: check_dead(interface, batch, af_xdp))
        assert bytes(batch[0]) == frame(1), "the parent's loan is not the child's to end"
        for i in range(10):
            wire.send([frame(i) for i in range(300)])
            got: list[int] = []
            while len(got) < 300:
                got += numbers(interface.receive(timeout=5.0))
            assert got == list(range(300)), i
        assert interface.statistics().dropped == 0


def test_a_view_that_the_child_inherited_does_not_crash_it(lab: Lab, wire: Wire) -> None:
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        wire.send([frame(1)])
        view = interface.receive(timeout=5.0).packet(0)

        def look() -> None:
            assert len(bytes(view)) == 64
            gc.collect()

        in_child(look)
        assert bytes(view) == frame(1)


def test_the_parent_closes_and_opens_again_while_the_child_lives(lab: Lab, wire: Wire) -> None:
    """A child that merely lives on holds neither the queue nor the program."""
    children = []
    try:
        for turn in range(3):
            with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
                wire.send([frame(turn)])
                batch = interface.receive(timeout=5.0)
                assert numbers(batch) == [turn]
                children.append(in_child(lambda: None, stay=True))
                del batch
            assert interface.closed
    finally:
        for pid in children:
            end(pid)


def test_a_child_that_collects_its_garbage_and_exits_normally_harms_nobody(lab: Lab, wire: Wire) -> None:
    with (
        Program.build("xsk_redirect.c") as program,
        UMEM(256, 2048) as umem,
        toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock,
        piece_by_piece(program, lab, sock),
    ):
        sock.receive(timeout=0)
        held: list[Any] = [sock, umem, program]

        def forget() -> None:
            held.clear()
            gc.collect()

        in_child(forget)
        wire.send([frame(4)])
        assert numbers(sock.receive(timeout=5.0)) == [4]
        assert program.links
        held.clear()


def _work_of_a_pool(number: int) -> int:
    return number * number


def test_multiprocessing_by_fork_beside_an_open_interface(lab: Lab, wire: Wire) -> None:
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            wire.send([frame(i) for i in range(100)])
            assert pool.map(_work_of_a_pool, range(10)) == [i * i for i in range(10)]
            got: list[int] = []
            while len(got) < 100:
                got += numbers(interface.receive(timeout=5.0))
            assert got == list(range(100))
            pool.close()
            pool.join()
        assert not interface.closed


def test_the_child_opens_for_itself(lab: Lab, wire: Wire) -> None:
    """After the parent closed: a child is a process like any other."""
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        netns = os.dup(lab.netns.fileno())
        interface.close()

        class Kept:
            def fileno(self) -> int:
                return netns

        def work() -> None:
            with toolkit.open("veth0", filter="all", netns=Kept()) as own:
                os.write(ready_w, b"x")
                assert numbers(own.receive(timeout=5.0)) == [8]

        ready_r, ready_w = os.pipe()
        pid = started(work)
        os.close(ready_w)
        assert os.read(ready_r, 1) == b"x"
        os.close(ready_r)
        os.close(netns)
        wire.send([frame(8)])
        assert eventually(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)
