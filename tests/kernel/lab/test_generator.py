# SPDX-License-Identifier: Apache-2.0
"""The live-frame generator, held against the kernel's counters and against the frames themselves."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether

from tests.helpers import ROOT
from tests.helpers.workers import two_cpus
from toolkit.abi.libbpf import BPF_PROG_TYPE_XDP, BPF_XDP, XDP_FLAGS_DRV_MODE, LinkCreateOpts, libbpf
from toolkit.errors import ArgumentError, ToolkitError
from toolkit.lab import Lab
from toolkit.lab.assembler import Assembler, R
from toolkit.packets import frames

pytestmark = pytest.mark.timing("a generator that waits for its CPU falls behind")

XDP_DROP = 1


def drop_everything(lab: Lab) -> int:
    """Attach a program that drops; it is counted in rx_packets all the same. Returns the link's descriptor."""
    program = Assembler()
    program.alu("mov", R(0), XDP_DROP)
    program.exit()
    fd = libbpf().bpf_prog_load(BPF_PROG_TYPE_XDP, b"drop", b"GPL", program.assemble(), len(program), None)
    assert fd >= 0
    options = LinkCreateOpts(sz=ctypes.sizeof(LinkCreateOpts), flags=XDP_FLAGS_DRV_MODE)
    with lab.near.entered():
        index = socket.if_nametoindex(lab.interface)
        link: int = libbpf().bpf_link_create(fd, index, BPF_XDP, ctypes.byref(options))
    os.close(fd)
    assert link >= 0
    return link


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab whose near end counts and drops."""
    with Lab() as lab:
        link = drop_everything(lab)
        try:
            yield lab
        finally:
            os.close(link)


@pytest.fixture
def passing() -> Iterator[Lab]:
    """A lab whose near end takes live frames into the kernel's network stack."""
    with Lab(gro=True) as lab:
        yield lab


def test_count_is_exact(lab: Lab) -> None:
    with lab.generator(count=300_001) as generator:
        report = generator.wait(60)
    assert report.sent == generator.sent == 300_001
    assert report.lost is not None
    assert lab.counters()["rx_packets"] == report.sent - report.lost
    print(f"{report.rate / 1e6:.2f} Mpps, {report.lost} lost, {report}")


def test_full_speed_until_stopped(lab: Lab) -> None:
    with lab.generator() as generator:
        while generator.sent < 500_000:
            time.sleep(0.001)
        assert generator.running
        report = generator.stop()
    assert not generator.running
    assert generator.stop() is report
    assert report.lost is not None
    assert lab.counters()["rx_packets"] == report.sent - report.lost
    print(f"{report.rate / 1e6:.2f} Mpps, {report}")


def test_seconds(lab: Lab) -> None:
    with lab.generator(seconds=0.2) as generator:
        report = generator.wait(60)
    assert report.seconds >= 0.2
    assert lab.counters()["rx_packets"] == report.sent - (report.lost or 0) > 0


@pytest.mark.alone("bursts grow when a generator has to wait for its CPU")
@pytest.mark.parametrize("rate", [1_000, 50_000, 200_000, 1_000_000])
def test_pace(lab: Lab, rate: int) -> None:
    with lab.generator(rate=rate, seconds=0.5) as generator:
        report = generator.wait(60)
    assert report.sent + report.missed == rate // 2
    assert lab.counters()["rx_packets"] == report.sent - (report.lost or 0)
    # No burst is longer than a quarter of a millisecond's worth, however late the process was.
    assert report.largest_burst <= max(1, rate * 0.00025)
    assert report.seconds < 5  # the bound is 0.5; the rest is for a busy machine
    mean = report.sent / report.calls
    print(f"asked {rate}, got {report.rate:.0f}/s, mean burst {mean:.1f}, largest {report.largest_burst}, {report}")


def test_pace_with_count_never_misses(lab: Lab) -> None:
    with lab.generator(rate=20_000, count=5_000) as generator:
        report = generator.wait(60)
    assert (report.sent, report.missed) == (5_000, 0)
    assert report.seconds >= 4_999 / 20_000


@pytest.mark.parametrize("ipv6", [False, True])
def test_frames_are_numbered_in_order_with_right_checksums(passing: Lab, ipv6: bool) -> None:
    with passing.capture() as capture:
        with passing.generator(count=3_000, rate=50_000, flows=7, size=100, ipv6=ipv6) as generator:
            generator.wait(60)
        seen = capture.frames(3_000)
    assert len(seen) == 3_000
    transport = 54 if ipv6 else 34
    for number, frame in enumerate(seen):
        assert len(frame) == 100
        port, _, _, _, sequence, complement, port_complement = struct.unpack_from("!HHHHQQH", frame, transport)
        assert sequence == number
        assert complement == ~number & (2**64 - 1)
        assert port == 1024 + number % 7 == ~port_complement & 0xFFFF
    for frame in seen[::97]:
        packet = Ether(frame)
        there = packet[UDP].chksum
        del packet[UDP].chksum
        assert Ether(bytes(packet))[UDP].chksum == there


def test_given_frames_take_turns_and_stay_as_they_are(passing: Lab) -> None:
    given = [frames.udp_frame(b"one"), frames.echo_frame(b"two", destination_ip=passing.ip6), bytes(14)]
    with passing.capture() as capture:
        with passing.generator(frame=given, rate=2_000, count=60) as generator:
            generator.wait(60)
        seen = capture.frames(60)
    assert set(seen) == set(given)
    assert seen[:3] == given


@two_cpus
@pytest.mark.needs("ethtool")
def test_queue_follows_the_cpu() -> None:
    with Lab(queues=2) as lab:
        link = drop_everything(lab)
        try:
            for cpu in sorted(os.sched_getaffinity(0))[:2]:
                with lab.generator(count=1_000, cpu=cpu) as generator:
                    report = generator.wait(60)
                assert report.cpu == cpu
                text = lab.near.run(["ethtool", "-S", lab.interface], capture_output=True, text=True).stdout
                counters = dict(line.strip().split(": ") for line in text.splitlines()[1:])
                assert int(counters[f"rx_queue_{generator.queue}_xdp_packets"]) == 1_000 - (report.lost or 0)
        finally:
            os.close(link)


def test_largest_frame() -> None:
    with Lab(mtu=3490) as lab:
        link = drop_everything(lab)
        try:
            with lab.generator(size=3408, count=100) as generator:
                generator.wait(60)
        finally:
            os.close(link)
        assert lab.counters()["rx_bytes"] == 100 * 3408


def test_nothing_takes_the_frames() -> None:
    with Lab() as lab, pytest.raises(ToolkitError, match="native mode"):
        lab.generator().start()


def test_bad_arguments(lab: Lab) -> None:
    for bad in (
        {"rate": 0},
        {"seconds": -1},
        {"count": 0},
        {"size": 59},
        {"size": 79, "ipv6": True},
        {"size": 2000},
        {"flows": 0},
        {"flows": 64513},
        {"frame": b"short"},
        {"frame": []},
        {"cpu": 9999},
    ):
        with pytest.raises(ArgumentError):
            lab.generator(**bad)


def test_misuse(lab: Lab) -> None:
    generator = lab.generator(count=10)
    with pytest.raises(ToolkitError, match="not started"):
        generator.wait()
    generator.start()
    with pytest.raises(ToolkitError, match="another one"):
        generator.start()
    generator.wait(60)
    generator.close()
    generator.close()
    with lab.generator() as endless, pytest.raises(TimeoutError):
        endless.wait(0.05)


def test_interface_deleted_meanwhile(lab: Lab) -> None:
    with lab.generator() as generator:
        lab.delete_interface()
        report = generator.stop()
    assert report.lost is None
    with pytest.raises(ToolkitError, match="veth1"):
        lab.generator()


def test_nothing_is_left_open(lab: Lab) -> None:
    lab.generator(count=1).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with lab.generator(count=1000) as generator:
            generator.wait(60)
    with lab.generator():
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_kill_of_the_owner_ends_it() -> None:
    code = (
        "import time; from toolkit.lab import Lab\n"
        "lab = Lab(gro=True); generator = lab.generator(frame=bytes(64)).start()\n"
        "print(generator._child.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        process = Path("/proc", owner.stdout.readline().strip())
        assert process.exists()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        deadline = time.monotonic() + 10
        while process.exists() and "(Z" not in (process / "stat").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
