# SPDX-License-Identifier: Apache-2.0
"""Expressions and packets on which the translation of filters is held against libpcap's own interpreter."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from toolkit.abi import libpcap
from toolkit.abi.libpcap import Instruction
from toolkit.filter.translate import translate_instructions

# Some EXPRESSIONS, such as `inbound`, cannot mean what they say, and each use warns of it: test_explain.py (tests/unit)
# checks that. They stay, because users write them; the tests with this mark check something else, of all of them.
some_warn = pytest.mark.filterwarnings("ignore::toolkit.filter.FilterWarning")

# What libpcap took up to 1.10 and refuses since, without a live capture or for Ethernet.
REFUSED_FROM_1_11 = frozenset(["ether proto 1500", "ifindex 1", "inbound", "outbound", "inbound or ip"])


def libpcap_version() -> tuple[int, ...]:
    """Of the libpcap here, as (1, 10, 3)."""
    found = re.search(rb"libpcap version ([\d.]+)", libpcap.libpcap().pcap_lib_version())
    assert found is not None
    return tuple(int(number) for number in found[1].split(b".") if number)


def spoken(expressions: Iterable[str]) -> list[str]:
    """Those of the language that the libpcap here speaks: all but what its version is known to refuse."""
    refused = REFUSED_FROM_1_11 if libpcap_version() >= (1, 11) else frozenset()
    return [expression for expression in expressions if expression not in refused]


EXPRESSIONS = spoken(
    """
ip
ip6
arp
rarp
tcp
udp
icmp
icmp6
igmp
sctp
esp
ah
pim
vrrp
not ip
ip or ip6
udp port 53
tcp port 80 or tcp port 443
port 53
not port 22
src port 1024
dst port 8080
portrange 1000-2000
udp src portrange 5000-6000
tcp dst portrange 79-81
host 10.0.0.1
src host 10.0.0.1
dst host 10.0.0.2
host 10.0.0.1 and not port 22
host 2001:db8::1
dst host 2001:db8::2
net 10.0.0.0/8
src net 192.168.0.0/16
dst net 172.16.0.0/12
net 10.1.0.0 mask 255.255.0.0
net 2001:db8::/32
ip host 10.0.0.1 and 10.0.0.2
arp host 10.0.0.1
ether host 02:00:00:00:00:01
ether src 02:00:00:00:00:01
ether dst 02:00:00:00:00:02
ether broadcast
ether multicast
ip multicast
ip6 multicast
ether proto 0x0800
ether proto 0x88cc
ip proto 6
ip proto 47
ip6 proto 17
ip6 proto 44
proto 89
ip protochain 6
ip6 protochain 6
ip6 protochain 17
protochain 17
vlan
vlan 100
vlan 100 and udp port 53
vlan and vlan 200 and tcp
vlan and not ip
mpls
mpls 100
mpls 100 and mpls 200
mpls and ip
pppoed
pppoes
pppoes and ip
pppoes 7 and tcp port 80
geneve
geneve 42
geneve and ip
less 64
greater 100
less 60 or greater 1000
len = 60
len > 100 and len < 200
len - 14 > 50
ip[0] = 0x45
ip[0] & 0xf > 5
ip[6:2] & 0x1fff = 0
ip[6:2] & 0x3fff != 0
ip[8] < 10
ip[2:2] > 500
ip[ip[0] & 0xf] != 3
ip[2:2] - ((ip[0] & 0xf) << 2) > 20
ether[0] & 1 = 1
ether[12:2] > 1500
ether[12:2] <= 1500
ether[len - 1] = 0
ether[len - 4:4] = 0
ether[100:4] = 0
ether[70000] = 0
ether[2147483647] = 0
not ether[100] = 0
tcp[tcpflags] & tcp-syn != 0
tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not src net 10.0.0.0/8
tcp[13] = 2
tcp[12] >> 4 > 5
tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420
tcp[0:2] > tcp[2:2]
udp[4:2] > 100
udp[8:4] = 0
udp[8] = 0 or udp[9] = 1
icmp[icmptype] = icmp-echo
icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply
icmp[0] = 3 and icmp[1] = 4
icmp6[icmp6type] = 128
ip6[6] = 17
ip6[40:2] = 53
ip[9] / 2 = 3
ip[9] % 4 = 1
ip[9] * 3 = 18
ip[9] ^ 17 = 0
ip[9] | 1 = 17
60 / ip[9] = 10
60 % ip[9] = 9
ether[0] / ether[1] = 0
ether[0] % ether[1] = 0
ether[0] << ether[1] = 0
1 << ip[9] = 64
0xffffffff >> ip[8] = 0
ip[12:4] << ip[8] = 0
-ip[9] = 0xfffffffa
ip[9] - 7 = 0xffffffff
ip[9] - 7 > 0
(ip[12:4] & 0xff000000) = 0x0a000000 and (tcp or udp)
inbound
outbound
inbound or ip
stp
iso
ipx
atalk
ether proto 0x8863 or ether proto 0x8864
ip and not tcp and not udp and not icmp
(tcp or udp) and (port 53 or port 80 or port 443) and (net 10.0.0.0/8 or net 192.168.0.0/16)
""".strip().splitlines()
)

# Code that libpcap rarely or never writes itself, and its meaning all the same: (name, instructions).
YES, NO = (0x06, 0, 0, 1), (0x06, 0, 0, 0)  # ret #1, ret #0
BY_HAND: list[tuple[str, list[Instruction]]] = [
    ("accept by A", [(0x28, 0, 0, 12), (0x16, 0, 0, 0)]),
    ("return zero", [NO]),
    (
        "shift by X of 32 or more",
        [(0x30, 0, 0, 14), (0x07, 0, 0, 0), (0x00, 0, 0, 1), (0x6C, 0, 0, 0), (0x16, 0, 0, 0)],
    ),
    ("right shift by X", [(0x30, 0, 0, 14), (0x07, 0, 0, 0), (0x20, 0, 0, 0), (0x7C, 0, 0, 0), (0x16, 0, 0, 0)]),
    ("divide by X", [(0x30, 0, 0, 14), (0x07, 0, 0, 0), (0x00, 0, 0, 100), (0x3C, 0, 0, 0), (0x16, 0, 0, 0)]),
    ("modulo X", [(0x30, 0, 0, 14), (0x07, 0, 0, 0), (0x00, 0, 0, 100), (0x9C, 0, 0, 0), (0x16, 0, 0, 0)]),
    ("X is 0, no match", [(0x30, 0, 0, 14), (0x07, 0, 0, 0), (0x00, 0, 0, 1), (0x3C, 0, 0, 0), YES]),
    ("modulo 0, no match", [(0x30, 0, 0, 14), (0x07, 0, 0, 0), (0x00, 0, 0, 1), (0x9C, 0, 0, 0), YES]),
    ("negate", [(0x30, 0, 0, 14), (0x84, 0, 0, 0), (0x35, 0, 1, 0xFFFFFF80), YES, NO]),
    ("subtraction wraps", [(0x30, 0, 0, 14), (0x14, 0, 0, 200), (0x25, 0, 1, 300), YES, NO]),
    ("memory", [(0x30, 0, 0, 14), (0x02, 0, 0, 3), (0x30, 0, 0, 15), (0x61, 0, 0, 3), (0x1D, 0, 1, 0), YES, NO]),
    ("stx", [(0xB1, 0, 0, 14), (0x03, 0, 0, 0), (0x60, 0, 0, 0), (0x87, 0, 0, 0), (0x15, 0, 1, 20), YES, NO]),
    ("msh at the end", [(0xB1, 0, 0, 60), YES]),
    ("length in X", [(0x81, 0, 0, 0), (0x87, 0, 0, 0), (0x25, 0, 1, 100), YES, NO]),
    ("an index that would wrap", [(0x01, 0, 0, 0xFFFFFFF8), (0x48, 0, 0, 20), YES]),
    (
        "an index past 32 bits, whose lower half is a place",
        [(0x01, 0, 0, 0xFFFFFFFF), (0x50, 0, 0, 20), (0x15, 0, 1, 0), YES, YES],
    ),
    ("a load far past the end", [(0x20, 0, 0, 0x10000), YES]),
    ("an index up to the end", [(0x80, 0, 0, 0), (0x14, 0, 0, 4), (0x07, 0, 0, 0), (0x40, 0, 0, 0), YES]),
    ("an index past the end", [(0x80, 0, 0, 0), (0x14, 0, 0, 3), (0x07, 0, 0, 0), (0x40, 0, 0, 0), YES]),
    ("a load of one byte too many", [(0x20, 0, 0, 57), YES]),
    ("a load of the last bytes", [(0x20, 0, 0, 56), YES]),
    ("ja", [(0x05, 0, 0, 1), NO, YES]),
    ("jgt", [(0x30, 0, 0, 14), (0x25, 0, 1, 14), YES, NO]),
    ("jset by X", [(0x30, 0, 0, 14), (0x07, 0, 0, 0), (0x30, 0, 0, 15), (0x4D, 0, 1, 0), YES, NO]),
]


def _crafted() -> list[bytes]:
    """One packet of every kind that an expression speaks of."""
    from scapy.contrib.geneve import GENEVE
    from scapy.contrib.mpls import MPLS
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
    from scapy.layers.inet6 import (
        ICMPv6EchoRequest,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
    )
    from scapy.layers.ipsec import AH
    from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot1AD, Dot1Q, Ether
    from scapy.layers.ppp import PPP, PPPoE
    from scapy.layers.sctp import SCTP
    from scapy.packet import Packet, Raw

    one, two = "02:00:00:00:00:01", "02:00:00:00:00:02"
    ether = Ether(src=one, dst=two)
    v4, v6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
    far = IP(src="192.168.1.1", dst="172.16.3.4", ttl=3)
    payload = Raw(b"GET / HTTP/1.1\r\n\r\n")
    transport: list[Packet] = [
        TCP(sport=1024, dport=80, flags="S"),
        TCP(sport=40000, dport=443, flags="FA") / payload,
        TCP(sport=22, dport=1500, flags="A", options=[("NOP", None), ("MSS", 1460)]) / payload,
        UDP(sport=5353, dport=53) / Raw(bytes(30)),
        UDP(sport=53, dport=8080) / Raw(bytes(200)),
        UDP(sport=1999, dport=6081) / GENEVE(vni=42) / ether / v4 / UDP(sport=1, dport=53),
    ]
    protocols: list[Packet] = [base / t for base in (v4, far, v6) for t in transport]
    protocols += [
        v4 / ICMP(type=8),
        v4 / ICMP(type=0),
        v4 / ICMP(type=3, code=4),
        v6 / ICMPv6EchoRequest(),
        v4 / SCTP(sport=1024, dport=53),
        v4 / GRE() / IP() / UDP(),
        v4 / AH(nh=6, payloadlen=4) / TCP(dport=80),
        IP(src="10.1.2.3", dst="224.0.0.18", proto=112) / Raw(bytes(8)),
        IP(src="10.1.2.3", dst="224.0.0.1", proto=2) / Raw(bytes(8)),
        IP(dst="10.0.0.2", proto=103) / Raw(bytes(8)),
        IP(dst="10.0.0.2", proto=89) / Raw(bytes(8)),
        IP(dst="10.0.0.2", proto=50) / Raw(bytes(40)),
        IP(dst="255.255.255.255") / UDP(sport=68, dport=67) / Raw(bytes(300)),
        IP(src="10.0.0.1", dst="10.0.0.2", options=IPOption(b"\x94\x04\x00\x00")) / TCP(sport=80, dport=1024),
        IP(src="10.0.0.1", dst="10.0.0.2", options=IPOption(b"\x01" * 40)) / UDP(sport=53, dport=53),
        IP(src="10.0.0.1", dst="10.0.0.2", flags="MF", frag=0) / UDP(sport=53, dport=53) / Raw(bytes(64)),
        IP(src="10.0.0.1", dst="10.0.0.2", frag=100, proto=17) / Raw(bytes(64)),
        v6 / IPv6ExtHdrHopByHop() / TCP(sport=1024, dport=80),
        v6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=53, dport=53),
        v6 / IPv6ExtHdrFragment(offset=0, m=1) / UDP(sport=53, dport=53) / Raw(bytes(24)),
        v6 / IPv6ExtHdrFragment(offset=10) / Raw(bytes(24)),
        IPv6(src="fe80::1", dst="ff02::1") / ICMPv6EchoRequest(),
    ]
    plain = [ether / p for p in protocols]
    plain += [
        Ether(src=one, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
        Ether(src=one, dst=two, type=0x8035) / ARP(op=3, psrc="10.0.0.1"),
        Ether(src=one, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(46)),
        ether / Raw(bytes(46)),
        ether / PPPoE(sessionid=7) / PPP(proto=0x21) / v4 / TCP(dport=80),
        Ether(src=one, dst=two, type=0x8863) / Raw(bytes(46)),
        ether / MPLS(label=100, s=1) / v4 / UDP(dport=53),
        ether / MPLS(label=100, s=0) / MPLS(label=200, s=1) / v4 / TCP(dport=80),
    ]
    tagged = [Ether(src=one, dst=two) / Dot1Q(vlan=100) / p for p in protocols[::3]]
    tagged += [Ether(src=one, dst=two) / Dot1AD(vlan=100) / Dot1Q(vlan=200) / p for p in protocols[::4]]
    from scapy.layers.l2 import Dot3

    logical = [Dot3(src=one, dst="01:80:c2:00:00:00") / LLC() / STP()]
    source = bytes.fromhex("020000000002020000000001")
    raw = [
        source + bytes.fromhex("0030fefe03") + bytes(45),  # ISO over LLC
        source + bytes.fromhex("8137ffff") + bytes(44),  # IPX
        source + bytes.fromhex("809b") + bytes(46),  # AppleTalk
    ]
    every: list[Any] = [*plain, *tagged, *logical, *raw]
    return [bytes(one) for one in every]


def packets(count: int = 1000, seed: int = 1) -> list[bytes]:
    """Well-formed packets, the same cut off anywhere or with bytes changed, and noise. All of 14 to 1500 B."""
    dice = random.Random(seed)
    crafted = [p for p in _crafted() if len(p) >= 14]
    found = list(crafted)
    while len(found) < count:
        packet = bytearray(dice.choice(crafted))
        kind = dice.randrange(4)
        if kind == 0:
            del packet[dice.randint(14, max(14, len(packet))) :]
        elif kind == 1:
            for _ in range(dice.randint(1, 6)):
                packet[dice.randrange(len(packet))] = dice.randrange(256)
        elif kind == 2:
            packet += dice.randbytes(dice.randint(0, 1400))
            del packet[1500:]
        else:
            packet[12:] = dice.choice([b"\x08\x00", b"\x86\xdd", b"\x81\x00", b""]) + dice.randbytes(
                dice.randint(2, 200)
            )
        found.append(bytes(packet))
    return found[:count]


def harness(programs: Sequence[Sequence[Instruction]], *, frags: bool = False) -> str:
    """C text with one XDP program `run<i>` for each classic one: XDP_TX where it matches, XDP_PASS where not."""
    text = ["#include <uapi/linux/bpf.h>"]
    for i, program in enumerate(programs):
        text += [
            translate_instructions(program, f"match{i}", frags=frags),
            f"int run{i}(struct xdp_md *ctx)",
            "{",
            f"\treturn match{i}(ctx) ? XDP_TX : XDP_PASS;",
            "}",
        ]
    return "\n".join(text) + "\n"
