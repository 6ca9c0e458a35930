# SPDX-License-Identifier: Apache-2.0
"""What nobody should pass to sockets, interfaces and programs: refused with a reason; everything goes on working."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.wire import Wire, collect, eventually, frame
from toolkit.abi.if_xdp import XDPDesc
from toolkit.errors import ArgumentError, FrameError, ToolkitError
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab


@pytest.fixture
def near(lab: Lab) -> Iterator[toolkit.Interface]:
    with toolkit.open("veth0", filter="ether[0] = 2", ring_size=64, netns=lab.netns) as opened:
        yield opened


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frags": "yes"}, "frags cannot be"),
        ({"frags": None}, "frags cannot be"),
        ({"coalesce": "x"}, "seconds"),
        ({"umem": "x"}, "toolkit.UMEM"),
        ({"program": "x", "filter": None}, "toolkit.Program"),
        ({"netns": b"blue"}, "a pid, a path"),
        ({"netns": 1.5}, "a pid, a path"),
        ({"netns": True}, "a pid, a path"),
        ({"netns": "a\0b"}, "no network namespace"),
        ({"filter": 5}, "tcpdump expression"),
        ({"filter": b"udp"}, "tcpdump expression"),
    ],
)
def test_open_refuses(lab: Lab, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        toolkit.open("veth0", **({"filter": "udp", "netns": lab.netns} | options))


def test_a_pid_may_be_one_of_numpys_integers() -> None:
    with toolkit._base.netns.entered(np.int64(os.getpid())):
        pass


def test_receive_and_send_refuse_and_go_on(near: toolkit.Interface, lab: Lab) -> None:
    sock = near.sockets[0]
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: near.receive(0, 2.5), "limit"),
        (lambda: near.receive(0, -1), "-1"),
        (lambda: near.receive(0, 0), "from 1 on"),
        (lambda: near.receive(float("nan")), "timeout cannot be nan.* a number of seconds"),
        (lambda: near.wait(float("nan")), "timeout cannot be nan.* a number of seconds"),
        (lambda: near.receive("x"), "timeout cannot be 'x'.* a number of seconds"),
        (lambda: near.send([frame(0)], timeout="1"), "timeout cannot be '1'.* a number of seconds"),
        (lambda: near.flush("x"), "timeout cannot be 'x'.* a number of seconds"),
        (lambda: sock.receive(0, 2.5), "limit"),
        (lambda: sock.receive(0, "x"), "limit"),
        (lambda: setattr(sock, "rx_limit", 0), "rx_limit"),
        (lambda: setattr(sock, "rx_limit", 1.5), "rx_limit"),
        (lambda: Forwarder("veth0", near), "a Socket or an Interface"),
        (lambda: Forwarder(near, near, 5), "function"),
    ]
    for call, says in calls:
        with pytest.raises(ArgumentError, match=says):
            call()
    assert not near.receive(np.float32(0.01))
    assert sock.reply(lambda packet: True, limit=0, polls=5) == (0, 0)
    with Wire(lab) as wire:
        wire.send([frame(1)])
        assert eventually(lambda: sock.rx.available() > 0)
        assert sock.reply(lambda packet: True, limit=0, polls=5) == (0, 0), "none was asked for"
        assert collect(near.receive, 1) == [frame(1)]


@pytest.mark.parametrize("one", [False, True])
def test_a_frame_on_its_way_is_not_sent_twice(near: toolkit.Interface, lab: Lab, one: bool) -> None:
    """Refused, and the books still say that the kernel has it."""
    sock, umem = near.sockets[0], near.umem
    desc = XDPDesc(umem.alloc_frame(), 64, 0)
    umem.get(desc)[:] = frame(7)
    descs = np.array([[desc.addr, desc.len]], dtype=np.uint64)
    with Wire(lab) as wire:
        assert not len(sock.pass_on(descs, 0.01))
        if one:
            with sock._sender.sending(), pytest.raises(FrameError, match="for sending"):
                sock._sender.pass_on_one(desc)
        else:
            with pytest.raises(FrameError, match="for sending"):
                sock.pass_on(descs, 0.01)
        with pytest.raises(FrameError, match="outside"):
            sock.pass_on(np.array([[1 << 60, 64]], dtype=np.uint64), 0.01)
        sock._sender._begin()  # recovers
        assert umem.audit()["tx"] == 1, "it is the kernel's until it comes back"
        assert near.send([frame(8)]) == 1
        assert wire.receive(2) == [frame(7), frame(8)]
        assert near.flush(5)
        assert umem.audit()["tx"] == 0


def test_a_socket_for_several_buffers_does_not_reply(lab: Lab) -> None:
    with (
        toolkit.Socket("veth0", sg=True, netns=lab.netns) as sock,
        pytest.raises(ArgumentError, match="several frames"),
    ):
        sock.reply(lambda packet: True)


def test_wake_ends_a_receive_for_good(near: toolkit.Interface, lab: Lab) -> None:
    threading.Timer(0.2, near.wake).start()
    began = time.monotonic()
    assert not near.receive()
    assert not near.receive()
    assert time.monotonic() - began < 20
    with Wire(lab) as wire:
        wire.send([frame(1)])
        assert eventually(near.sockets[0].rx.available)
        assert near.receive(0).lengths.tolist() == [64]


def test_two_threads_that_wait_are_reported(near: toolkit.Interface) -> None:
    first = threading.Thread(target=near.wait)
    first.start()
    assert eventually(near._guard.locked)
    with pytest.raises(ToolkitError, match="two threads"):
        near.wait(0)
    near.wake()
    first.join(20)
    assert not first.is_alive()
