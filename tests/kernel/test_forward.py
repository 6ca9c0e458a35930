# SPDX-License-Identifier: Apache-2.0
"""Forwarding: descriptors move, bytes do not; what the edit function wants, and nothing else, happens to packets."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from send_support import Tap, assert_in_order, stream
from support import ETHERTYPE, FAR_MAC, NEAR_MAC, Wire, eventually, frame, number_of

import toolkit
from toolkit.editing import EditableBatch
from toolkit.errors import ArgumentError, ClosedError, DeviceGoneError, StaleBatchError, ToolkitError
from toolkit.forward import Edit, Forwarder
from toolkit.lab import Lab, Namespace
from toolkit.lab.veth import End, connect
from toolkit.umem import UMEM

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def near(lab: Lab) -> Iterator[toolkit.Interface]:
    """The near end, which receives everything."""
    with toolkit.open("veth0", filter="all", ring_size=64, frames=256, netns=lab.netns) as interface:
        yield interface


def settled(*interfaces: toolkit.Interface) -> dict[str, Any]:
    """Wait until everything has left; where the frames are then: lent for receiving, or free."""
    for interface in interfaces:
        assert interface.flush(5.0)
    audit = interfaces[0].umem.audit()
    assert audit["rx"] + audit["free"] == audit["frames"], audit
    return audit


def moved(forwarder: Forwarder, packets: int, timeout: float = 5.0) -> None:
    """Step until that many packets have come in all."""
    deadline = time.monotonic() + timeout
    while forwarder.received < packets and time.monotonic() < deadline:
        forwarder.step(0.1)
    assert forwarder.received == packets
    adds_up(forwarder)


def adds_up(forwarder: Forwarder) -> None:
    assert forwarder.received == forwarder.forwarded + forwarder.edited_out + forwarder.no_room, forwarder


def swap_macs(batch: EditableBatch) -> None:
    heads = batch.head(12)
    batch.put_head(heads[:, [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]])


# --- one interface --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [18, 60, 1514])
def test_unchanged_onto_itself(lab: Lab, near: toolkit.Interface, length: int) -> None:
    packets = [frame(i, length) for i in range(50)]
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near)
        wire.send(packets)
        moved(forwarder, 50)
        assert tap.take(50) == packets
    assert (forwarder.forwarded, forwarder.edited_out, forwarder.no_room) == (50, 0, 0)
    assert forwarder.octets == 50 * length
    assert repr(forwarder) == "<Forwarder received=50 forwarded=50 edited_out=0 no_room=0>"
    settled(near)


def test_the_frames_move_and_not_their_bytes(lab: Lab, near: toolkit.Interface) -> None:
    """The TX descriptors name the very addresses at which the packets arrived."""
    arrived: list[np.ndarray] = []
    forwarder = Forwarder(near, near, lambda batch: arrived.append(batch.addresses))
    (sock,) = near.sockets
    with Wire(lab) as wire:
        wire.send([frame(i, 60 + i) for i in range(10)])
        moved(forwarder, 10)
    (addresses,) = [np.concatenate(arrived)]
    last = sock.tx.next_index
    descs = [sock.tx.get(last - 10 + i) for i in range(10)]
    assert [desc.addr for desc in descs] == addresses.tolist()
    assert [desc.len for desc in descs] == [60 + i for i in range(10)]
    settled(near)


def test_many_rounds_of_the_rings(lab: Lab, near: toolkit.Interface) -> None:
    """5,000 packets of all lengths through rings of 64: all arrive, in order, to the byte."""
    packets = [frame(i, 18 + i * 37 % 1490) for i in range(5000)]
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, swap_macs)
        for first in range(0, 5000, 40):
            wire.send(packets[first : first + 40])
            moved(forwarder, first + 40)
        got = tap.take(5000)
        assert [FAR_MAC + NEAR_MAC + one[12:] for one in packets] == got
    settled(near)


# --- edits ----------------------------------------------------------------------------------------------------------


def test_a_mask_drops(lab: Lab, near: toolkit.Interface) -> None:
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, lambda batch: batch.head(18)[:, 17] % 3 == 0)
        wire.send([frame(i) for i in range(60)])
        moved(forwarder, 60)
        assert assert_in_order(tap.take(20)) == list(range(0, 60, 3))
    assert (forwarder.forwarded, forwarder.edited_out, forwarder.octets) == (20, 40, 20 * 64)
    settled(near)


@pytest.mark.parametrize("keep", [True, False])
def test_a_mask_of_all_or_nothing(lab: Lab, near: toolkit.Interface, keep: bool) -> None:
    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, lambda batch: np.full(len(batch), keep))
        wire.send([frame(i) for i in range(30)])
        moved(forwarder, 30)
        assert len(tap.take(30 * keep)) == 30 * keep
    assert (forwarder.forwarded, forwarder.edited_out) == (30 * keep, 30 * (not keep))
    settled(near)


def test_a_vlan_tag_is_pushed(lab: Lab, near: toolkit.Interface) -> None:
    """The packet grows to the front; nothing behind the addresses is copied."""

    def push(batch: EditableBatch) -> None:
        heads = batch.head(12)
        batch.grow_front(4)
        tagged = np.empty((len(batch), 16), dtype=np.uint8)
        tagged[:, :12] = heads
        tagged[:, 12:] = np.frombuffer(struct.pack("!HH", 0x8100, 42), np.uint8)
        batch.put_head(tagged)

    packets = [frame(i, 60 + i) for i in range(20)]
    with lab.capture(far=True) as seen, Wire(lab) as wire:
        forwarder = Forwarder(near, near, push)
        wire.send(packets)
        moved(forwarder, 20)
        assert seen.frames(20) == [one[:12] + b"\x81\x00\x00\x2a" + one[12:] for one in packets]
    settled(near)


def test_packets_are_shortened_and_extended(lab: Lab, near: toolkit.Interface) -> None:
    def cut(batch: EditableBatch) -> None:
        batch.set_lengths(np.where(batch.lengths > 100, 100, batch.lengths))

    def extend(batch: EditableBatch) -> None:
        lengths = batch.lengths
        batch.set_lengths(np.maximum(lengths, 60))
        for i in np.flatnonzero(lengths < 60).tolist():
            batch.writable(i)[int(lengths[i]) :] = bytes(60 - int(lengths[i]))

    def strip(batch: EditableBatch) -> None:
        batch.grow_front(-14)

    packets = [frame(i, length) for i, length in enumerate([20, 59, 60, 100, 101, 1514])]
    inner = HEADERLESS + frame(7, 64)
    for edit, given, expected in (
        (cut, packets, [one[:100] for one in packets]),
        (extend, packets, [one.ljust(60, b"\0") for one in packets]),
        (strip, [inner], [frame(7, 64)]),
    ):
        with Tap.far(lab) as tap, Wire(lab) as wire:
            forwarder = Forwarder(near, near, edit)
            wire.send(given)
            moved(forwarder, len(given))
            assert tap.take(len(expected)) == expected
        settled(near)


HEADERLESS = NEAR_MAC + FAR_MAC + struct.pack("!H", ETHERTYPE + 1)


class BrokenError(Exception):
    pass


def raises(batch: EditableBatch) -> None:
    swap_macs(batch)
    raise BrokenError


MISTAKES: dict[str, Callable[[EditableBatch], Any]] = {
    "raises": raises,
    "numbers": lambda batch: np.ones(len(batch), np.uint8),
    "one for all": lambda batch: True,
    "too short": lambda batch: np.ones(len(batch) - 1, bool),
    "too long": lambda batch: np.ones(len(batch) + 1, bool),
    "a matrix": lambda batch: np.ones((len(batch), 1), bool),
    "rows": lambda batch: np.arange(len(batch)),
    "the batch": lambda batch: batch.head(1),
    "empty": lambda batch: [],
    "a head for too many": lambda batch: batch.put_head(np.zeros((len(batch) + 1, 4), np.uint8)),
    "a head of words": lambda batch: batch.put_head(np.zeros((len(batch), 4), np.uint16)),
    "a head longer than packets": lambda batch: batch.put_head(np.zeros((len(batch), 100), np.uint8)),
    "too short packets": lambda batch: batch.set_lengths([13] * len(batch)),
    "out of the frame": lambda batch: batch.set_lengths([4000] * len(batch)),
    "too far to the front": lambda batch: batch.grow_front(65),
}


def test_an_edit_function_that_makes_a_mistake(lab: Lab, near: toolkit.Interface) -> None:
    """The error is seen, the packets are dropped and counted, their frames come back, and forwarding goes on."""
    mistake: Callable[[EditableBatch], Any] | None = None
    kept: list[EditableBatch] = []

    def edit(batch: EditableBatch) -> Any:
        kept.append(batch)
        return None if mistake is None else mistake(batch)

    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, edit)
        for what, mistake in MISTAKES.items():  # noqa: B007
            wrong, before = forwarder.edited_out, forwarder.received
            wire.send([frame(i) for i in range(40)])  # more packets in all than there are frames
            while forwarder.received < before + 40:
                with pytest.raises(BrokenError if what == "raises" else ArgumentError):
                    raise AssertionError(f"{what}: {forwarder.step(1.0)} packets, and no error")
            adds_up(forwarder)
            assert forwarder.edited_out == wrong + 40, what
            settled(near)
        mistake = None
        wire.send([frame(i) for i in range(40)])
        moved(forwarder, 40 * len(MISTAKES) + 40)
        assert tap.take(40) == [frame(i) for i in range(40)]
    for batch in kept:
        assert batch.stale
        with pytest.raises(StaleBatchError):
            batch.put_head(np.zeros((len(batch), 1), np.uint8))
    settled(near)


def test_an_edit_function_that_uses_the_interface(lab: Lab, near: toolkit.Interface) -> None:
    """It may send packets of its own; it may not receive."""

    def edit(batch: EditableBatch) -> Any:
        near.send([frame(1000 + len(batch))])
        with pytest.raises(ToolkitError, match="two threads receive"):
            near.receive(timeout=0)
        return None

    with Tap.far(lab) as tap, Wire(lab) as wire:
        forwarder = Forwarder(near, near, edit)
        wire.send([frame(1)])
        moved(forwarder, 1)
        assert [number_of(one) for one in tap.take(2)] == [1001, 1]
    settled(near)


# --- the ends -------------------------------------------------------------------------------------------------------


def test_ends_that_do_not_fit(lab: Lab, make_lab: Callable[..., Lab], near: toolkit.Interface) -> None:
    other = make_lab()
    with toolkit.open("veth0", filter="all", ring_size=64, netns=other.netns) as elsewhere:
        with pytest.raises(ArgumentError, match=r"two UMEMs.*umem=umem"):
            Forwarder(near, elsewhere)
        forwarder = Forwarder(near, near)
        with pytest.raises(ArgumentError, match="not among the sources"):
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


class Middle:
    """A namespace in the middle with two interfaces, `left` and `right`, opened on one UMEM; hosts on both sides.

    far left, 10.11.0.2 — left, right — 10.11.0.3, far right. They ask by ARP and neighbour discovery, as hosts do.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.lab = stack.enter_context(Lab(interface="left", neighbours=False))
        self.far = stack.enter_context(Namespace())
        right = End(self.lab.netns, "right", "02:00:00:00:00:0a", "10.12.0.1", "fd12::1")
        self.end = End(self.far, "veth1", "02:00:00:00:00:03", "10.11.0.3", "fd11::3")
        connect(right, self.end, queues=1, mtu=1500, neighbours=False, offloads=False)
        self.umem = stack.enter_context(UMEM(65536, 2048, fill_size=16384, comp_size=16384))
        self.left = stack.enter_context(self.open("left"))
        self.right = stack.enter_context(self.open("right"))

    def open(self, name: str) -> toolkit.Interface:
        return toolkit.open(name, filter="all", umem=self.umem, netns=self.lab.netns)

    @contextlib.contextmanager
    def running(self, edit: Edit | None = None) -> Iterator[tuple[Forwarder, Forwarder]]:
        """Forward both ways, in a thread."""
        both = Forwarder(self.left, self.right, edit), Forwarder(self.right, self.left, edit)
        stop = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                while not stop.is_set():
                    if not both[0].step() + both[1].step():
                        both[0].step(0.0002)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield both
        finally:
            stop.set()
            thread.join()
        assert not failures
        adds_up(both[0])
        adds_up(both[1])


@pytest.fixture
def middle() -> Iterator[Middle]:
    with contextlib.ExitStack() as stack:
        yield Middle(stack)


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
        done = middle.lab.far.run(["ping", "-n", "-q", "-W", "2", *options, address], capture_output=True, text=True)
        assert " 0% packet loss" in done.stdout, done.stdout + done.stderr
        count = int(options[options.index("-c") + 1])
        assert out.forwarded >= count
        assert back.forwarded >= count
        assert out.no_room == back.no_room == 0
    settled(middle.left, middle.right)


def test_a_hundred_thousand_packets_through_the_middle_at_100_kpps(middle: Middle) -> None:
    """Redirected in the driver, forwarded, and counted by the kernel at the far end: none lost, doubled or damaged."""
    count = 100_000
    with Tap(middle.far, "veth1", 0x0800) as tap, middle.running(swap_macs) as (out, _):
        with middle.lab.generator(rate=100_000, count=count, size=64) as generator:
            generator.wait(20.0)
            assert generator.sent == count
        assert eventually(lambda: out.received >= count, timeout=10.0), (out, middle.left.statistics())
        got = tap.take(count)
    assert len(got) == count
    assert out.edited_out == out.no_room == 0
    rows = np.frombuffer(b"".join(got), np.uint8).reshape(count, -1)
    numbers = rows[:, 42:50].copy().view(">u8").reshape(-1)
    assert (numbers == np.arange(count)).all()
    assert (rows[:, 50:58].copy().view(">u8").reshape(-1) == ~numbers).all()
    assert (rows[:, :12] == np.frombuffer(FAR_MAC + NEAR_MAC, np.uint8)).all()
    assert middle.left.statistics().dropped == 0
    settled(middle.left, middle.right)


# --- bad days -------------------------------------------------------------------------------------------------------


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
        assert (forwarder.forwarded, forwarder.no_room) == (64, 56)
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
    from toolkit.lab import ethtool

    forwarder = Forwarder(middle.left, middle.right)
    with Wire(middle.lab) as wire, Tap(middle.far, "veth1") as tap:
        with middle.lab.netns.entered():
            ethtool.set_up("right", up=False)
        wire.send([frame(i) for i in range(30)])
        while forwarder.received < 30:
            with pytest.raises(DeviceGoneError, match="cannot send on queue 0 of right"):
                forwarder.step(5.0)
        adds_up(forwarder)
        assert forwarder.forwarded == forwarder.received, "they are in the ring, and leave when the link is up"
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
    """It is told; or the Forwarder is. Frames stay whole."""
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


def test_step_waits_as_long_as_told_and_run_stops(lab: Lab, near: toolkit.Interface) -> None:
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
        forwarder.run(stop=lambda: forwarder.received)
        assert forwarder.received <= 10
        assert forwarder.step(limit=3) <= 3
    while forwarder.step(0.05, limit=3):
        pass
    moved(forwarder, 10)
    settled(near)
