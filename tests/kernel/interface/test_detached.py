# SPDX-License-Identifier: Apache-2.0
"""The program is gone, and whoever waits for packets says so: each way to lose it, for each way to wait.

What had come before is returned first. What we take off ourselves is no loss.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import toolkit
from tests.helpers.detaching import WAYS, Way, detach, move_away, pass_program, replace, update
from tests.helpers.wire import Wire, eventually, frame, numbers
from toolkit.errors import DetachedError, DeviceGoneError
from toolkit.forward.forwarder import Forwarder
from toolkit.forward.responder import Responder
from toolkit.interface.receiving import OneReceiver
from toolkit.lab import Lab, Namespace
from toolkit.program import Program

ways = pytest.mark.parametrize("way", WAYS, ids=repr)

LONG = 20.0  # seconds: a waiter that notices nothing


@pytest.fixture
def elsewhere() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Program]:
    with pass_program() as made:
        yield made


def until_error(receive: Callable[..., toolkit.Batch], timeout: float | None, **how: Any) -> tuple[list[int], Any]:
    """Receive until an error comes: the numbers of the packets that came before it, and the error."""
    got: list[int] = []
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        try:
            got += numbers(receive(timeout=timeout, **how))
        except DeviceGoneError as error:
            return got, error
    pytest.fail(f"nothing was noticed in {LONG} s")


def async_receive(opened: OneReceiver) -> Callable[..., toolkit.Batch]:
    loop = asyncio.new_event_loop()

    def receive(timeout: float | None = None) -> toolkit.Batch:
        try:
            return loop.run_until_complete(opened.areceive(timeout))
        except DeviceGoneError:
            loop.close()
            raise

    return receive


def check(way: Way, error: DeviceGoneError) -> None:
    assert type(error) is way.kind, repr(error)
    assert error.strerror is not None
    assert re.search(way.text, error.strerror), error.strerror
    assert "Next step" in error.strerror


@ways
@pytest.mark.parametrize("timeout", [None, 0.01, 0], ids=["sleeping", "short", "looking"])
@pytest.mark.parametrize("how", ["poll", "spin", "busy-poll", "asyncio"])
def test_an_interface(
    lab: Lab, wire: Wire, other: Program, elsewhere: Namespace, way: Way, timeout: float | None, how: Any
) -> None:
    wait = "poll" if how == "asyncio" else how
    with toolkit.open("veth0", filter="all", wait=wait, netns=lab.netns) as opened:
        receive = async_receive(opened) if how == "asyncio" else opened.receive
        wire.send([frame(1)])
        assert numbers(receive(timeout=5)) == [1]
        wire.send([frame(n) for n in (2, 3, 4)])
        assert eventually(lambda: opened.waiting() == 3)
        way.end(lab, opened.link.id, other, elsewhere)
        got, error = until_error(receive, timeout)
        assert got == [2, 3, 4]
        check(way, error)
        with pytest.raises(way.kind):  # and again
            opened.receive(timeout=LONG)
        assert opened.mode == "detached"
        assert str(opened.loss()) == str(error)
        assert opened.info()["loss"] == error.strerror
        assert "detached" in repr(opened)
        assert opened.counters()["redirected"] == 4, "the program is ours, and its counters can be read"
        opened.detach()  # as whoever reconciles does
        assert str(opened.loss()) == str(error)
    assert str(opened.loss()) == str(error)


@ways
@pytest.mark.parametrize("timeout", [None, 0.01, 0], ids=["sleeping", "short", "looking"])
@pytest.mark.parametrize("how", ["poll", "asyncio"])
def test_a_tee(
    lab: Lab, wire: Wire, other: Program, elsewhere: Namespace, way: Way, timeout: float | None, how: str
) -> None:
    with toolkit.tee("veth0", filter="all", netns=lab.netns) as opened:
        receive = async_receive(opened) if how == "asyncio" else opened.receive
        wire.send([frame(1)])
        assert numbers(receive(timeout=5)) == [1]
        wire.send([frame(n) for n in (2, 3, 4)])
        assert eventually(lambda: opened.waiting() == 3)
        way.end(lab, opened.link.id, other, elsewhere)
        if way.name == "moved":  # its program moves with the interface, and so do the copies
            assert sum(len(receive(timeout=1)) for _ in range(2)) == 3
            assert opened.loss() is None
            assert opened.mode == "native"
            return
        got, error = until_error(receive, timeout)
        assert got == [2, 3, 4]
        check(way, error)
        assert opened.mode == "detached"
        assert opened.info()["loss"]
        assert opened.counters()["redirected"] == 4


@ways
@pytest.mark.parametrize("how", ["receive", "wait"])
@pytest.mark.parametrize("timeout", [None, 0.01, 0], ids=["sleeping", "short", "looking"])
def test_piece_by_piece(
    lab: Lab, wire: Wire, other: Program, elsewhere: Namespace, way: Way, how: str, timeout: float | None
) -> None:
    if how == "wait" and timeout == 0:
        timeout = 0.001
    with Program.build("xsk_redirect.c") as program, toolkit.Socket("veth0", netns=lab.netns) as sock:
        program.register(sock)
        link = program.attach("veth0", netns=lab.netns)
        sock.receive(timeout=0)
        wire.send([frame(1)])
        assert numbers(sock.receive(timeout=5)) == [1]
        wire.send([frame(2)])
        assert sock.wait(5)
        way.end(lab, link.id, other, elsewhere)

        def receive(timeout: float | None) -> toolkit.Batch:
            if how == "receive":
                return sock.receive(timeout=timeout)
            sock.wait(timeout)
            return sock.poll_once()

        got, error = until_error(receive, timeout)
        assert got == [2]
        check(way, error)
        if way.name != "moved":
            assert not link.attached
            assert {"updated": "replaced", "deleted": "deleted"}.get(way.name, "detached") in repr(link)


@ways
@pytest.mark.parametrize("who", ["forwarder", "responder", "spinning responder"])
def test_what_moves_packets(
    lab: Lab, wire: Wire, other: Program, elsewhere: Namespace, way: Way, who: str, conservation: Any
) -> None:
    from tests.helpers.echoing import IP4, MAC
    from toolkit.forward.answers import Answers

    conservation.may_retire = 64
    with toolkit.open("veth0", filter="all", netns=lab.netns) as opened:
        mover: Any = Forwarder(opened, opened) if who == "forwarder" else Responder(opened, Answers(MAC, [IP4]))
        wire.send([frame(1)])
        assert eventually(lambda: mover.step(0.1) and mover.statistics().received == 1)
        wire.send([frame(2)])
        assert eventually(lambda: opened.waiting() == 1)
        way.end(lab, opened.link.id, other, elsewhere)
        with pytest.raises(way.kind) as raised:
            mover.run(LONG, **({"spin": True} if who.startswith("spinning") else {}))
        assert mover.statistics().received == 2
        check(way, raised.value)


@ways
def test_replies(lab: Lab, wire: Wire, other: Program, elsewhere: Namespace, way: Way) -> None:
    """The short path, by itself: nobody waits, and nobody receives."""
    with toolkit.open("veth0", filter="all", netns=lab.netns) as opened:
        (sock,) = opened.sockets
        wire.send([frame(1)])
        assert eventually(lambda: sock.reply(lambda _: False) == (1, 0))
        way.end(lab, opened.link.id, other, elsewhere)
        with pytest.raises(way.kind) as raised:
            eventually(lambda: sock.reply(lambda _: False)[0], LONG)
        check(way, raised.value)


@pytest.mark.parametrize("busy", [0, 1])
def test_packets_of_every_queue_come_first(make_lab: Callable[..., Lab], busy: int) -> None:
    """Many wait on one queue, none on the other: the empty one does not end it."""
    lab = make_lab(queues=2)
    with toolkit.open("veth0", filter="all", netns=lab.netns) as opened:
        with lab.generator(frame=frame(7), count=200, cpu=busy) as generator:
            generator.wait()
        assert eventually(lambda: opened.counters()["redirected"] == 200)
        opened.receive(timeout=0, limit=1)
        detach(lab, opened.link.id)
        time.sleep(0.15)  # longer than an answer of the kernel's is believed
        got, error = until_error(opened.receive, 0, limit=3)
        assert len(got) == 199
        assert type(error) is DetachedError


def test_a_program_of_one_s_own_on_two_interfaces(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    """Its link on one of them is cut: the other goes on. Both have the same number, in two namespaces."""
    there = make_lab()
    with Program.build("xsk_redirect.c") as program:
        a = toolkit.open("veth0", program=program, netns=lab.netns)
        b_link = program.attach("veth0", netns=there.netns)
        assert a.link.ifindex == b_link.ifindex
        with Wire(lab) as wire:
            detach(there, b_link.id)
            wire.send([frame(1)])
            assert numbers(a.receive(timeout=5)) == [1]
            assert not a.receive(timeout=0.5)
            assert b_link.loss() is not None
            detach(lab, a.link.id)
            with pytest.raises(DetachedError):
                a.receive(timeout=LONG)
        a.close()


@pytest.mark.parametrize("kind", ["open", "tee"])
def test_what_we_take_off_ourselves_is_no_loss(lab: Lab, wire: Wire, kind: str) -> None:
    make = toolkit.open if kind == "open" else toolkit.tee
    with make("veth0", filter="all", netns=lab.netns) as opened:
        wire.send([frame(1), frame(2)])
        assert eventually(lambda: opened.counters()["redirected"] == 2)
        opened.detach()
        assert sum(len(opened.receive(timeout=0.3)) for _ in range(3)) == 2
        assert opened.loss() is None
        assert opened.mode == "detached"
    assert opened.loss() is None


def test_what_was_taken_off_just_before_our_own_end_is_known(lab: Lab) -> None:
    with toolkit.open("veth0", filter="all", netns=lab.netns) as opened:
        detach(lab, opened.link.id)
        opened.detach()
    assert opened.loss() is not None
    assert "took the XDP program" in str(opened.loss())


def test_our_own_update_is_no_loss(lab: Lab, wire: Wire) -> None:
    """Whoever updates the link on purpose says which program is to run."""
    with (
        Program.build("xsk_redirect.c") as program,
        Program.build("xsk_redirect.c") as newer,
        toolkit.open("veth0", program=program, netns=lab.netns) as opened,
    ):
        newer.register(opened.sockets[0])
        opened.link.program_id = newer.id
        update(opened.link.id, newer)
        wire.send([frame(5)])
        assert numbers(opened.receive(timeout=5)) == [5]
        assert not opened.receive(timeout=0.5)
        assert opened.mode == "native"


def test_a_program_that_others_attached_by_netlink(lab: Lab, wire: Wire) -> None:
    """As BCC's attach_xdp and `ip link set xdp` do; it is taken off by `ip link set xdp off`."""
    from toolkit.abi import libbpf as abi

    with Program.build("xsk_redirect.c") as program, toolkit.Socket("veth0", netns=lab.netns) as sock:
        program.register(sock)
        sock.receive(timeout=0)
        with lab.netns.entered():
            assert abi.libbpf().bpf_xdp_attach(sock.device.ifindex, program.fd, abi.XDP_FLAGS_DRV_MODE, None) == 0
        wire.send([frame(1)])
        assert numbers(sock.receive(timeout=5)) == [1]
        assert not sock.receive(timeout=1.2)  # in which it was asked what runs
        done = lab.netns.run(["ip", "link", "set", "dev", "veth0", "xdp", "off"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with pytest.raises(DetachedError, match=r"netlink.*nothing is attached"):
            sock.receive(timeout=LONG)


def test_moved_and_back(lab: Lab, elsewhere: Namespace) -> None:
    from pyroute2 import IPRoute

    with toolkit.open("veth0", filter="all", netns=lab.netns) as opened:
        move_away(lab, elsewhere)
        with elsewhere.entered(), IPRoute() as netlink:
            (index,) = netlink.link_lookup(ifname="veth0")
            netlink.link("set", index=index, net_ns_fd=lab.netns.fileno())
        with pytest.raises(DeviceGoneError, match="moved into another network namespace, and back"):
            opened.receive(timeout=LONG)


def test_down_is_not_gone(lab: Lab, wire: Wire) -> None:
    """An interface that is down brings nothing, and takes up again by itself: no reason to end."""
    with toolkit.open("veth0", filter="all", netns=lab.netns) as opened:
        wire.send([frame(1)])
        assert numbers(opened.receive(timeout=5)) == [1]
        lab.set_down()
        assert not opened.receive(timeout=0.5)
        assert opened.loss() is None
        lab.set_up()
        wire.send([frame(2)])
        assert eventually(lambda: numbers(opened.receive(timeout=0.2)) == [2])


def test_in_a_loop_of_asyncio(lab: Lab, wire: Wire, other: Program) -> None:
    got: list[int] = []

    async def collect(opened: toolkit.Interface) -> None:
        async for batch in opened:
            got.extend(numbers(batch))
            replace(lab, other)

    with toolkit.open("veth0", filter="all", netns=lab.netns) as opened:
        wire.send([frame(9)])
        with pytest.raises(DetachedError, match="xdp_pass"):
            asyncio.run(asyncio.wait_for(collect(opened), LONG))
    assert got == [9]
