# SPDX-License-Identifier: Apache-2.0
"""Forwarding from one interface to another: which ends fit, and a bridge between two kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import toolkit
from tests.helpers.forwarding import Middle, moved, settled, swap_macs
from tests.helpers.sending import Tap
from tests.helpers.wire import FAR_MAC, NEAR_MAC, Wire, eventually, frame, number_of
from toolkit.errors import ArgumentError, ToolkitError
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab
from toolkit.umem.umem import UMEM

pytestmark = pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU")


def test_ends_that_do_not_fit(lab: Lab, make_lab: Callable[..., Lab], near: toolkit.Interface) -> None:
    other = make_lab()
    with toolkit.open("veth0", filter="all", ring_size=64, netns=other.netns) as elsewhere:
        with pytest.raises(ArgumentError, match=r"two UMEMs.*umem=umem"):
            Forwarder(near, elsewhere)
        forwarder = Forwarder(near, near)
        with pytest.raises(ArgumentError, match="source cannot be"):
            forwarder.step_queue(elsewhere.sockets[0])
    with (
        UMEM(64, 2048) as umem,
        toolkit.Socket("veth0", umem=umem, tx=False, netns=other.netns) as deaf,
        toolkit.Socket("veth1", umem=umem, rx=False, netns=other.far) as dumb,
    ):
        with pytest.raises(ToolkitError, match="no TX ring"):
            Forwarder(deaf, deaf)
        with pytest.raises(ToolkitError, match="no RX ring"):
            Forwarder(dumb, dumb)
        assert Forwarder(deaf, dumb).step() == 0


def test_queues_of_the_source_are_spread_over_those_of_the_target(make_lab: Callable[..., Lab]) -> None:
    source, target = make_lab(queues=4), make_lab(queues=2)
    with (
        UMEM(512, 2048, fill_size=64, comp_size=64) as umem,
        toolkit.open("veth0", filter="all", umem=umem, netns=source.netns) as one,
        toolkit.open("veth0", filter="all", umem=umem, netns=target.netns) as two,
        Wire(source) as wire,
        Tap.far(target) as tap,
    ):
        forwarder = Forwarder(one, two)
        assert [(a.queue, b.queue) for a, b in forwarder._pairs] == [(0, 0), (1, 1), (2, 0), (3, 1)]
        for first in range(0, 100, 20):  # a veth chooses the queue by the CPU that sends
            wire.send([frame(first + i) for i in range(20)])
            moved(forwarder, first + 20)
        assert sorted(number_of(one) for one in tap.take(100)) == list(range(100))
        settled(one, two)


@pytest.mark.needs("ping")
@pytest.mark.parametrize(
    "options", [["-i", "0.01", "-c", "50"], ["-f", "-c", "1000"], ["-s", "1472", "-c", "5", "-i", "0.01"]]
)
@pytest.mark.parametrize("address", ["10.11.0.3", "fd11::3"])
def test_an_unmodified_ping_goes_through(middle: Middle, address: str, options: list[str]) -> None:
    """Two kernels that do not know of each other resolve each other's addresses and talk through the Forwarders."""
    if ":" in address and "1472" in options:
        options = ["1452" if word == "1472" else word for word in options]
    with middle.running() as (out, back):
        done = middle.lab.far.run(["ping", "-n", "-q", "-W", "20", *options, address], capture_output=True, text=True)
        assert " 0% packet loss" in done.stdout, done.stdout + done.stderr
        count = int(options[options.index("-c") + 1])
        assert out.statistics().forwarded >= count
        assert back.statistics().forwarded >= count
        assert out.statistics().no_room == back.statistics().no_room == 0
    settled(middle.left, middle.right)


def test_a_hundred_thousand_packets_through_the_middle_at_100_kpps(middle: Middle) -> None:
    """Redirected in the driver, forwarded, and counted by the kernel at the far end: none lost, doubled or damaged."""
    count = 100_000
    with Tap(middle.far, "veth1", 0x0800) as tap, middle.running(swap_macs) as (out, _):
        with middle.lab.generator(rate=100_000, count=count, size=64) as generator:
            generator.wait(20.0)
            assert generator.sent == count
        assert eventually(lambda: out.statistics().received >= count, timeout=10.0), (out, middle.left.statistics())
        got = tap.take(count)
    assert len(got) == count
    assert out.statistics().edited_out == out.statistics().no_room == 0
    rows = np.frombuffer(b"".join(got), np.uint8).reshape(count, -1)
    numbers = rows[:, 42:50].copy().view(">u8").reshape(-1)
    assert (numbers == np.arange(count)).all()
    assert (rows[:, 50:58].copy().view(">u8").reshape(-1) == ~numbers).all()
    assert (rows[:, :12] == np.frombuffer(FAR_MAC + NEAR_MAC, np.uint8)).all()
    assert middle.left.statistics().dropped == 0
    settled(middle.left, middle.right)
