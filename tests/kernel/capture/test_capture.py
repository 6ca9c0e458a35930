# SPDX-License-Identifier: Apache-2.0
"""Real packets into real files: as many as were sent, the same bytes, at the time they came; and readers agree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import NEAR_MAC, Wire, child_environment, eventually, frame, run_child
from toolkit.capture import Capture
from toolkit.errors import DeviceGoneError
from toolkit.lab import Lab

pytestmark = pytest.mark.needs("tcpdump", "tshark", "capinfos")

FILTER = "ether proto 0x88b5"  # what frame() makes
LENGTHS = (60, 61, 62, 63, 64, 128, 333, 1000, 1514)


def reported(*command: Any) -> str:
    """What a reader prints. It must not complain."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    complaints = [
        line
        for line in done.stderr.splitlines()
        if line and not line.startswith(("Running as user", "reading from file", "dropped privs"))
    ]
    assert (done.returncode, complaints) == (0, []), f"{command}: {done.stderr}"
    return done.stdout


def fields(path: Path, *names: str) -> list[list[str]]:
    options = [word for name in names for word in ("-e", name)]
    return [line.split("\t") for line in reported("tshark", "-n", "-r", path, "-T", "fields", *options).splitlines()]


def recorded(path: Path) -> tuple[list[bytes], list[int], dict[str, int]]:
    """Bytes, times (ns) and the file's own figures."""
    packets: list[bytes] = []
    times: list[int] = []
    with toolkit.read(path) as source:
        for batch in source:
            packets += [bytes(one) for one in batch]
            times += batch.timestamps.astype("int64").tolist()
        return packets, times, source.statistics()


@pytest.mark.parametrize("name", ["a.pcapng", "a.pcap", "a.pcapng.gz"])
@pytest.mark.parametrize("mode", ["native", "generic"])
def test_what_was_sent_is_what_readers_read(lab: Lab, wire: Wire, tmp_path: Path, name: str, mode: Any) -> None:
    path = tmp_path / name
    sent = [frame(i, length) for i, length in enumerate(LENGTHS * 20)]
    with toolkit.open(lab.interface, netns=lab.netns, filter=FILTER, mode=mode) as near, Capture(near, path) as capture:
        before = time.time_ns()
        wire.send(sent)
        after = time.time_ns()
        capture.run(seconds=10, count=len(sent))
        figures = capture.finish()
    assert figures.written == figures.accepted == figures.received == len(sent)
    assert figures.bytes == sum(map(len, sent))
    assert figures.file_bytes == path.stat().st_size
    packets, times, _ = recorded(path)
    assert packets == sent
    assert all(before - 10_000 <= one <= after + 1_000_000_000 for one in times)
    assert times == sorted(times)
    if not name.endswith("gz"):  # which tcpdump does not read
        assert reported("tcpdump", "--count", "-nr", path) == f"{len(sent)} packets\n"
    assert f"Number of packets:   {len(sent)}\n" in reported("capinfos", "-c", "-M", path)
    read = fields(path, "frame.len", "frame.cap_len", "frame.time_epoch", "eth.dst")
    assert [int(row[0]) for row in read] == [int(row[1]) for row in read] == [len(one) for one in sent]
    assert [int(row[2].replace(".", "")) for row in read] == times
    assert {row[3] for row in read} == {NEAR_MAC.hex(":")}


def test_a_file_tells_where_it_comes_from_and_that_it_is_whole(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with toolkit.open(lab.interface, netns=lab.netns, filter=FILTER) as near, Capture(near, path) as capture:
        wire.send([frame(i) for i in range(50)])
        lab.udp(count=10)  # not ours
        capture.run(seconds=10, count=50)
        assert eventually(lambda: near.counters()["passed"] >= 10)
        capture.finish()
    about = reported("capinfos", path)
    wanted = ("Name = veth0", f"Filter string = {FILTER}", "precision = nanoseconds", "afxdp-toolkit", "native XDP")
    for words in wanted:
        assert words in about
    _, _, statistics = recorded(path)
    assert statistics["accepted"] == statistics["delivered"] == 50
    assert statistics["dropped"] == statistics["os_dropped"] == 0
    assert statistics["received"] >= 60
    assert fields(path, "frame.packet_flags_direction")[0] in (["0x00000001"], ["0x01"], ["1"])  # inbound


def test_what_is_missing_is_reported_to_the_packet(lab: Lab, tmp_path: Path) -> None:
    """More than a small ring holds comes at once, before anybody looks."""
    path = tmp_path / "a.pcapng"
    with (
        toolkit.open(lab.interface, netns=lab.netns, filter="udp", ring_size=64) as near,
        Capture(near, path) as capture,
    ):
        with lab.generator(count=5000) as generator:
            generator.wait(20)
        figures = capture.finish()
    assert figures.dropped > 0
    assert figures.accepted == figures.received + figures.dropped
    assert figures.received == figures.written
    packets, _, statistics = recorded(path)
    assert len(packets) == figures.written == statistics["delivered"]
    assert statistics["accepted"] == statistics["delivered"] + statistics["dropped"]
    assert statistics["dropped"] == figures.dropped


def test_a_flood_is_conserved(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with toolkit.open(lab.interface, netns=lab.netns, filter="udp") as near, Capture(near, path) as capture:
        with lab.generator(seconds=0.5, size=64) as generator:
            capture.run(seconds=0.6)
            generator.wait(20)
        figures = capture.finish()
    assert figures.accepted == figures.received + figures.dropped
    assert figures.received == figures.written + figures.write_dropped
    assert f"Number of packets:   {figures.written}\n" in reported("capinfos", "-c", "-M", path)
    _, _, statistics = recorded(path)
    assert statistics["dropped"] == figures.lost


@pytest.mark.parametrize("make", [toolkit.open, toolkit.tee])
def test_a_second_capture_counts_its_own_packets(lab: Lab, wire: Wire, tmp_path: Path, make: Any) -> None:
    with make(lab.interface, netns=lab.netns, filter=FILTER) as near:
        for name, first, count in (("a", 0, 30), ("b", 30, 20)):
            wire.send([frame(first)])  # what waits already is its own as well
            assert eventually(lambda total=first + 1: near.counters()["redirected"] == total, 5)
            with Capture(near, tmp_path / name) as capture:
                wire.send([frame(i) for i in range(first + 1, first + count)])
                capture.run(seconds=10, count=count)
            packets, _, statistics = recorded(tmp_path / name)
            assert len(packets) == count == statistics["accepted"] == statistics["delivered"]


def test_of_several_queues_each_packet_tells_its_own(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab, path = make_lab(queues=2), tmp_path / "a.pcapng"
    with toolkit.open(lab.interface, netns=lab.netns, filter="udp") as near, Capture(near, path) as capture:
        for cpu in sorted(os.sched_getaffinity(0))[:2]:
            with lab.generator(count=100, cpu=cpu) as generator:
                generator.wait(20)
        capture.run(seconds=10, count=200)
    queues = [int(row[0] or -1) for row in fields(path, "frame.interface_queue")]
    assert sorted(queues) == sorted([0, 1] * 100)


def test_epb_queue_is_a_whole_option(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    from scapy.utils import RawPcapNgReader

    lab, path = make_lab(queues=2), tmp_path / "a.pcapng"
    cpu = sorted(os.sched_getaffinity(0))[-1]
    with toolkit.open(lab.interface, netns=lab.netns, filter="udp") as near, Capture(near, path) as capture:
        with lab.generator(count=10, cpu=cpu) as generator:
            generator.wait(20)
        capture.run(seconds=10, count=10)
    with RawPcapNgReader(str(path)) as reader:
        assert len(list(reader)) == 10
    data = path.read_bytes()
    assert data.count(b"\x06\0\x04\0" + (cpu % 2).to_bytes(4, sys.byteorder)) == 10
    reported("tshark", "-r", path)


def test_snaplen_in_the_driver_and_here(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    for options, open_options in (({"snaplen": 40}, {}), ({}, {"snaplen": 40})):
        path = tmp_path / f"{len(options)}.pcapng"
        with (
            toolkit.open(lab.interface, netns=lab.netns, filter=FILTER, **open_options) as near,
            Capture(near, path, **options) as capture,
        ):
            wire.send([frame(i, 500) for i in range(5)])
            capture.run(seconds=10, count=5)
        assert fields(path, "frame.len", "frame.cap_len") == [["500", "40"]] * 5


def test_an_interface_that_vanishes_leaves_a_capture_behind(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with toolkit.open(lab.interface, netns=lab.netns, filter=FILTER) as near, Capture(near, path) as capture:
        wire.send([frame(i) for i in range(5)])
        capture.run(seconds=10, count=5)
        lab.delete_interface()
        with pytest.raises(DeviceGoneError):
            capture.run(seconds=10)
        capture.finish()
    assert len(recorded(path)[0]) == 5
    reported("capinfos", path)


KILLED = """
import sys, toolkit
from toolkit.capture import Capture
with toolkit.open("veth0", filter="ether proto 0x88b5") as near, Capture(near, sys.argv[1]) as capture:
    print("ready", flush=True)
    capture.run()
"""


@pytest.mark.parametrize("name", ["a.pcapng", "a.pcap", "a.pcapng.gz"])
def test_killed_it_loses_at_most_the_last_second(lab: Lab, wire: Wire, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    child = lab.netns.popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, env=child_environment())
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        wire.send([frame(i, 60 + i) for i in range(300)])
        time.sleep(1.2)  # what came before the last second
        wire.send([frame(i, 60) for i in range(300, 310)])
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    packets, _, statistics = recorded(path)
    assert packets[:300] == [frame(i, 60 + i) for i in range(300)]
    assert len(packets) <= 310
    if name == "a.pcapng":
        assert statistics["accepted"] >= 300  # it says what it is, even so
    assert len(fields(path, "frame.len")) == len(packets)


FULL = """
import errno, subprocess, sys, toolkit
from toolkit.capture import Capture
from toolkit.errors import SystemCallError
from toolkit.lab import Lab
from tests.helpers.wire import frame
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", sys.argv[1]], check=True)
with Lab() as lab, toolkit.open(lab.interface, netns=lab.netns, filter="udp") as near:
    path = sys.argv[1] + "/a.pcapng"
    capture = Capture(near, path)
    with lab.generator(count=30000, rate=100000) as generator:
        try:
            capture.run(seconds=20)
            raise AssertionError("the disk was not full")
        except SystemCallError as full:
            assert full.errno == errno.ENOSPC and "the disk is full" in str(full), full
        generator.wait(20)
    try:
        capture.finish()
    except SystemCallError as full:
        assert full.errno == errno.ENOSPC
    figures = capture.statistics()
    assert figures.accepted == figures.received + figures.dropped, figures
    assert figures.received == figures.written + figures.write_dropped, figures
    with toolkit.read(path) as source:
        assert sum(map(len, source)) == figures.written > 5000, figures
        assert source.statistics()["delivered"] == figures.written, source.statistics()
        assert source.statistics()["dropped"] == figures.lost, source.statistics()
    done = subprocess.run(["tshark", "-r", path], capture_output=True)
    assert done.returncode == 0 and b"cut" not in done.stderr, done.stderr
    print("well")
"""


def test_a_full_disk_is_reported_and_what_is_there_is_whole(tmp_path: Path) -> None:
    code = textwrap.dedent(FULL).replace("sys.argv[1]", repr(str(tmp_path)))
    assert run_child(code, "unshare", "--mount").endswith("well\n")
