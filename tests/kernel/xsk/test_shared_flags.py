# SPDX-License-Identifier: Apache-2.0
"""Each of the Sockets that share a UMEM is bound as it asks; what they say of themselves is true; frames move."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import Wire, collect, frame
from toolkit.errors import ArgumentError, SystemCallError
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab, Namespace
from toolkit.lab.veth import End, connect
from toolkit.umem.umem import UMEM

LONG = 8014  # bytes: three frames


class Two:
    """Two interfaces, veth0 and right, of one namespace; a host with a Wire at the far end of each."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.lab = lab = stack.enter_context(Lab(mtu=9000))
        far = stack.enter_context(Namespace())
        right = End(lab.netns, "right", "02:00:00:00:00:0a", "10.12.0.1", "fd12::1")
        connect(
            right,
            End(far, "veth1", "02:00:00:00:00:03", "10.12.0.2", "fd12::2"),
            queues=1,
            mtu=9000,
            neighbours=True,
            offloads=False,
        )
        self.wires = {"veth0": stack.enter_context(Wire(lab)), "right": stack.enter_context(Wire(other(lab, far)))}
        self.umem = stack.enter_context(UMEM(1024, 4096, fill_size=256, comp_size=256))

    def socket(self, name: str, **how: Any) -> toolkit.Socket:
        return toolkit.Socket(name, umem=self.umem, prefill=128, netns=self.lab.netns, **how)

    def open(self, name: str, **how: Any) -> toolkit.Interface:
        return toolkit.open(name, filter="ether[0] = 2", umem=self.umem, netns=self.lab.netns, **how)

    def meets(self, name: str, sock: toolkit.Socket, expected: bool) -> None:
        """A packet of three frames comes whole, if the socket is bound for it, else not at all; the next one comes."""
        assert sock.sg is expected
        with (
            toolkit.Program.build("xsk_redirect.c", filter="ether[0] = 2", frags=True) as program,
            program.attach(name, netns=self.lab.netns),
        ):
            program.register(sock)
            self.wires[name].send([frame(1, LONG), frame(2, 60)])
            packets = [frame(1, LONG), frame(2, 60)] if expected else [frame(2, 60)]
            assert collect(sock.receive, len(packets)) == packets
        assert sock.statistics().rx_dropped == (not expected)


def other(lab: Lab, far: Namespace) -> Any:
    """As much of a Lab as a Wire needs, for the far end of the second cable."""

    class Cable:
        interface, peer, netns = "right", "veth1", lab.netns

    cable: Any = Cable()
    cable.far = far
    return cable


@pytest.fixture
def two() -> Iterator[Two]:
    with contextlib.ExitStack() as stack:
        yield Two(stack)


@pytest.mark.parametrize("names", [("veth0", "right"), ("right", "veth0")])
@pytest.mark.parametrize(("one", "other"), [(True, False), (False, True), (True, True)])
def test_each_is_bound_as_it_asks(two: Two, names: tuple[str, str], one: bool, other: bool) -> None:
    with two.socket(names[0], sg=one) as first, two.socket(names[1], sg=other) as second:
        assert len(two.umem.registrations) == (1 if one == other else 2)
        two.meets(names[1], second, other)
        two.meets(names[0], first, one)


@pytest.mark.parametrize("name", ["sg", "need_wakeup"])
@pytest.mark.parametrize("asked", [True, False])
def test_auto_is_the_same_on_every_umem(two: Two, name: str, asked: bool) -> None:
    wish: dict[str, Any] = {name: asked}
    with two.socket("veth0", **wish) as first, two.socket("right") as second:
        assert getattr(first, name) is asked
        assert (second.sg, second.need_wakeup, second.zero_copy) == (False, True, False)
        for sock in (first, second):
            assert sock.send([frame(3)]) == 1
            assert sock.flush(5.0)
    assert two.umem.audit()["free"] == two.umem.frames


def test_zero_copy_is_refused_where_the_driver_has_none_whoever_was_first(two: Two) -> None:
    with two.socket("veth0") as first:
        assert first.zero_copy is False
        with pytest.raises(SystemCallError, match=r"zero-copy.*`zero_copy=False`"):
            two.socket("right", zero_copy=True)
        assert two.umem.audit()["rx"] == 128, "nothing is left of it"
        assert len(two.umem.registrations) == 1
        for asked in (False, "auto"):
            with two.socket("right", zero_copy=asked) as second:
                assert second.zero_copy is False
                assert len(two.umem.registrations) == 1, "it is bound like the first: the pages are pinned once"


@pytest.mark.parametrize("sg", [True, False])
def test_after_the_first_one_has_closed(two: Two, sg: bool) -> None:
    first = two.socket("veth0", sg=sg)
    with two.socket("right", sg=not sg) as second:
        first.close()
        assert len(two.umem.registrations) == 1
        with two.socket("veth0", sg=sg) as third:
            two.meets("veth0", third, sg)
        two.meets("right", second, not sg)
    assert not two.umem.registrations


def test_frames_move_between_sockets_that_are_bound_differently(two: Two) -> None:
    """As between a NIC in zero-copy mode and a veth: one memory, registered twice, and every frame has one owner."""
    with (
        two.socket("veth0", need_wakeup=False) as first,
        two.socket("right", sg=True) as second,
        toolkit.Program.build("xsk_redirect.c", filter="ether[0] = 2") as program,
        program.attach("veth0", netns=two.lab.netns),
    ):
        assert len(two.umem.registrations) == 2
        program.register(first)
        forwarder = Forwarder(first, second)
        for begin in range(0, 4096, 64):
            packets = [frame(number) for number in range(begin, begin + 64)]
            two.wires["veth0"].send(packets)
            moved = 0
            while moved < 64:
                moved += forwarder.step(5.0)
            assert second.flush(5.0)
            assert two.wires["right"].receive(64) == packets
            audit = two.umem.audit()
            assert sum(audit[owner] for owner in ("free", "user", "rx", "received", "tx")) == audit["frames"]
        assert forwarder.statistics().forwarded == 4096


def test_a_first_socket_that_is_refused_decides_nothing(two: Two) -> None:
    with pytest.raises(SystemCallError, match="zero-copy"):
        two.socket("veth0", sg=True, zero_copy=True)
    with two.socket("veth0") as first, two.socket("right") as second:
        two.meets("veth0", first, False)
        two.meets("right", second, False)


@pytest.mark.parametrize("sg", [True, False])
def test_a_forwarder_asks_what_came_about(two: Two, sg: bool) -> None:
    """It accepted a socket whose packets came in pieces."""
    with two.socket("veth0", sg=sg) as first, two.socket("right", sg=sg) as second:
        for source, target in ((first, second), (second, first)):
            if sg:
                with pytest.raises(ArgumentError, match="several frames"):
                    Forwarder(source, target)
                with pytest.raises(ArgumentError, match="several frames"):
                    source.reply(lambda packet: True)
            else:
                Forwarder(source, target)


def test_interfaces_are_opened_as_they_ask(two: Two) -> None:
    with pytest.warns(UserWarning, match="longer than 3840 bytes"):
        first = two.open("veth0", frags=False)
    with first, warnings.catch_warnings():
        warnings.simplefilter("error")
        with two.open("right", need_wakeup=False) as second:
            assert [one.info()["frags"] for one in (first, second)] == [False, True]
            assert [one.info()["need_wakeup"] for one in (first, second)] == [True, False]
            two.wires["right"].send([frame(1, LONG), frame(2, 60)])
            assert collect(second.receive, 2) == [frame(1, LONG), frame(2, 60)]
            two.wires["veth0"].send([frame(1, LONG), frame(2, 60)])
            assert collect(first.receive, 1) == [frame(2, 60)]
            Forwarder(first, second)
            with pytest.raises(ArgumentError, match="several frames"):
                Forwarder(second, first)


def test_an_interface_of_small_packets_beside_one_of_large(two: Two, make_lab: Callable[..., Lab]) -> None:
    small = make_lab()
    with (
        two.open("veth0", frags=True),
        Wire(small) as wire,
        toolkit.open("veth0", filter="ether[0] = 2", umem=two.umem, netns=small.netns) as second,
    ):
        assert not second.sockets[0].sg
        wire.send([frame(1, 1514), frame(2, 60)])
        assert collect(second.receive, 2) == [frame(1, 1514), frame(2, 60)]


def test_one_queue_twice(two: Two) -> None:
    """libxdp would give it the first one's rings, and neither would see all packets."""
    with two.socket("veth0", sg=True) as first:
        with pytest.raises(SystemCallError, match="cannot bind to queue 0 of veth0"):
            two.socket("veth0")
        two.meets("veth0", first, True)


@pytest.mark.parametrize("name", ["sg", "need_wakeup", "zero_copy"])
@pytest.mark.parametrize("value", [None, "yes", 2])
def test_what_is_neither_yes_nor_no(two: Two, name: str, value: Any) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ArgumentError, match=f'{name} cannot be .*True, False or "auto"'):
        two.socket("veth0", **wrong)
