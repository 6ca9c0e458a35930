# SPDX-License-Identifier: Apache-2.0
"""Interface: every queue in one receive(), filters beside the kernel, times, loans and the long run."""

from __future__ import annotations

import contextlib
import gc
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.wire import Wire, collect, drain, eventually, frame, numbers, udp_frame
from toolkit.errors import ArgumentError, StaleBatchError
from toolkit.lab import Lab
from toolkit.program import Program

MODES = ["native", "generic"]


@contextlib.contextmanager
def opened(lab: Lab, door: Callable[..., Program], filter: str = "all", **options: Any) -> Iterator[toolkit.Interface]:
    """toolkit.open() with a program that came through `door`."""
    with door(filter) as program, toolkit.open(lab.interface, program=program, netns=lab.netns, **options) as interface:
        yield interface


@pytest.mark.parametrize("mode", MODES)
def test_receives_across_queues_in_order_within_each_flow(
    make_lab: Callable[..., Lab], door: Callable[..., Program], mode: str
) -> None:
    lab = make_lab(queues=4)
    sent = [udp_frame(b"%06d" % i, source_port=4000 + i % 40) for i in range(2000)]
    with opened(lab, door, mode=mode) as interface, Wire(lab) as wire:
        assert interface.mode == mode
        assert [sock.queue for sock in interface.sockets] == [0, 1, 2, 3]
        wire.send(sent)
        got: list[bytes] = []
        queues: dict[bytes, set[int]] = {}
        while len(got) < len(sent):
            batch = interface.receive(timeout=5.0)
            assert batch, f"{len(got)} of {len(sent)}"
            for packet in map(bytes, batch):
                got.append(packet)
                queues.setdefault(packet[34:36], set()).add(batch.queue)
        assert sorted(got) == sorted(sent)
        for port, seen in queues.items():
            assert len(seen) == 1, "a flow stays on its queue"
            assert [p for p in got if p[34:36] == port] == [p for p in sent if p[34:36] == port]
        assert len(set.union(*queues.values())) > 1
        assert interface.counters()["redirected"] == len(sent)
        assert interface.statistics().dropped == 0


def test_the_documented_loop(lab: Lab, wire: Wire) -> None:
    """The first example of the documentation: it ends by itself, one time-out after the traffic."""
    total = 0
    with toolkit.open("veth0", filter="udp port 53", netns=lab.netns) as eth0:
        wire.send([udp_frame(b"query", port=53)] * 10 + [udp_frame(b"other", port=54)] * 5)
        while batch := eth0.receive(timeout=0.3):
            total += len(batch)
            assert batch.lengths.sum() == len(batch) * len(udp_frame(b"query"))
            assert not np.isnat(batch.timestamps[0])
        assert eth0.counters()["passed"] == 5
    assert total == 10


@pytest.mark.timing("a timeout is kept to a second, as far as a CPU is free then")
def test_limit_and_timeout(lab: Lab, wire: Wire, door: Callable[..., Program]) -> None:
    with opened(lab, door) as interface:
        for timeout in (0, 0.05, 0.3):
            begin = time.monotonic()
            batch = interface.receive(timeout=timeout)
            took = time.monotonic() - begin
            assert not batch
            assert len(batch) == 0
            assert timeout <= took < timeout + 1.0
        wire.send([frame(i) for i in range(30)])
        got: list[int] = []
        while len(got) < 30:
            batch = interface.receive(timeout=5.0, limit=4)
            assert 1 <= len(batch) <= 4
            got += numbers(batch)
        assert got == list(range(30))


def test_receive_without_a_timeout_waits_for_the_packet(lab: Lab, wire: Wire) -> None:
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        later = threading.Timer(0.5, wire.send, [[frame(3)]])
        later.start()
        assert numbers(interface.receive()) == [3]
        later.join()


@pytest.mark.parametrize("end", ["release", "with", "receive", "empty receive", "close"])
def test_a_batch_that_has_become_stale_says_so(lab: Lab, wire: Wire, end: str) -> None:
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        wire.send([frame(1), frame(2)])
        batch = interface.receive(timeout=5.0)
        lengths, addresses, head = batch.lengths, batch.addresses, batch.head(20)
        kept, view = batch.copy(), batch.packet(0)
        assert view.readonly
        assert batch.packet(-1) == batch.packet(len(batch) - 1)
        with pytest.raises(IndexError):
            batch.packet(len(batch))
        if end == "release":
            batch.release()
            batch.release()
        elif end == "with":
            with batch:
                assert not batch.stale
        elif end == "receive":
            wire.send([frame(9)])
            assert interface.receive(timeout=5.0)
        elif end == "empty receive":
            drain(interface.receive, quiet=0.05)
        else:
            interface.close()
        assert batch.stale
        assert len(batch) == len(lengths), "its size is known for good"
        uses: list[Callable[[], Any]] = [
            lambda: batch.packet(0),
            lambda: batch.lengths,
            lambda: batch.addresses,
            lambda: batch.head(14),
            lambda: batch.copy(),
            lambda: list(batch),
        ]
        for use in uses:
            with pytest.raises(StaleBatchError, match=r"copy\(\)"):
                use()
        assert "stale" in repr(batch)
        # What was handed out before are copies.
        assert list(lengths) == [64] * len(lengths)
        assert len(addresses) == len(head) == len(lengths)
        assert bytes(kept[0]) == frame(1)


def test_a_batch_copies_and_pickles(lab: Lab, wire: Wire) -> None:
    sent = [frame(i, length) for i, length in enumerate((14, 60, 1514, 99))]
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        wire.send(sent)
        assert eventually(lambda: interface.counters()["redirected"] == 4)
        time.sleep(0.05)
        batch = interface.receive(timeout=5.0)
        assert [bytes(p) for p in batch] == sent
        arrival = batch.arrival_ns
        kept, thawed = batch.copy(), pickle.loads(pickle.dumps(batch))
    for one in (kept, thawed, pickle.loads(pickle.dumps(kept))):
        assert [bytes(p) for p in one] == sent
        assert list(one.lengths) == [14, 60, 1514, 99]
        assert (one.arrival_ns == arrival).all()
        one.release()
        assert not one.stale


@pytest.mark.needs("ping")
def test_what_the_filter_leaves_is_the_kernels(lab: Lab, door: Callable[..., Program]) -> None:
    """One UDP port is captured; ping and another port are answered by the kernel meanwhile, in both directions."""
    with opened(lab, door, "udp dst port 5353") as interface:
        with lab.netns.entered():
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind((lab.ip, 7))
            captured = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            captured.bind((lab.ip, 5353))
        with lab.far.entered():
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server, captured, client:
            for i in range(20):
                client.sendto(b"taken %d" % i, (lab.ip, 5353))
            client.sendto(b"left", (lab.ip, 7))
            server.settimeout(5.0)
            data, address = server.recvfrom(100)
            assert data == b"left"
            server.sendto(b"answer", address)
            client.settimeout(5.0)
            assert client.recv(100) == b"answer"
            pinged = lab.far.run(["ping", "-c", "3", "-i", "0.01", "-W", "20", lab.ip], capture_output=True, timeout=20)
            assert pinged.returncode == 0, pinged.stdout
            assert [packet[42:] for packet in collect(interface.receive, 20)] == [b"taken %d" % i for i in range(20)]
            captured.setblocking(False)
            with pytest.raises(BlockingIOError):
                captured.recv(100)
        counters = interface.counters()
        assert counters["redirected"] == 20
        assert counters["passed"] >= 4


@pytest.mark.parametrize("mode", MODES)
def test_arrival_times_lie_between_sending_and_receiving(
    lab: Lab, wire: Wire, door: Callable[..., Program], mode: str
) -> None:
    with opened(lab, door, mode=mode) as interface:
        last = 0
        for i in range(50):
            before, utc_before = time.monotonic_ns(), time.time_ns()
            wire.send([frame(i)])
            batch = interface.receive(timeout=5.0)
            after, utc_after = time.monotonic_ns(), time.time_ns()
            (arrival,) = batch.arrival_ns.tolist()
            assert before <= arrival <= after
            assert arrival > last
            last = arrival
            (utc,) = batch.timestamps.astype(np.int64).tolist()
            assert utc_before - 10_000 <= utc <= utc_after + 10_000
        assert interface.counters()["untimed"] == 0


def test_a_hundred_thousand_datagrams_in_order_without_loss(lab: Lab) -> None:
    """A stream of the kernel's own UDP, held to what the receiver has acknowledged so that no loss is the sender's."""
    count, window = 100_000, 2048
    with toolkit.open("veth0", filter="udp port 9000", netns=lab.netns) as interface:
        got = 0  # written by this thread, read by the sender's
        with lab.far.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.connect((lab.ip, 9000))
        stop = threading.Event()

        def send() -> None:
            for i in range(count):
                while i - got >= window and not stop.is_set():
                    time.sleep(0.0002)
                if stop.is_set():
                    return
                sender.send(i.to_bytes(8, "big"))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            while got < count:
                batch = interface.receive(timeout=5.0)
                assert batch, f"{got} of {count}: {interface.statistics()}"
                sequence = batch.head(50)[:, 42:50].copy().view(">u8").reshape(-1)
                assert (sequence == np.arange(got, got + len(batch), dtype=np.uint64)).all()
                got += len(batch)
        finally:
            stop.set()
            thread.join()
            sender.close()
        assert interface.statistics().dropped == 0
        assert interface.counters()["redirected"] == count


def test_an_interface_that_is_forgotten_takes_everything_with_it(lab: Lab, wire: Wire) -> None:
    """Garbage collection without close(): program off, queue free, also with a Batch out."""
    for _ in range(5):
        interface = toolkit.open("veth0", filter="all", netns=lab.netns)
        wire.send([frame(1)])
        batch = interface.receive(timeout=5.0)
        assert batch
        del interface, batch
        gc.collect()
        with lab.netns.entered():
            index = socket.if_nametoindex("veth0")
        assert toolkit.program.attached(index, lab.netns) is None


@pytest.mark.parametrize("end", ["closed", "forgotten"])
def test_a_program_of_the_users_own_is_detached_and_stays_open(
    lab: Lab, wire: Wire, door: Callable[..., Program], end: str
) -> None:
    with lab.netns.entered():
        index = socket.if_nametoindex("veth0")
    with door() as program:
        for turn in range(3):
            interface = toolkit.open("veth0", program=program, netns=lab.netns)
            wire.send([frame(turn)])
            assert numbers(interface.receive(timeout=5.0)) == [turn]
            if end == "closed":
                interface.close()
            else:
                del interface
                gc.collect()
            assert toolkit.program.attached(index, lab.netns) is None
            assert not program.closed
            assert not program.links


def test_queues_may_be_some_of_them(make_lab: Callable[..., Lab], door: Callable[..., Program]) -> None:
    """Packets of the other queues go on to the kernel."""
    lab = make_lab(queues=4)
    flows = [udp_frame(b"%04d" % i, source_port=6000 + i) for i in range(80)]
    with opened(lab, door, queues=[1, 3]) as interface, Wire(lab) as wire:
        assert [sock.queue for sock in interface.sockets] == [1, 3]
        wire.send(flows)
        assert eventually(lambda: sum(interface.counters()[name] for name in ("redirected", "no_socket")) == 80)
        received = drain(interface.receive)
        counters = interface.counters()
        assert received == counters["redirected"] > 0
        assert counters["no_socket"] == 80 - received > 0
    for wrong in ([], "some"):
        with pytest.raises(ArgumentError, match="queues"):
            toolkit.open("veth0", filter="all", queues=wrong, netns=lab.netns)


@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_the_mode_that_came_about_is_reported(lab: Lab, mode: Any) -> None:
    with toolkit.open("veth0", filter="all", mode=mode, netns=lab.netns) as interface:
        assert interface.mode == ("native" if mode == "auto" else mode)
        info = interface.info()
        assert info["mode"] == interface.mode
        assert info["zero_copy"] is False
        assert interface.mode in repr(interface)
        assert "redirected" in interface._repr_html_() or "rx_dropped" in interface._repr_html_()


def test_replace_takes_the_place_of_another_program(lab: Lab, wire: Wire) -> None:
    first = Program.build("xsk_redirect.c")
    with first, first.attach("veth0", netns=lab.netns) as link:
        with pytest.raises(OSError, match=r"another one is attached.*this process holds.*close\(\) the Interface"):
            toolkit.open("veth0", filter="all", netns=lab.netns)
        assert not link.closed
        with toolkit.open("veth0", filter="all", replace="link", netns=lab.netns) as interface:
            wire.send([frame(5)])
            assert numbers(interface.receive(timeout=5.0)) == [5]


def test_reconciled_to_the_packet_after_a_flood(lab: Lab, wire: Wire, door: Callable[..., Program]) -> None:
    """A receiver that is too slow by design: what was redirected was received, or was counted as dropped."""
    with opened(lab, door, ring_size=64, frames=128) as interface:
        got = 0
        for _ in range(20):
            wire.send([frame(i) for i in range(200)])
            got += len(interface.receive(timeout=1.0))
        interface.detach()
        got += drain(interface.receive)
        statistics, counters = interface.statistics(), interface.counters()
        assert statistics.dropped > 0, "nothing was lost, so nothing was tested"
        assert counters["redirected"] == got + statistics.dropped == 4000
