# SPDX-License-Identifier: Apache-2.0
"""Sending on a bad day: bad packets, full rings, links that go down, devices that vanish."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import toolkit
from tests.helpers.sending import (
    Tap,
    assert_in_order,
    hold_the_completion_ring,
    let_go,
    plain_socket,
    send_for_ever,
    stream,
)
from tests.helpers.wire import Wire, assert_all_free, frame, number_of
from toolkit.errors import ArgumentError, ClosedError, DeviceGoneError, FrameError
from toolkit.lab import Lab
from toolkit.net import ethtool

if TYPE_CHECKING:
    from tests.helpers.accounts import Accounts


# --- packets that are none ------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, Any, str]] = {
    "longer than a frame": ([frame(1), frame(2, 2049)], None, "2049 bytes"),
    "longer than a frame, array": (np.zeros((3, 2049), np.uint8), None, "2049 bytes"),
    "shorter than a header": ([frame(1), bytes(13)], None, r"13 bytes.*\(14\)"),
    "empty packet": ([frame(1), b""], None, "empty|0 bytes"),
    "length 0": (np.zeros((2, 64), np.uint8), [64, 0], "empty|0 bytes"),
    "length 13": (np.zeros((2, 64), np.uint8), [64, 13], "13 bytes"),
    "length beyond the row": (np.zeros((2, 64), np.uint8), [64, 65], "65"),
    "negative length": (np.zeros((2, 64), np.uint8), [64, -1], "-1"),
    "too few lengths": (np.zeros((2, 64), np.uint8), [64], "shape"),
    "lengths of floats": (np.zeros((2, 64), np.uint8), [64.0, 64.0], "float64"),
    "lengths of a list": ([frame(1)], [64], "leave lengths out"),
    "u16": (np.zeros((2, 64), np.uint16), None, "uint16"),
    "objects": (np.array([frame(1)], dtype=object), None, "object"),
    "one dimension": (np.zeros(64, np.uint8), None, "newaxis"),
    "three dimensions": (np.zeros((1, 2, 64), np.uint8), None, r"\(1, 2, 64\)"),
    "rows of nothing": (np.zeros((2, 0), np.uint8), None, "one byte at least"),
    "one packet": (frame(1), None, r"\[packet\]"),
    "text": ("a packet", None, "str"),
    "list of text": ([frame(1), "a packet"], None, "packet 1 of 2"),
    "list of numbers": ([1, 2], None, "packet 0 of 2"),
    "a number": (7, None, "int"),
    "none": (None, None, "NoneType"),
}


def test_what_is_no_packet_is_refused_whole(lab: Lab, sock: toolkit.Socket) -> None:
    """Nothing of the call is sent, no frame is taken, and the Socket sends on."""
    with Tap.far(lab) as tap:
        for number, (what, (packets, lengths, says)) in enumerate(BAD.items()):
            with pytest.raises(ArgumentError, match=says):
                raise AssertionError(f"{what}: {sock.send(packets, lengths)} were sent")
            assert_all_free(sock.umem)
            assert sock.send([frame(number)]) == 1
            assert sock.flush(5.0)  # in copy mode a frame comes back when the far end has read its packet
        assert [number_of(one) for one in tap.take(len(BAD))] == list(range(len(BAD)))
    assert sock.statistics().tx_invalid_descs == 0


def test_a_stale_batch_cannot_be_sent(lab: Lab) -> None:
    with toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns) as near, Wire(lab) as wire:
        wire.send([frame(1)])
        batch = near.receive(timeout=5.0)
        batch.release()
        with pytest.raises(ClosedError, match="stale"):
            near.send(batch)


# --- full rings -----------------------------------------------------------------------------------------------------


@pytest.mark.timing("a timeout is kept to half a second, as far as a CPU is free then")
@pytest.mark.parametrize("timeout", [0, 0.2])
def test_a_full_tx_ring_takes_what_fits(lab: Lab, sock: toolkit.Socket, timeout: float) -> None:
    """send() says how many it accepted, waits no longer than told, and these, no others, leave when there is room."""
    with Tap.far(lab) as tap:
        held = hold_the_completion_ring(sock)
        begin = time.monotonic()
        assert sock.send(stream(64, 200), timeout=timeout) == 64
        assert sock.send(stream(500, 3), timeout=timeout) == 0
        assert 2 * timeout <= time.monotonic() - begin < 2 * timeout + 0.5
        assert not sock.flush(0.05)
        assert len(tap.take(64)) == 64
        let_go(sock, held)
        assert sock.send(stream(128, 72)) == 72
        assert sock.flush(5.0)
        assert assert_in_order(tap.take(136)) == list(range(64, 200))
    assert_all_free(sock.umem)


def test_waiting_for_room_ends_when_there_is_room(lab: Lab, sock: toolkit.Socket) -> None:
    with Tap.far(lab) as tap:
        held = hold_the_completion_ring(sock)
        timer = threading.Timer(0.2, let_go, (sock, held))
        timer.start()
        assert sock.send(stream(64, 500), timeout=10.0) == 500
        timer.join()
        assert sock.flush(5.0)
        assert assert_in_order(tap.take(564)) == list(range(564))


def test_a_completion_ring_that_nobody_drained(lab: Lab) -> None:
    """Packets put into the TX ring by hand until the kernel stops, and nothing reclaimed: send() sees to it."""
    with Tap.far(lab) as tap, plain_socket(lab, frames=256) as sock:
        sent = 0
        for _ in range(3):
            addresses = sock.umem.alloc_frames(64)
            for address in addresses.tolist():
                sock.umem.get(toolkit.XDPDesc(address, 64, 0))[:] = frame(sent)
                sent += 1
            done = sock.tx.put(np.stack([addresses, np.full(64, 64, np.uint64)], axis=1))
            sock.tx.wake()
            sock.umem.free_frames(addresses[done:])
            sent -= 64 - done
        assert sent == 128
        assert not sock.tx.wake(), "the kernel goes on although the completion ring is full: this tests nothing"
        assert sock.send(stream(128, 1000), timeout=10.0) == 1000
        assert sock.flush(5.0)
        assert assert_in_order(tap.take(1128)) == list(range(1128))
        assert_all_free(sock.umem)


@pytest.mark.timing("the end is due in a second")
def test_no_free_frame(lab: Lab, sock: toolkit.Socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that others hold: a time-out, then an error, and never a hang."""
    mine = sock.umem.alloc_frames(sock.umem.frames - 3)
    assert sock.send(stream(0, 3)) == 3
    assert sock.send(stream(3, 10), timeout=5.0) == 10, "three frames are enough"
    sock.flush(5.0)
    rest = sock.umem.alloc_frames(3)
    begin = time.monotonic()
    assert sock.send(stream(0, 3), timeout=0.1) == 0
    assert time.monotonic() - begin < 1
    monkeypatch.setattr("toolkit.xsk.sender._STARVED", 0.3)
    with pytest.raises(FrameError, match="'user': 256"):
        sock.send(stream(0, 3))
    sock.umem.free_frames(mine)
    sock.umem.free_frames(rest)
    assert sock.send(stream(0, 3)) == 3


def test_receiving_and_sending_threads_share_few_frames(lab: Lab) -> None:
    """The receiver posts frames as soon as they are free; the sender must not mind."""
    stop = threading.Event()
    failures: list[BaseException] = []
    with (
        toolkit.UMEM(32, 2048, fill_size=64, comp_size=64) as umem,
        toolkit.open("veth0", filter="all", umem=umem, netns=lab.netns) as near,
        Wire(lab) as wire,
    ):
        near.sockets[0].rx_limit = 30

        def receive() -> None:
            try:
                while not stop.is_set():
                    near.receive(timeout=0.01).release()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=receive)
        thread.start()
        sent = 0
        end = time.monotonic() + 1.5
        while time.monotonic() < end or sent <= 100:
            wire.send([frame(i) for i in range(8)])
            sent += near.send(stream(sent, 20), timeout=0.05)
        stop.set()
        thread.join()
        assert not failures
        assert sent > 100
        assert near.flush(5.0)


# --- links and devices ----------------------------------------------------------------------------------------------


def test_a_link_that_goes_down_and_up_again(lab: Lab, sock: toolkit.Socket) -> None:
    """ENETDOWN, and what is in the ring stays there and leaves with the next packets."""
    with Tap.far(lab) as tap:
        assert sock.send(stream(0, 10)) == 10
        assert len(tap.take(10)) == 10
        lab.set_down()
        for first in (10, 13):
            with pytest.raises(DeviceGoneError) as raised:
                sock.send(stream(first, 3))
            assert raised.value.errno == errno.ENETDOWN
            assert "cannot send on queue 0 of veth0" in str(raised.value)
            assert "ip link set" in str(raised.value)
        with pytest.raises(DeviceGoneError):
            sock.flush(1.0)
        audit = sock.umem.audit()
        assert audit["tx"] == 6
        assert audit["tx"] + audit["free"] == audit["frames"]
        lab.set_up()
        assert sock.send(stream(16, 100)) == 100
        assert sock.flush(5.0)
        assert assert_in_order(tap.take(106)) == list(range(10, 116))
        assert_all_free(sock.umem)


@pytest.mark.timing("1000 packets in the half second that a link goes down and up")
def test_a_link_that_goes_down_and_up_under_a_stream(lab: Lab, sock: toolkit.Socket) -> None:
    """Nothing is sent twice, no frame is lost; of packets, at most those that were on the cable."""
    stop = threading.Event()

    def flap() -> None:
        for _ in range(4):
            time.sleep(0.1)
            lab.set_down()
            time.sleep(0.02)
            lab.set_up()
        stop.set()

    with Tap.far(lab) as tap:
        thread = threading.Thread(target=flap)
        thread.start()
        number = down = 0
        begin = sock.tx.next_index
        while not stop.is_set():
            try:
                sock.send(stream(number, 50), timeout=1.0)
            except DeviceGoneError:
                down += 1
                time.sleep(0.001)
            number = sock.tx.next_index - begin  # what the ring took, also in a call that raised
        thread.join()
        sock.send(stream(number, 50))
        assert sock.flush(5.0)
        got = assert_in_order(tap.take(number + 50, timeout=1.0))
        assert got[-50:] == list(range(number, number + 50))
        assert down > 0
        assert number > 1000
    assert_all_free(sock.umem)


def test_a_peer_that_goes_down(lab: Lab, sock: toolkit.Socket) -> None:
    """Without a carrier the kernel drops what it is given: no stall, no lost frame, and it goes on afterwards."""
    with lab.far.entered():
        ethtool.set_up("veth1", up=False)
    with contextlib.suppress(DeviceGoneError):
        sock.send(stream(0, 500), timeout=1.0)
        assert sock.flush(2.0)
    lab.far.call(lambda: ethtool.set_up("veth1"))
    lab.set_up()
    with Tap.far(lab) as tap:
        assert sock.send(stream(1000, 500), timeout=5.0) == 500
        assert sock.flush(5.0)
        assert [number_of(one) for one in tap.take(500) if number_of(one) >= 1000] == list(range(1000, 1500))
    assert_all_free(sock.umem)


@pytest.mark.parametrize("how", ["delete", "far namespace"])
def test_a_device_that_vanishes_under_a_stream(
    lab: Lab, sock: toolkit.Socket, how: str, conservation: Accounts
) -> None:
    conservation.may_retire = 64  # what is in the TX ring then
    timer = threading.Timer(0.2, lab.delete_interface if how == "delete" else lab.far.close)
    timer.start()
    with pytest.raises(DeviceGoneError) as raised:
        send_for_ever(sock, stream(0, 50))
    timer.join()
    assert raised.value.errno in (errno.ENETDOWN, errno.ENXIO)
    for call in (lambda: sock.send(stream(0, 100), timeout=0.1), lambda: sock.send(stream(0, 100))):
        with pytest.raises(DeviceGoneError):
            call()
    with contextlib.suppress(DeviceGoneError):
        sock.flush(0.5)
    audit = sock.umem.audit()
    assert audit["tx"] + audit["free"] == audit["frames"]
