# SPDX-License-Identifier: Apache-2.0
"""A Tee: the kernel gets every packet as if nobody looked, and what a filter takes comes here as well."""

from __future__ import annotations

import collections
import hashlib
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.wire import Wire, collect, eventually, frame, number_of, numbers, udp_frame
from toolkit.errors import StaleBatchError
from toolkit.lab import Lab
from toolkit.program import Rule

pytestmark = pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU")

modes = pytest.mark.parametrize("mode", ["native", "generic"])


def all_of(tee: toolkit.Tee, quiet: float = 0.3) -> list[bytes]:
    """Everything that waits, once nothing comes for `quiet` seconds."""
    found: list[bytes] = []
    while batch := tee.receive(timeout=quiet):
        found += [bytes(packet) for packet in batch]
    return found


def stack_received(lab: Lab) -> int:
    """IPv4 packets that the near host's stack was given."""
    text = lab.netns.run(["cat", "/proc/net/snmp"], stdout=subprocess.PIPE, text=True).stdout
    names, values = (line.split() for line in text.splitlines() if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["InReceives"])


# --- the kernel gets its packets --------------------------------------------------------------------------------------


@modes
def test_a_ping_and_a_connection_work_while_all_of_it_is_copied(lab: Lab, mode: Any) -> None:
    payload = os.urandom(1 << 20)
    with (
        lab.capture(far=True, outgoing=True) as sent,
        toolkit.tee("veth0", filter="all", mode=mode, netns=lab.netns) as t,
    ):
        assert t.mode == mode
        assert lab.ping(count=5).received == 5
        with lab.netns.entered():
            listener = socket.create_server((lab.ip, 0))
        with listener:
            got: list[bytes] = []
            server = threading.Thread(target=lambda: got.append(_read_all(listener)))
            server.start()
            with lab.far.entered():
                client = socket.create_connection(listener.getsockname()[:2], timeout=20)
            client.sendall(payload)
            client.close()
            server.join(20)
        assert hashlib.sha256(got[0]).digest() == hashlib.sha256(payload).digest()
        on_the_wire = sent.frames(timeout=0.5)
        assert eventually(lambda: t.counters()["redirected"] >= len(on_the_wire))
        t.detach()
        on_the_wire += sent.frames(timeout=0)
        copies = all_of(t, 0.0)
        assert sent.lost() == 0
        assert t.statistics().dropped == 0
        assert t.counters()["redirected"] == len(copies)
    # Not their order: the far host sends from both of its CPUs.
    assert collections.Counter(copies) == collections.Counter(on_the_wire)
    assert sum(map(len, copies)) > len(payload)


def _read_all(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    with connection:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@modes
def test_overload_costs_us_copies_and_the_kernel_nothing(make_lab: Callable[..., Lab], mode: Any) -> None:
    lab = make_lab(gro=True)
    with toolkit.tee("veth0", filter="udp", mode=mode, slots=64, netns=lab.netns) as t:
        before = stack_received(lab)
        with lab.generator(count=20_000, size=64) as generator:
            report = generator.wait(30)
        assert report.sent == 20_000
        assert eventually(lambda: t.counters()["redirected"] == 20_000)
        t.detach()
        received = len(all_of(t, 0.0))
        lost = t.statistics().dropped
    assert received >= 64
    assert lost > 0
    assert received + lost == 20_000
    assert eventually(lambda: stack_received(lab) - before >= 20_000)


def test_what_does_not_match_is_not_copied(lab: Lab, wire: Wire) -> None:
    with toolkit.tee("veth0", filter="udp port 9000", netns=lab.netns) as t:
        wire.send([udp_frame(b"yes", port=9000), udp_frame(b"no", port=9001), frame(1)])
        assert eventually(lambda: t.counters()["passed"] == 2)
        assert all_of(t) == [udp_frame(b"yes", port=9000)]
        assert t.counters()["redirected"] == 1


def test_rules(lab: Lab, wire: Wire) -> None:
    rules = [
        Rule("udp port 1", action="drop"),
        Rule("udp port 2", snaplen=20),
        Rule("udp port 3", action="count"),
        Rule("udp"),
    ]
    with toolkit.tee("veth0", rules=rules, netns=lab.netns) as t, Wire(lab, near=True) as stack:
        packets = [udp_frame(b"x" * 40, port=port) for port in (1, 2, 3, 4)]
        wire.send(packets)
        assert stack.receive(3) == packets[1:]
        batch = t.receive(timeout=5)
        assert batch.rule_numbers.tolist() == [1, 3]
        assert batch.lengths.tolist() == [20, 82]
        assert batch.wire_lengths.tolist() == [82, 82]
        assert [one.packets for one in t.rule_counters()] == [1, 1, 1, 1]
        assert t.counters()["dropped"] == 1


def test_segments_joined_on_the_way_are_cut_and_reported_or_whole_if_asked_for(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(offloads=True)
    for snaplen in (None, 65535):
        with toolkit.tee("veth0", filter="tcp", mode="generic", snaplen=snaplen, netns=lab.netns) as t:
            with lab.netns.entered():
                listener = socket.create_server((lab.ip, 0))
            with listener:
                server = threading.Thread(target=lambda listener=listener: _read_all(listener))
                server.start()
                with lab.far.entered():
                    client = socket.create_connection(listener.getsockname()[:2], timeout=20)
                client.sendall(bytes(300_000))
                client.close()
                server.join(20)
            lengths: list[int] = []
            wire_lengths: list[int] = []
            while batch := t.receive(timeout=0.3):
                lengths += batch.lengths.tolist()
                wire_lengths += batch.wire_lengths.tolist()
            assert max(wire_lengths) > 1514
            assert lengths == [min(length, snaplen or 1522) for length in wire_lengths]


# --- what is in a Batch -----------------------------------------------------------------------------------------------


@modes
def test_times_lie_between_the_clock_readings_around_the_sending(lab: Lab, wire: Wire, mode: Any) -> None:
    with toolkit.tee("veth0", filter="all", mode=mode, netns=lab.netns) as t:
        for number in range(20):
            before, before_utc = time.monotonic_ns(), time.time_ns()
            wire.send([frame(number)])
            batch = t.receive(timeout=5)
            after, after_utc = time.monotonic_ns(), time.time_ns()
            assert numbers(batch) == [number]
            assert before <= batch.arrival_ns[0] <= after
            assert before_utc - 10_000 <= batch.timestamps.view(np.int64)[0] <= after_utc + 10_000


@pytest.mark.parametrize("snaplen", [None, 14, 61, 64])
def test_bytes_and_lengths(lab: Lab, wire: Wire, snaplen: int | None) -> None:
    with toolkit.tee("veth0", filter="all", snaplen=snaplen, netns=lab.netns) as t:
        packets = [frame(length, length) for length in (14, 15, 63, 64, 65, 71, 72, 1000, 1500, 1513, 1514)]
        wire.send(packets)
        assert eventually(lambda: t.counters()["redirected"] == len(packets))
        batch = t.receive(timeout=5)
        assert [bytes(packet) for packet in batch] == [packet[:snaplen] for packet in packets]
        assert batch.lengths.tolist() == [len(packet[:snaplen]) for packet in packets]
        assert batch.wire_lengths.tolist() == list(map(len, packets))


@modes
@pytest.mark.parametrize("mtu", [3800, 9000])
def test_packets_of_several_buffers(make_lab: Callable[..., Lab], mtu: int, mode: Any) -> None:
    lab = make_lab(mtu=mtu)
    with Wire(lab) as wire, toolkit.tee("veth0", filter="all", mode=mode, netns=lab.netns) as t:
        packets = [frame(number, length) for number, length in enumerate((60, 3000, 3500, mtu + 14))]
        wire.send(packets)
        assert all_of(t) == packets


def test_queues_do_not_mix_in_a_batch_and_keep_their_order(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=2)
    with toolkit.tee("veth0", filter="udp", netns=lab.netns) as t:
        for cpu in (0, 1, 0, 1):
            with lab.generator(count=500, size=100, cpu=cpu % (os.cpu_count() or 1)) as generator:
                generator.wait(20)
        assert eventually(lambda: t.counters()["redirected"] == 2000)
        counts: collections.Counter[int] = collections.Counter()
        last: dict[int, int] = {}
        while batch := t.receive(timeout=0, limit=300):
            assert len(batch) <= 300
            counts[batch.queue] += len(batch)
            times = batch.arrival_ns
            assert (np.diff(times) >= 0).all()
            assert times[0] >= last.get(batch.queue, 0)
            last[batch.queue] = int(times[-1])
        assert sum(counts.values()) == 2000
        assert len(counts) == min(2, os.cpu_count() or 1)


def test_packets_of_other_queues_are_not_copied(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=2)
    with toolkit.tee("veth0", filter="udp", queues=[0], netns=lab.netns) as t:
        for cpu in range(2):
            with lab.generator(count=100, size=100, cpu=cpu % (os.cpu_count() or 1)) as generator:
                generator.wait(20)
        assert eventually(lambda: t.counters()["matched"] == 200)
        counters = t.counters()
        assert counters["redirected"] + counters["no_socket"] == 200
        assert counters["no_socket"] == (100 if (os.cpu_count() or 1) > 1 else 0)
        assert len(all_of(t)) == counters["redirected"]
        assert t.info()["queues"] == [0]


def test_the_ring_wraps_many_times(lab: Lab, wire: Wire) -> None:
    with toolkit.tee("veth0", filter="all", slots=16, netns=lab.netns) as t:
        most = t.info()["slots"] // 2  # a Batch may borrow as many again
        following = 0
        for turn in range(60):
            sent = [frame(following + i, 64 + i) for i in range(1 + turn % most)]
            following += len(sent)
            wire.send(sent)
            assert collect(t.receive, len(sent)) == sent
        assert t.statistics().dropped == 0


# --- the loan ---------------------------------------------------------------------------------------------------------


def test_a_batch_borrows_and_a_copy_stays(lab: Lab, wire: Wire) -> None:
    with toolkit.tee("veth0", filter="all", netns=lab.netns) as t:
        wire.send([frame(1), frame(2)])
        assert eventually(lambda: t.counters()["redirected"] == 2)
        batch = t.receive(timeout=5)
        assert "borrowed" in repr(batch)
        kept, pickled, view = batch.copy(), pickle.dumps(batch), batch.packet(0)
        with pytest.raises(TypeError):
            view[0] = 0
        assert not t.receive(timeout=0)
        assert batch.stale
        with pytest.raises(StaleBatchError):
            _ = batch.lengths
    assert numbers(kept) == numbers(pickle.loads(pickled)) == [1, 2]
    assert len(pickled) < 2000
    assert number_of(view) == 1  # it holds the memory, also after close()


def test_what_a_limit_left_comes_next_and_the_slots_go_back(lab: Lab, wire: Wire) -> None:
    with toolkit.tee("veth0", filter="all", slots=16, netns=lab.netns) as t:
        for _ in range(10):
            wire.send([frame(i) for i in range(10)])
            assert eventually(lambda: t.wait(0) is True)
            got: list[int] = []
            while len(got) < 10 and (batch := t.receive(timeout=5, limit=3)):
                assert len(batch) <= 3
                got += numbers(batch)
            assert got == list(range(10))


def test_an_interrupt_while_waiting_loses_nothing(lab: Lab, wire: Wire) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with toolkit.tee("veth0", filter="all", netns=lab.netns) as t:
            for number in range(5):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(KeyboardInterrupt):
                    t.receive(timeout=10)
                wire.send([frame(number)])
                assert numbers(t.receive(timeout=5)) == [number]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
