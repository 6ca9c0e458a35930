# SPDX-License-Identifier: Apache-2.0
"""Single frames as bytes: Ethernet, VLAN, ARP, IPv4, IPv6, UDP, TCP and ICMP.

Small functions that put one header in front of a payload, innermost first, and whole frames for the common cases.
Lengths are bytes without the frame check sequence. Addresses are strings; checksums are correct.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence

from toolkit.errors import ArgumentError
from toolkit.packets.checksum import checksum_of

__all__ = [
    "ETH_P_8021AD",
    "ETH_P_8021Q",
    "ETH_P_ARP",
    "ETH_P_IP",
    "ETH_P_IPV6",
    "FAR_MAC",
    "IPPROTO_ICMP",
    "IPPROTO_ICMPV6",
    "IPPROTO_TCP",
    "IPPROTO_UDP",
    "NEAR_MAC",
    "arp",
    "echo_frame",
    "ethernet",
    "icmp",
    "icmpv6",
    "ipv4",
    "ipv6",
    "tcp",
    "tcp_frame",
    "udp",
    "udp_frame",
]

# linux/if_ether.h, netinet/in.h
ETH_P_IP, ETH_P_ARP, ETH_P_8021Q, ETH_P_IPV6, ETH_P_8021AD = 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8
IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6 = 1, 6, 17, 58

# The addresses of a Lab: by default a frame goes from its far end to its near end.
NEAR_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
NEAR_IP, FAR_IP = "10.11.0.1", "10.11.0.2"
NEAR_IP6, FAR_IP6 = "fd11::1", "fd11::2"


def mac_bytes(mac: str) -> bytes:
    """Return the six bytes of an address like "02:00:00:00:00:01"; ArgumentError for anything else."""
    octets = b""
    with contextlib.suppress(ValueError):
        octets = bytes.fromhex(mac.replace(":", ""))
    if len(octets) != 6:
        raise ArgumentError(f"{mac!r} is not a MAC address. Next step: give six bytes such as 02:00:00:00:00:01.")
    return octets


def ip_bytes(ip: str) -> bytes:
    """Return the four or sixteen bytes of an IPv4 or IPv6 address; ArgumentError for anything else."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    except OSError as refused:
        raise ArgumentError(
            f"{ip!r} is not an IP address. Next step: give one such as 192.0.2.1 or 2001:db8::1."
        ) from refused


def _with_checksum(segment: bytes, at: int, pseudo: bytes) -> bytes:
    value = checksum_of(pseudo + segment)
    return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    """Return the pseudo header that transport checksums cover."""
    addresses = ip_bytes(source) + ip_bytes(destination)
    return addresses + struct.pack("!IHBB", length, 0, 0, protocol)


def ethernet(
    payload: bytes,
    ethertype: int,
    *,
    source: str = FAR_MAC,
    destination: str = NEAR_MAC,
    vlans: Sequence[int] = (),
) -> bytes:
    """Return an Ethernet frame. vlans: tag control values, outermost first; all but the innermost tag are 802.1ad."""
    tags = b""
    for position, tag in enumerate(vlans):
        tags += struct.pack("!HH", ETH_P_8021Q if position == len(vlans) - 1 else ETH_P_8021AD, tag)
    return mac_bytes(destination) + mac_bytes(source) + tags + struct.pack("!H", ethertype) + payload


def arp(
    operation: int = 1,
    *,
    source_mac: str = FAR_MAC,
    source_ip: str = FAR_IP,
    target_mac: str = "00:00:00:00:00:00",
    target_ip: str = NEAR_IP,
) -> bytes:
    """Return an ARP packet for Ethernet and IPv4. operation: 1 is a request, 2 a reply."""
    head = struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, operation)
    return head + mac_bytes(source_mac) + ip_bytes(source_ip) + mac_bytes(target_mac) + ip_bytes(target_ip)


def ipv4(
    payload: bytes,
    protocol: int,
    *,
    source: str = FAR_IP,
    destination: str = NEAR_IP,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 0,
    fragment: int = 0x4000,
    options: bytes = b"",
) -> bytes:
    """Return an IPv4 packet. fragment: flags and offset (0x4000: do not fragment). options.

    A multiple of four bytes.
    """
    words = 5 + len(options) // 4
    length = words * 4 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x40 | words, tos, length, identification, fragment, ttl, protocol, 0)
    head += ip_bytes(source) + ip_bytes(destination) + options
    return _with_checksum(head, 10, b"") + payload


def ipv6(
    payload: bytes,
    next_header: int,
    *,
    source: str = FAR_IP6,
    destination: str = NEAR_IP6,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow_label: int = 0,
) -> bytes:
    """Return an IPv6 packet; extension headers are part of the payload."""
    first = 6 << 28 | traffic_class << 20 | flow_label
    head = struct.pack("!IHBB", first, len(payload), next_header, hop_limit)
    return head + ip_bytes(source) + ip_bytes(destination) + payload


def udp(
    payload: bytes, source_port: int, destination_port: int, *, source: str = FAR_IP, destination: str = NEAR_IP
) -> bytes:
    """Return a UDP datagram; the addresses (of either family) are for its checksum."""
    length = 8 + len(payload)
    segment = struct.pack("!HHHH", source_port, destination_port, length, 0) + payload
    segment = _with_checksum(segment, 6, _pseudo(source, destination, IPPROTO_UDP, length))
    # A computed checksum of zero is sent as all ones: zero in the packet means that there is none.
    return segment if segment[6:8] != b"\0\0" else segment[:6] + b"\xff\xff" + segment[8:]


def tcp(
    payload: bytes,
    source_port: int,
    destination_port: int,
    *,
    source: str = FAR_IP,
    destination: str = NEAR_IP,
    sequence: int = 0,
    acknowledgment: int = 0,
    flags: int = 0x02,
    window: int = 65535,
    options: bytes = b"",
) -> bytes:
    """Return a TCP segment. flags: FIN 1, SYN 2, RST 4, PSH 8, ACK 16. options: a multiple of four bytes."""
    offset = (5 + len(options) // 4) << 4
    ports = struct.pack("!HHII", source_port, destination_port, sequence, acknowledgment)
    segment = ports + struct.pack("!BBHHH", offset, flags, window, 0, 0) + options + payload
    return _with_checksum(segment, 16, _pseudo(source, destination, IPPROTO_TCP, len(segment)))


def icmp(payload: bytes = b"", *, kind: int = 8, code: int = 0, rest: int = 0) -> bytes:
    """Return an ICMP message. kind: 8 is an echo request, with `rest` (the second word) identifier << 16 | sequence."""
    return _with_checksum(struct.pack("!BBHI", kind, code, 0, rest) + payload, 2, b"")


def icmpv6(
    payload: bytes = b"",
    *,
    kind: int = 128,
    code: int = 0,
    rest: int = 0,
    source: str = FAR_IP6,
    destination: str = NEAR_IP6,
) -> bytes:
    """Return an ICMPv6 message. kind: 128 is an echo request, with `rest` identifier << 16 | sequence."""
    message = struct.pack("!BBHI", kind, code, 0, rest) + payload
    return _with_checksum(message, 2, _pseudo(source, destination, IPPROTO_ICMPV6, len(message)))


def _far(destination: str) -> str:
    """Return the far end's address of the same family as `destination`."""
    return FAR_IP6 if ":" in destination else FAR_IP


def _wrap(
    segment: bytes, protocol: int, source_ip: str, destination_ip: str, macs: tuple[str, str], vlans: Sequence[int]
) -> bytes:
    if ":" in destination_ip:
        packet, ethertype = ipv6(segment, protocol, source=source_ip, destination=destination_ip), ETH_P_IPV6
    else:
        packet, ethertype = ipv4(segment, protocol, source=source_ip, destination=destination_ip), ETH_P_IP
    return ethernet(packet, ethertype, source=macs[0], destination=macs[1], vlans=vlans)


def _filled(payload: bytes, size: int | None, head: int) -> bytes:
    """Return `payload` with zeros behind it, so that a frame with `head` bytes of headers is `size` bytes long."""
    if size is None:
        return payload
    if size < head + len(payload):
        raise ArgumentError(
            f"a frame of {size} bytes is too small for {head} bytes of headers and {len(payload)} of payload. "
            f"Next step: give a size of {head + len(payload)} or more, or a shorter payload."
        )
    return payload.ljust(size - head, b"\0")


def udp_frame(
    payload: bytes = b"",
    *,
    size: int | None = None,
    source_port: int = 1024,
    destination_port: int = 9,
    source_ip: str | None = None,
    destination_ip: str = NEAR_IP,
    source_mac: str = FAR_MAC,
    destination_mac: str = NEAR_MAC,
    vlans: Sequence[int] = (),
) -> bytes:
    """Return a whole UDP frame over IPv4 or IPv6. size: bytes, filled up with zeros."""
    head = 14 + 4 * len(vlans) + (40 if ":" in destination_ip else 20) + 8
    source_ip = source_ip or _far(destination_ip)
    datagram = udp(
        _filled(payload, size, head), source_port, destination_port, source=source_ip, destination=destination_ip
    )
    return _wrap(datagram, IPPROTO_UDP, source_ip, destination_ip, (source_mac, destination_mac), vlans)


def tcp_frame(
    payload: bytes = b"",
    *,
    size: int | None = None,
    flags: int = 0x02,
    source_port: int = 1024,
    destination_port: int = 9,
    source_ip: str | None = None,
    destination_ip: str = NEAR_IP,
    source_mac: str = FAR_MAC,
    destination_mac: str = NEAR_MAC,
    vlans: Sequence[int] = (),
) -> bytes:
    """Return a whole TCP frame over IPv4 or IPv6. size: bytes, filled up with zeros."""
    head = 14 + 4 * len(vlans) + (40 if ":" in destination_ip else 20) + 20
    payload = _filled(payload, size, head)
    source_ip = source_ip or _far(destination_ip)
    segment = tcp(payload, source_port, destination_port, source=source_ip, destination=destination_ip, flags=flags)
    return _wrap(segment, IPPROTO_TCP, source_ip, destination_ip, (source_mac, destination_mac), vlans)


def echo_frame(
    payload: bytes = b"",
    *,
    size: int | None = None,
    identifier: int = 1,
    sequence: int = 1,
    source_ip: str | None = None,
    destination_ip: str = NEAR_IP,
    source_mac: str = FAR_MAC,
    destination_mac: str = NEAR_MAC,
    vlans: Sequence[int] = (),
) -> bytes:
    """Return a whole ICMP or ICMPv6 echo request, by the family of destination_ip. size: bytes, filled with zeros."""
    six = ":" in destination_ip
    payload = _filled(payload, size, 14 + 4 * len(vlans) + (40 if six else 20) + 8)
    rest = identifier << 16 | sequence
    source_ip = source_ip or _far(destination_ip)
    if six:
        message, protocol = icmpv6(payload, rest=rest, source=source_ip, destination=destination_ip), IPPROTO_ICMPV6
    else:
        message, protocol = icmp(payload, rest=rest), IPPROTO_ICMP
    return _wrap(message, protocol, source_ip, destination_ip, (source_mac, destination_mac), vlans)
