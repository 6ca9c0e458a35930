# SPDX-License-Identifier: Apache-2.0
"""From one interface to another on one UMEM, whichever was opened first; and answers on one interface."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from tests.helpers.cable import Cable
from tests.helpers.cli import ended, running
from tests.helpers.drivers import assert_whole, numbered, opened
from tests.helpers.echoing import IP4, Host
from tests.helpers.forwarding import adds_up
from tests.helpers.sending import Tap
from tests.helpers.wire import Wire
from toolkit.forward import Forwarder
from toolkit.umem.umem import UMEM

Seen = Callable[[str], None]


def forwarded(source: Any, target: Any, near: Cable, other: Cable, count: int = 96) -> int:
    """Frames from the host behind `near` to the one behind `other`, 32 at a time."""
    address = bytes.fromhex(near.mac.replace(":", ""))  # a NIC takes no other frames
    packets = [address + one[6:] for one in numbered(count)]
    forwarder = Forwarder(source, target)
    with Wire(near) as wire, Tap.far(other) as tap:
        for at in range(0, count, 32):
            some = packets[at : at + 32]
            wire.send(some)
            arrived: list[bytes] = []
            for _ in range(100):
                forwarder.step(0.1)
                arrived += tap.take(len(some) - len(arrived), timeout=0.05, quiet=0)
                if len(arrived) >= len(some):
                    break
            counted = [one.statistics() for one in (source, target)]
            assert_whole(arrived, some, forwarder, *counted, near.counters(), other.counters())
    adds_up(forwarder)
    return count


@pytest.mark.parametrize("order", ["source first", "target first"])
def test_between_two_nics(cable: Cable, second: Cable, mode: str, order: str, seen: Seen) -> None:
    both = [cable, second] if order == "source first" else [second, cable]
    with UMEM(2048, 4096, fill_size=512, comp_size=512) as umem, contextlib.ExitStack() as stack:
        ends = {one.number: stack.enter_context(opened(one, mode, umem=umem, ring_size=None)) for one in both}
        count = forwarded(ends[0], ends[1], cable, second)
        assert forwarded(ends[1], ends[0], second, cable) == count
    seen(f"{count} of {count} frames from host to host, each way")


@pytest.mark.parametrize("order", ["NIC first", "veth first"])
def test_between_a_nic_and_a_veth(cable: Cable, order: str, seen: Seen) -> None:
    """Each is bound as its driver can; the frames are the same memory to both."""
    if cable.kind == "veth":
        pytest.skip("two drivers are needed, and here both ends are veths")
    with Cable(2, beside=cable, kind="veth") as veth:
        both = [cable, veth] if order == "NIC first" else [veth, cable]
        with UMEM(2048, 4096, fill_size=512, comp_size=512) as umem, contextlib.ExitStack() as stack:
            chosen: dict[str, Any] = {"filter": "ether proto 0x88b5", "umem": umem, "netns": cable.netns}
            ends = {one.number: stack.enter_context(toolkit.open(one.interface, **chosen)) for one in both}
            count = forwarded(ends[0], ends[2], cable, veth)
            assert forwarded(ends[2], ends[0], veth, cable) == count
    seen(f"{count} of {count} frames from host to host, each way")


@pytest.mark.parametrize("mode", ["zero-copy"], indirect=True)
@pytest.mark.parametrize("order", ["source first", "target first"])
def test_between_zero_copy_and_copy_mode(cable: Cable, second: Cable, mode: str, order: str, seen: Seen) -> None:
    """What the second asks for was not honoured where it differed from what the first one had."""
    both = [(cable, mode), (second, "native")]
    with UMEM(2048, 4096, fill_size=512, comp_size=512) as umem, contextlib.ExitStack() as stack:
        ends = {
            one.number: stack.enter_context(opened(one, how, umem=umem, ring_size=None))
            for one, how in (both if order == "source first" else both[::-1])
        }
        count = forwarded(ends[0], ends[1], cable, second)
        assert forwarded(ends[1], ends[0], second, cable) == count
    seen(f"{count} of {count} frames from host to host, each way")


def test_the_command_one_way_out_of_a_nic_without_a_program(cable: Cable, second: Cable, seen: Seen) -> None:
    packets = numbered(32)
    expression = ["ether", "proto", "0x88b5"]
    # Compiled beforehand: in a guest that takes longer than `running` waits.
    toolkit.Program.build(filter=" ".join(expression), defines={"XSK_UNTIMED": 1}).close()
    with running(cable, "forward", cable.interface, second.interface, "--json", "--yes", *expression) as process:
        cable.set_up()
        with Wire(cable) as wire, Tap.far(second) as tap:
            wire.send(packets)
            assert tap.take(len(packets)) == packets
        (way,) = ended(process)["directions"]
    assert way["forwarded"] == way["redirected"] == len(packets)
    assert way["all_sent"]
    seen(f"{len(packets)} of {len(packets)} frames from host to host")


def test_a_host_in_python_answers(cable: Cable, mode: str, seen: Seen) -> None:
    from tests.helpers.drivers import options

    with Host(cable, **options(mode)), neighbour(cable):
        done = cable.far.run(["ping", "-c", "5", "-i", "0.2", "-W", "5", IP4], capture_output=True, text=True)
        assert "5 received" in done.stdout, done.stdout
    seen("the peer's ping: 5 of 5 answered")


@pytest.mark.parametrize("promisc", [True, False])
def test_a_bridge_passes_what_is_for_hosts_behind_it(
    cable: Cable, second: Cable, mode: str, promisc: bool, seen: Seen
) -> None:
    """Their addresses are not the NIC's, which brings such frames only if it is promiscuous."""
    packets = [bytes.fromhex(second.peer_mac.replace(":", "")) + one[6:] for one in numbered(64)]
    with UMEM(2048, 4096, fill_size=512, comp_size=512) as umem, contextlib.ExitStack() as stack:
        left, right = (
            stack.enter_context(opened(one, mode, umem=umem, ring_size=None, promisc=promisc))
            for one in (cable, second)
        )
        bridge = Forwarder(left, right)
        with Wire(cable) as wire, Tap.far(second) as tap:
            arrived: list[bytes] = []
            for at in range(0, len(packets), 32):
                wire.send(packets[at : at + 32])
                for _ in range(100 if promisc or cable.kind == "veth" else 5):
                    bridge.step(0.1)
                    arrived += tap.take(at + 32 - len(arrived), timeout=0.05, quiet=0)
                    if len(arrived) >= at + 32:
                        break
    if promisc or cable.kind == "veth":  # which filters nothing by address
        assert_whole(arrived, packets, bridge)
    seen(f"{len(arrived)} of {len(packets)} frames reached the host behind the bridge (promisc={promisc})")


@contextlib.contextmanager
def neighbour(cable: Cable) -> Any:
    """The far host knows who has IP4: it does not ask, as its interface has no ARP."""
    entry = f"{IP4} lladdr {cable.mac} nud permanent dev {cable.peer}"
    cable.far.run(["ip", "neigh", "replace", *entry.split()], check=True)
    yield
    cable.far.run(["ip", "neigh", "del", IP4, "dev", cable.peer], check=True)
