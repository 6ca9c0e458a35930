# SPDX-License-Identifier: Apache-2.0
"""Sockets that share a UMEM are bound alike, whatever they ask for; and what they say of themselves is true."""

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
        connect(right, End(far, "veth1", "02:00:00:00:00:03", "10.12.0.2", "fd12::2"),
                queues=1, mtu=9000, neighbours=True, offloads=False)  # fmt: skip
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


@pytest.mark.parametrize("sg", [True, False])
@pytest.mark.parametrize("names", [("veth0", "right"), ("right", "veth0")])
def test_the_second_socket_is_bound_as_the_first_one(two: Two, names: tuple[str, str], sg: bool) -> None:
    with two.socket(names[0], sg=sg) as first, two.socket(names[1]) as second:
        two.meets(names[1], second, sg)
        two.meets(names[0], first, sg)


@pytest.mark.parametrize("asked", [{"sg": True}, {"sg": False}, {"need_wakeup": True}, {"need_wakeup": False}])
def test_to_ask_for_something_else_is_refused(two: Two, asked: dict[str, bool]) -> None:
    (name,) = asked
    opposite: dict[str, Any] = {name: not asked[name]}
    with two.socket("veth0", **asked) as first:
        assert getattr(first, name) is asked[name]
        with pytest.raises(ArgumentError, match=rf"right with {name}={opposite[name]}: .* have {name}={asked[name]}"):
            two.socket("right", **opposite)
        audit = two.umem.audit()
        assert audit["rx"] == 128, "nothing is left of it"
        with two.socket("right", **asked) as second:
            assert getattr(second, name) is asked[name]
            assert second.send([frame(3)]) == 1
            assert second.flush(5.0)
    with two.socket("right", **opposite) as alone:
        assert getattr(alone, name) is opposite[name], "the UMEM has no socket any more, and starts anew"


def test_zero_copy(two: Two) -> None:
    with two.socket("veth0") as first:
        assert first.zero_copy is False
        with pytest.raises(ArgumentError, match=r"zero_copy=True.*have zero_copy=False"):
            two.socket("right", zero_copy=True)
        for asked in (False, "auto"):
            with two.socket("right", zero_copy=asked) as second:
                assert second.zero_copy is False


@pytest.mark.parametrize("sg", [True, False])
def test_after_the_first_one_has_closed(two: Two, sg: bool) -> None:
    """The UMEM keeps what it was bound with for as long as any socket is open on it."""
    first = two.socket("veth0", sg=sg)
    with two.socket("right") as second:
        first.close()
        with pytest.raises(ArgumentError, match=f"sg={not sg}"):
            two.socket("veth0", sg=not sg)
        with two.socket("veth0") as third:
            two.meets("veth0", third, sg)
        two.meets("right", second, sg)
    with two.socket("right", sg=not sg) as alone:
        two.meets("right", alone, not sg)


def test_a_first_socket_that_is_refused_decides_nothing(two: Two) -> None:
    with pytest.raises(SystemCallError, match="zero-copy"):
        two.socket("veth0", sg=True, zero_copy=True)
    with two.socket("veth0") as first, two.socket("right") as second:
        two.meets("veth0", first, False)
        two.meets("right", second, False)


@pytest.mark.parametrize("sg", [True, False])
def test_a_forwarder_asks_what_came_about(two: Two, sg: bool) -> None:
    """It accepted a socket whose packets came in pieces."""
    with two.socket("veth0", sg=sg) as first, two.socket("right") as second:
        for source, target in ((first, second), (second, first)):
            if sg:
                with pytest.raises(ArgumentError, match="several frames"):
                    Forwarder(source, target)
                with pytest.raises(ArgumentError, match="several frames"):
                    source.reply(lambda packet: True)
            else:
                Forwarder(source, target)


def test_interfaces_follow_the_first_one(two: Two) -> None:
    with pytest.warns(UserWarning, match="longer than 3840 bytes"):
        first = two.open("veth0", frags=False)
    with first:
        with pytest.raises(ArgumentError, match="sg=True"):
            two.open("right", frags=True)
        with pytest.warns(UserWarning, match=r"longer than 3840 bytes.*opened without \(frags=False\)"):
            second = two.open("right")
        with second:
            assert (first.info()["frags"], second.info()["frags"], second.info()["need_wakeup"]) == (False, False, True)
            Forwarder(first, second)
            two.wires["right"].send([frame(1, LONG), frame(2, 60)])
            assert collect(second.receive, 1) == [frame(2, 60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with two.open("veth0") as first:
            with pytest.raises(ArgumentError, match="sg=False"):
                two.open("right", frags=False)
            with two.open("right", need_wakeup="auto") as second:
                assert (first.info()["frags"], second.info()["frags"]) == (True, True)
                two.wires["right"].send([frame(1, LONG), frame(2, 60)])
                assert collect(second.receive, 2) == [frame(1, LONG), frame(2, 60)]
                with pytest.raises(ArgumentError, match="several frames"):
                    Forwarder(second, first)


def test_an_interface_of_small_packets_beside_one_of_large(two: Two, make_lab: Callable[..., Lab]) -> None:
    """Its program need not be made for several frames, and its sockets are bound for them all the same."""
    small = make_lab()
    with (
        two.open("veth0", frags=True),
        Wire(small) as wire,
        toolkit.open("veth0", filter="ether[0] = 2", umem=two.umem, netns=small.netns) as second,
    ):
        assert second.sockets[0].sg
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
    with pytest.raises(ArgumentError, match=f'{name} is True, False or "auto"'):
        two.socket("veth0", **wrong)
