# SPDX-License-Identifier: Apache-2.0
"""Checksums that real kernels left open: tags in the bytes, tunnels, answers, replays; and what is said beforehand."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolkit
from tests.helpers.cli import ended, running, transfer, xsk
from tests.helpers.offloads import Hosts, Tagged, csum_errors, iperf3
from tests.helpers.wire import eventually
from toolkit.doctor import examine
from toolkit.lab import Lab


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with contextlib.ExitStack() as stack:
        yield Hosts(stack)


@pytest.mark.needs("iperf3")
@pytest.mark.parametrize("address", ["10.11.0.3", "fd11::3"], ids=["ipv4", "ipv6"])
def test_iperf3_passes_in_frames_whose_tag_is_in_the_bytes(address: str) -> None:
    """Left and right know of no tag: it is put on and taken off on both sides of the bridge, which alone finishes."""
    with contextlib.ExitStack() as stack:
        tagged = Tagged(stack)
        with tagged.running():
            tcp = iperf3(tagged.right, tagged.left, address, "-t", "1")
            udp = iperf3(tagged.right, tagged.left, address, "-u", "-b", "2M", "-t", "1", "-l", "1200")
        assert tcp["end"]["sum_received"]["bytes"] > 200_000
        assert udp["end"]["sum"]["lost_packets"] <= udp["end"]["sum"]["packets"] * 0.1
        there, back = tagged.middle
        assert there.statistics().finished > 100
        assert back.statistics().finished > 10
        for host in (tagged.left, tagged.right):
            assert not any(csum_errors(host).values())


@pytest.mark.parametrize("sums", ["noudpcsum", "udpcsum"])
def test_tcp_passes_in_a_vxlan_tunnel(hosts: Hosts, sums: str) -> None:
    """The inner checksum is open; the outer one, where there is one, is right once that is finished."""
    for host, device, number, remote in ((hosts.left, "veth1", 1, "10.11.0.3"), (hosts.right, "veth3", 2, "10.11.0.2")):
        tunnel = f"ip link add vx0 type vxlan id 7 remote {remote} dstport 4789 dev {device} {sums}"
        for command in (tunnel, f"ip address add 10.20.0.{number}/24 dev vx0", "ip link set dev vx0 up"):
            host.run(command.split(), check=True)
    with hosts.bridged("--native") as process:
        assert transfer(hosts.right, hosts.left, "10.20.0.2", 300_000)
        there, _ = ended(process)["directions"]
    assert there["checksums_finished"] > 100
    assert not any({**csum_errors(hosts.left), **csum_errors(hosts.right)}.values())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_udp_echo_answers_an_unmodified_host(family: socket.AddressFamily) -> None:
    """One question after the other, and many at once, in which answers are made as arrays."""
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(offloads=True))
        stack.enter_context(running(lab, "echo", "veth0", "--json"))
        asker = stack.enter_context(asking(lab, family))
        for size in (0, 1, 18, 999, 1400):
            asker.send(b"q" * size)
            assert asker.recv(2000) == b"q" * size
        for number in range(60):
            asker.send(bytes([number]) * 77)
        assert sorted(asker.recv(2000)[0] for _ in range(60)) == list(range(60))
        assert not any(csum_errors(lab.far).values())


@contextlib.contextmanager
def asking(lab: Lab, family: socket.AddressFamily) -> Iterator[socket.socket]:
    with lab.far.entered(), socket.socket(family, socket.SOCK_DGRAM) as made:
        made.settimeout(5)
        made.connect((lab.ip if family == socket.AF_INET else lab.ip6, 7))
        yield made


@pytest.mark.needs("tcpdump")
def test_a_recording_of_the_sending_host_replays_as_its_device_would_have_sent_it(hosts: Hosts, tmp_path: Path) -> None:
    """tcpdump on the sender sees checksums open; replayed, the receiving kernel takes every packet."""
    file = tmp_path / "sent.pcap"
    hosts.know_each_other()
    command = ["tcpdump", "-i", "veth1", "-w", str(file), "-U", "-c", "20", "udp port 4444"]
    recorder = hosts.left.popen(command, stderr=subprocess.PIPE, text=True)
    assert "listening" in recorder.stderr.readline()
    with hosts.left.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(20):
            sender.sendto(bytes([number]) * (10 + number), ("10.11.0.3", 4444))
    recorder.communicate(timeout=20)
    with hosts.right.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("", 4444))
        sink.settimeout(5)
        done = xsk(hosts.lab, "send", "veth2", "-r", str(file), "--pace", "fast")
        assert done.returncode == 0, done.stderr
        assert "20 packets had been recorded before" in done.stderr
        assert [sink.recv(2000) for _ in range(20)] == [bytes([number]) * (10 + number) for number in range(20)]
        assert csum_errors(hosts.right)["Udp"] == 0
        done = xsk(hosts.lab, "send", "veth2", "-r", str(file), "--pace", "fast", "--leave-checksums")
        assert done.returncode == 0, done.stderr
        assert eventually(lambda: csum_errors(hosts.right)["Udp"] == 20, 5.0)


def test_what_gets_lost_is_said_before_forwarding_starts(hosts: Hosts) -> None:
    """A tag beside the packet, and in generic mode joined segments; of an interface without either nothing is said."""
    quick = ["-f", "udp port 9", "--seconds", "0.1"]
    native = xsk(hosts.lab, "forward", "veth0", *quick, "--native")
    assert native.returncode == 0, native.stderr
    assert "warning: veth0: the XDP program does not see VLAN tags" in native.stderr
    assert "txvlan off" in native.stderr
    assert "segments" not in native.stderr
    generic = xsk(hosts.lab, "forward", "veth0", "veth2", "--both", *quick, "--generic")
    for name in ("veth0", "veth2"):
        assert f"warning: {name}: in generic mode TCP segments arrive joined" in generic.stderr
    assert generic.stderr.count("in generic mode") == 2
    refused = xsk(hosts.lab, "forward", "veth0", "-f", "no such filter", "--generic")
    assert "warning: veth0: in generic mode" in refused.stderr  # before anything is opened
    hosts.lab.netns.run(["ethtool", "-K", "veth0", "rxvlan", "off"], check=True)
    assert "warning" not in xsk(hosts.lab, "forward", "veth0", *quick, "--native").stderr


def test_doctor_says_so_too(hosts: Hosts) -> None:
    found = {one.check: one for one in examine("veth0", netns=hosts.lab.netns) if one.area == "veth0"}
    assert "packets that are forwarded or answered lose them" in found["offloads"].text
    assert "tx off" in found["checksums"].remedy
    assert "segments" not in found  # a veth has native XDP
    hosts.lab.netns.run(["ip", "link", "add", "br0", "type", "bridge"], check=True)
    found = {one.check: one for one in examine("br0", netns=hosts.lab.netns) if one.area == "br0"}
    assert "in generic mode TCP segments arrive joined" in found["segments"].text


def test_hardware_is_summed_in_generic_mode_only(hosts: Hosts) -> None:
    """What comes off a wire is whole, unless the kernel joined it."""
    from toolkit.forward.forwarder import Forwarder

    with toolkit.open("veth0", filter="udp port 9", netns=hosts.lab.netns) as veth:
        assert Forwarder(veth, veth)._finish
        assert not Forwarder(veth, veth, finish_checksums=False)._finish
        for driver, bus, expected in (
            ("ixgbe", "0000:03:00.1", False),
            ("r8152", "usb-0000:00:14.0-2", False),
            ("virtio_net", "virtio0", True),
            ("vmxnet3", "0000:0b:00.0", True),
            ("tun", "tap", True),
            ("", "", True),
        ):
            veth.device = veth.device._replace(driver=driver, bus=bus)
            assert Forwarder(veth, veth)._finish is expected, driver
    with toolkit.open("veth0", filter="udp port 9", mode="generic", netns=hosts.lab.netns) as veth:
        veth.device = veth.device._replace(driver="ixgbe", bus="0000:03:00.1")
        assert Forwarder(veth, veth)._finish
