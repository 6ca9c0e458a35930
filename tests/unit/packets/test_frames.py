# SPDX-License-Identifier: Apache-2.0
"""Hand-made frames against scapy, which takes them apart and computes every checksum anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether

from toolkit.errors import ArgumentError
from toolkit.packets import frames

ports = st.integers(1, 65535)
addresses = st.sampled_from([frames.NEAR_IP, "192.0.2.255", frames.NEAR_IP6, "2001:db8::ffff"])


def rebuilt(frame: bytes) -> bytes:
    """The same frame with every checksum and length computed by scapy."""
    packet = Ether(frame)
    layer = packet
    while layer:
        for field in ("chksum", "cksum", "len", "plen", "ihl", "dataofs"):
            if field in layer.fields:
                del layer.fields[field]
        layer = layer.payload
    return bytes(packet)


@given(st.binary(max_size=300), ports, ports, addresses, st.lists(st.integers(0, 0xFFFF), max_size=3))
def test_udp(payload: bytes, source: int, destination: int, address: str, vlans: list[int]) -> None:
    frame = frames.udp_frame(
        payload, source_port=source, destination_port=destination, destination_ip=address, vlans=vlans
    )
    packet = Ether(frame)
    assert (packet[UDP].sport, packet[UDP].dport, bytes(packet[UDP].payload)) == (source, destination, payload)
    assert packet[IPv6 if ":" in address else IP].dst == address
    tags = [tag for tag in packet.iterpayloads() if isinstance(tag, Dot1Q | Dot1AD)]
    assert [tag.prio << 13 | tag.dei << 12 | tag.vlan for tag in tags] == vlans
    assert frame == rebuilt(frame)


@given(st.binary(max_size=300), ports, addresses)
def test_tcp(payload: bytes, port: int, address: str) -> None:
    frame = frames.tcp_frame(payload, source_port=port, destination_ip=address, flags=0x18)
    assert Ether(frame)[TCP].flags == "PA"
    assert bytes(Ether(frame)[TCP].payload) == payload
    assert frame == rebuilt(frame)


@given(st.binary(max_size=300), st.integers(0, 65535), addresses)
def test_echo(payload: bytes, sequence: int, address: str) -> None:
    frame = frames.echo_frame(payload, sequence=sequence, destination_ip=address)
    assert Ether(frame)[ICMPv6EchoRequest if ":" in address else ICMP].seq == sequence
    assert frame == rebuilt(frame)


def test_arp() -> None:
    request = Ether(frames.ethernet(frames.arp(), frames.ETH_P_ARP))[ARP]
    assert (request.op, request.psrc, request.pdst, request.hwsrc) == (1, frames.FAR_IP, frames.NEAR_IP, frames.FAR_MAC)


def test_options() -> None:
    packet = frames.ipv4(frames.udp(b"x", 1, 2), frames.IPPROTO_UDP, options=b"\x94\x04\0\0")
    assert IP(packet).ihl == 6
    assert IP(packet)[UDP].dport == 2
    segment = frames.tcp(b"x", 1, 2, options=b"\x02\x04\x05\xb4")
    assert TCP(segment).options == [("MSS", 1460)]


@pytest.mark.parametrize("address", [frames.NEAR_IP, frames.NEAR_IP6])
def test_size(address: str) -> None:
    for make in (frames.udp_frame, frames.tcp_frame, frames.echo_frame):
        frame = make(b"abc", size=128, destination_ip=address)
        assert len(frame) == 128
        assert frame == rebuilt(frame)


def test_zero_udp_checksum_is_sent_as_ones() -> None:
    # The two bytes are chosen so that the sum over everything else comes out as zero.
    plain = frames.udp(b"\0\0", 1, 2)
    payload = plain[6:8]
    assert frames.udp(payload, 1, 2)[6:8] == b"\xff\xff"


def test_bad_input() -> None:
    with pytest.raises(ArgumentError, match="too small"):
        frames.udp_frame(b"abc", size=44)
    with pytest.raises(ArgumentError, match="MAC"):
        frames.udp_frame(source_mac="02:00")
    with pytest.raises(ArgumentError, match="IP address"):
        frames.udp_frame(destination_ip="10.0.0")
