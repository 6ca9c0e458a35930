# SPDX-License-Identifier: Apache-2.0
"""Kernel traffic on the lab's network, seen by AF_PACKET at the other end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether

from toolkit.errors import ArgumentError, ClosedError, DeviceGoneError, SystemCallError
from toolkit.lab import Lab
from toolkit.packets import frames


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.mark.parametrize("ipv6", [False, True])
def test_ping(lab: Lab, ipv6: bool) -> None:
    with lab.capture() as capture:
        result = lab.ping(3, size=200, ipv6=ipv6)
    assert (result.sent, result.received, len(result.times_ms)) == (3, 3, 3)
    with pytest.raises(ClosedError):
        capture.frames()


def test_ping_counts_missing_answers(lab: Lab) -> None:
    lab.near.run(["ip", "addr", "del", f"{lab.ip}/24", "dev", lab.interface], check=True)
    result = lab.ping(2, wait=0.2)
    assert (result.sent, result.received) == (2, 0)


def test_frames_arrive_as_given(lab: Lab) -> None:
    given = [frames.udp_frame(bytes([n % 256]) * n) for n in range(1, 1400, 7)]
    given += [
        frames.udp_frame(b"tagged", vlans=[5]),
        frames.udp_frame(b"twice", vlans=[0x6007, 0x1005]),
        frames.udp_frame(b"six", destination_ip=lab.ip6),
        frames.tcp_frame(b"tcp", vlans=[1]),
        frames.echo_frame(b"echo"),
        frames.ethernet(frames.arp(), frames.ETH_P_ARP),
        frames.ethernet(b"", 0x88B5),
        frames.udp_frame(size=lab.mtu + 14),
        frames.udp_frame(size=lab.mtu + 18, vlans=[1]),
    ]
    with lab.capture() as capture:
        assert lab.send_frames(given) == len(given)
        assert capture.frames(len(given)) == given
        assert capture.lost() == 0


def test_outgoing(lab: Lab) -> None:
    with lab.capture(far=True, outgoing=True) as sent, lab.capture(far=True) as received:
        lab.send_frames([frames.echo_frame(b"ask")])
        assert sent.frames(1) == [frames.echo_frame(b"ask")]
        assert len(received.frames(1)) == 1


@pytest.mark.parametrize("ipv6", [False, True])
def test_udp(lab: Lab, ipv6: bool) -> None:
    with lab.capture() as capture:
        assert lab.udp(count=100, size=50, flows=4, source_port=7000, ipv6=ipv6) == 100
        packets = [Ether(frame) for frame in capture.frames(100)]
    assert Counter(packet[UDP].sport for packet in packets) == dict.fromkeys(range(7000, 7004), 25)
    for packet in packets:  # checksums are on the wire, not left to an offload
        there = packet[UDP].chksum
        del packet[UDP].chksum
        assert Ether(bytes(packet))[UDP].chksum == there


def test_udp_payloads_and_rate(lab: Lab) -> None:
    payloads = [b"%d" % n for n in range(40)]
    with lab.capture() as capture:
        start = time.monotonic()
        assert lab.udp(iter(payloads), rate=200) == 40
        assert time.monotonic() - start >= 39 / 200
        assert [
            bytes(Ether(frame)[UDP].payload)[: len(p)] for frame, p in zip(capture.frames(40), payloads, strict=True)
        ] == payloads


def test_refusals(lab: Lab) -> None:
    with pytest.raises(SystemCallError, match="frame of 1519 bytes"):
        lab.send_frames([bytes(lab.mtu + 19)])
    with pytest.raises(SystemCallError, match="frame of 13 bytes"):
        lab.send_frames([bytes(13)])
    with pytest.raises(SystemCallError, match="datagram"):
        lab.udp(size=70000)
    with pytest.raises(ArgumentError):
        lab.udp(rate=0)
    with pytest.raises(ArgumentError):
        lab.ping(0)


def test_capture_notices_a_vanished_interface(lab: Lab) -> None:
    with lab.capture() as capture:
        lab.delete_interface()
        with pytest.raises(DeviceGoneError):
            capture.frames(1)
