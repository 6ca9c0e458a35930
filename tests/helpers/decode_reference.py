# SPDX-License-Identifier: Apache-2.0
"""One packet at a time, byte by byte, without NumPy: what toolkit.decode must say, written as plainly as possible."""

from __future__ import annotations

TAGS = (0x8100, 0x88A8, 0x9100)
PORTED = (6, 17, 132, 136)
ECHO = (0, 8, 13, 14, 128, 129)


def reference(packet: bytes) -> dict[str, int | bytes]:
    """Every column of one packet."""
    row: dict[str, int | bytes] = dict.fromkeys(NAMES, -1)
    row |= {"length": len(packet), "ip6_src": bytes(16), "ip6_dst": bytes(16), "truncated": False, "valid": True}
    if len(packet) < 14:
        return row | {"truncated": True, "valid": False}
    row |= {"eth_dst": number(packet[0:6]), "eth_src": number(packet[6:12])}
    kind, at = number(packet[12:14]), 14
    for name in ("vlan", "vlan_inner"):
        if kind in TAGS and len(packet) >= at + 4:
            row[name] = number(packet[at : at + 2]) & 0xFFF
            kind, at = number(packet[at + 2 : at + 4]), at + 4
    row |= {"ethertype": kind, "payload_offset": at, "payload_len": len(packet) - at}
    least = 4 if kind in TAGS else {0x0806: 28, 0x0800: 20, 0x86DD: 40}.get(kind, 0)
    if len(packet) < at + least:
        return row | {"truncated": True, "valid": False}
    if kind == 0x0806:
        arp(row, packet[at:])
    elif kind == 0x0800:
        ipv4(row, packet, at)
    elif kind == 0x86DD:
        ipv6(row, packet, at)
    return row


def number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def arp(row: dict[str, int | bytes], body: bytes) -> None:
    if body[2:6] != b"\x08\x00\x06\x04":
        row["valid"] = False
        return
    row |= {"arp_op": number(body[6:8]), "arp_sender_mac": number(body[8:14]), "arp_sender_ip": number(body[14:18])}
    row |= {"arp_target_mac": number(body[18:24]), "arp_target_ip": number(body[24:28])}


def ipv4(row: dict[str, int | bytes], packet: bytes, at: int) -> None:
    ip = packet[at:]
    if ip[0] >> 4 != 4:
        row["valid"] = False
        return
    header, total, fragment = (ip[0] & 15) * 4, number(ip[2:4]), number(ip[6:8])
    row |= {"ip_version": 4, "ip_dscp": ip[1] >> 2, "ip_ecn": ip[1] & 3, "ip_len": total, "ip_id": number(ip[4:6])}
    row |= {"ip_flags": fragment >> 13, "ip_fragment_offset": (fragment & 0x1FFF) * 8, "ip_ttl": ip[8]}
    row |= {"ip_proto": ip[9], "ip_src": number(ip[12:16]), "ip_dst": number(ip[16:20])}
    total = total or len(ip)
    follow(row, packet, at + header, at + total, broken=header < 20 or min(total, len(ip)) < header)


def ipv6(row: dict[str, int | bytes], packet: bytes, at: int) -> None:
    ip = packet[at:]
    if ip[0] >> 4 != 6:
        row["valid"] = False
        return
    flow, payload = number(ip[0:4]), number(ip[4:6])
    row |= {"ip_version": 6, "ip_dscp": flow >> 22 & 63, "ip_ecn": flow >> 20 & 3, "ip6_flow_label": flow & 0xFFFFF}
    row |= {"ip_len": payload + 40, "ip_flags": 0, "ip_fragment_offset": 0, "ip_ttl": ip[7], "ip_proto": ip[6]}
    row |= {"ip6_src": ip[8:24], "ip6_dst": ip[24:40]}
    jumbo = payload == 0 and ip[6] == 0
    follow(row, packet, at + 40, len(packet) if jumbo else at + 40 + payload)


def follow(row: dict[str, int | bytes], packet: bytes, at: int, declared: int, broken: bool = False) -> None:
    """Extension headers, then the transport header."""
    row["truncated"] = declared > len(packet)
    end = min(declared, len(packet))
    walked = (51,) if row["ip_version"] == 4 else (0, 43, 44, 51, 60)
    rounds = 0
    while not broken and row["ip_fragment_offset"] == 0 and row["ip_proto"] in walked:
        raw = packet[at:end]
        size = 8 if row["ip_proto"] == 44 else 0 if len(raw) < 2 else (raw[1] + 1) * 8
        if row["ip_proto"] == 51 and len(raw) >= 2:
            size = (raw[1] + 2) * 4
        if len(raw) < max(size, 2) or rounds == 8:
            broken = True
            break
        if row["ip_proto"] == 44:
            row |= {"ip_fragment_offset": number(raw[2:4]) & 0xFFF8, "ip_flags": raw[3] & 1, "ip_id": number(raw[4:8])}
        row["ip_proto"] = raw[0]
        at += size
        rounds += 1
    at_most = min(at, end)
    row |= {"payload_offset": at_most, "payload_len": end - at_most}
    if broken:
        row["valid"] = False
    elif row["ip_fragment_offset"] == 0:
        transport(row, packet[at:end], at, declared - at)


def transport(row: dict[str, int | bytes], body: bytes, at: int, space: int) -> None:
    protocol = row["ip_proto"]
    size = {1: 8, 58: 8, 17: 8, 136: 8, 132: 12, 6: 20, 47: 4}.get(int(protocol), 0)
    if protocol in PORTED and len(body) >= 4:
        row |= {"src_port": number(body[0:2]), "dst_port": number(body[2:4])}
    if protocol in (1, 58) and len(body) >= 4:
        row |= {"icmp_type": body[0], "icmp_code": body[1]}
    if protocol in (1, 58) and len(body) >= 8 and body[0] in ECHO:
        row |= {"icmp_id": number(body[4:6]), "icmp_seq": number(body[6:8])}
    if protocol in (17, 136) and len(body) >= 8:
        row["udp_len"] = length = number(body[4:6])
        whole = int(row["ip_flags"]) & 1 == 0
        if protocol == 17 and whole and (length > space or 0 < length < 8):
            row["valid"] = False
    if protocol == 17 and len(body) >= 16 and row["dst_port"] in (4789, 8472) and body[8] & 8:
        row["vxlan_vni"] = number(body[12:15])
        size = 16
    if protocol == 6 and len(body) >= 20:
        row |= {"tcp_seq": number(body[4:8]), "tcp_ack": number(body[8:12]), "tcp_flags": number(body[12:14]) & 0x1FF}
        row["tcp_window"] = number(body[14:16])
        size = (body[12] >> 4) * 4
    if protocol == 132 and len(body) >= 12:
        row["sctp_vtag"] = number(body[4:8])
        if len(body) >= 16:
            row["sctp_chunk"] = body[12]
    if protocol == 47 and len(body) >= 4:
        size = gre(row, body)
    if size > len(body) or (protocol == 6 and size < 20) or (protocol == 47 and size < 4):
        row["valid"] = False
    else:
        row |= {"payload_offset": at + size, "payload_len": len(body) - size}


def gre(row: dict[str, int | bytes], body: bytes) -> int:
    """Bytes of the GRE header, 0 when it cannot be walked over."""
    flags = number(body[0:2])
    row["gre_proto"] = number(body[2:4])
    if flags & 7 > 1 or flags & 0x4000:
        return 0
    size = key_at = 8 if flags & 0x8000 else 4
    size += 4 * ((flags >> 13 & 1) + (flags >> 12 & 1))
    if flags & 7 == 1 and flags & 0x80:
        size += 4
    if flags & 0x2000 and size <= len(body):
        row["gre_key"] = number(body[key_at : key_at + 4])
    return size


NAMES = [
    "length",
    "eth_dst",
    "eth_src",
    "ethertype",
    "vlan",
    "vlan_inner",
    "arp_op",
    "arp_sender_mac",
    "arp_sender_ip",
    "arp_target_mac",
    "arp_target_ip",
    "ip_version",
    "ip_src",
    "ip_dst",
    "ip6_src",
    "ip6_dst",
    "ip_proto",
    "ip_ttl",
    "ip_len",
    "ip_id",
    "ip_dscp",
    "ip_ecn",
    "ip_flags",
    "ip_fragment_offset",
    "ip6_flow_label",
    "src_port",
    "dst_port",
    "tcp_flags",
    "tcp_seq",
    "tcp_ack",
    "tcp_window",
    "udp_len",
    "icmp_type",
    "icmp_code",
    "icmp_id",
    "icmp_seq",
    "sctp_vtag",
    "sctp_chunk",
    "vxlan_vni",
    "gre_proto",
    "gre_key",
    "payload_offset",
    "payload_len",
    "truncated",
    "valid",
]
