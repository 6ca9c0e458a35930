# SPDX-License-Identifier: Apache-2.0
"""One well-formed packet of each kind that is decoded, made by scapy."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, IPOption_Timestamp
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, GRE, GRE_PPTP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkHeartbeatReq, SCTPChunkInit
from scapy.layers.vxlan import VXLAN
from scapy.packet import Padding, Raw

E = Ether(src="02:11:22:33:44:55", dst="02:66:77:88:99:aa")


V4 = IP(src="10.1.2.3", dst="192.168.200.254", ttl=7, id=0xBEEF)


V6 = IPv6(src="2001:db8::1", dst="fe80::ff:fe00:2", hlim=9)


PACKETS = {
    "tcp": E / V4 / TCP(sport=40000, dport=443, flags="SEC", seq=0xFFFFFFFF, ack=0x80000000, window=65535),
    "tcp options": E / V4 / TCP(flags="PA", options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)]) / Raw(b"x" * 99),
    "tcp all flags": E / V4 / TCP(flags=0x1FF) / Raw(b"end"),
    "udp": E / V4 / UDP(sport=65535, dport=1) / Raw(b"payload"),
    "udp padded": E / V4 / UDP() / Raw(b"ab") / Padding(bytes(16)),
    "udp jumbo": E / V4 / UDP() / Raw(bytes(8900)),
    "ipv4 tos, flags": E / IP(tos=0xBB, flags="DF", id=0, ttl=255) / UDP() / Raw(b"1"),
    "ipv4 options": E / IP(options=[IPOption_Router_Alert(), IPOption_Timestamp()]) / UDP(sport=9) / Raw(b"opt"),
    "ipv4 first fragment": E / IP(flags="MF", id=77) / UDP(sport=5, dport=6, len=900) / Raw(bytes(64)),
    "ipv4 middle fragment": E / IP(flags="MF", frag=9, id=77, proto=17) / Raw(b"\1\2\3\4" * 10),
    "ipv4 last fragment": E / IP(frag=8191, id=77, proto=6) / Raw(b"\xff" * 24),
    "icmp echo": E / V4 / ICMP(type=8, id=0xABCD, seq=3) / Raw(bytes(56)),
    "icmp reply": E / V4 / ICMP(type=0, id=1, seq=65535),
    "icmp unreachable": E / V4 / ICMP(type=3, code=4) / V4 / UDP(sport=1, dport=2),
    "other protocol": E / IP(proto=89) / Raw(b"ospf hello, or so"),
    "sctp": E / V4 / SCTP(sport=36412, dport=2905) / SCTPChunkInit(),
    "sctp heartbeat": E / V6 / SCTP(sport=5, dport=6, tag=0xDEADBEEF) / SCTPChunkHeartbeatReq(),
    "sctp without chunks": E / V4 / SCTP(sport=5, dport=6, tag=1),
    "vxlan": E / V4 / UDP(sport=50000, dport=4789) / VXLAN(vni=0xABCDEF) / E / V4 / TCP(dport=80),
    "vxlan, linux": E / V6 / UDP(sport=50000, dport=8472) / VXLAN(vni=0, flags=0x88) / E / ARP(),
    "vxlan without vni": E / V4 / UDP(sport=50000, dport=4789) / VXLAN(flags=0) / E / ARP(),
    "gre": E / V4 / GRE() / V4 / UDP(sport=7),
    "gre key": E / V4 / GRE(key_present=1, key=0xFFFFFFFF, proto=0x86DD) / V6 / UDP(sport=7),
    "gre all": E / V6 / GRE(chksum_present=1, key_present=1, seqnum_present=1, key=7, sequence_number=9) / E / ARP(),
    "gre sequence": E / V4 / GRE(seqnum_present=1, proto=0x6558) / E / ARP(),
    "gre pptp": E / V4 / GRE_PPTP(seqnum_present=1, acknum_present=1, call_id=77, payload_len=4) / Raw(b"\xff\3\0!"),
    "ah": E / V4 / AH(nh=17, payloadlen=4, spi=9, icv=b"\0" * 12) / UDP(sport=500, dport=501) / Raw(b"safe"),
    "ipv6 ah": E / V6 / AH(nh=6, payloadlen=4, icv=b"\1" * 12) / TCP(sport=700),
    "ipv6 tcp": E / V6 / TCP(sport=1, dport=2, flags="A") / Raw(b"six"),
    "ipv6 udp": E / IPv6(tc=0x5D, fl=0xABCDE) / UDP(sport=7, dport=8) / Raw(b"flow"),
    "ipv6 echo": E / V6 / ICMPv6EchoRequest(id=5, seq=6, data=b"ping"),
    "ipv6 echo reply": E / V6 / ICMPv6EchoReply(id=0xFFFF, seq=0xFFFF),
    "ipv6 neighbour": E / V6 / ICMPv6ND_NS(tgt="fe80::1"),
    "ipv6 unreachable": E / V6 / ICMPv6DestUnreach(code=4) / V6 / UDP(),
    "ipv6 hop-by-hop": E / V6 / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 12)]) / UDP(sport=3) / Raw(b"h"),
    "ipv6 routing": E / V6 / IPv6ExtHdrRouting(addresses=["::1", "::2"]) / TCP(dport=22),
    "ipv6 destination": E / V6 / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(seq=8),
    "ipv6 chain": E
    / V6
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 100)])
    / IPv6ExtHdrRouting(addresses=["2001:db8::5"] * 9)
    / IPv6ExtHdrFragment(id=0xDEADBEEF, m=1)
    / IPv6ExtHdrDestOpt()
    / UDP(sport=1234, dport=4321, len=3000)
    / Raw(bytes(200)),
    "ipv6 later fragment": E / V6 / IPv6ExtHdrFragment(nh=17, offset=181, m=1, id=1) / Raw(b"\xee" * 50),
    "ipv6 last fragment": E / V6 / IPv6ExtHdrFragment(nh=6, offset=8191, m=0, id=0xFFFFFFFF) / Raw(b"\xdd" * 30),
    "ipv6 nothing": E / IPv6(nh=59),
    "vlan": E / Dot1Q(vlan=4095, prio=7) / V4 / UDP(sport=11) / Raw(b"v"),
    "vlan zero": E / Dot1Q(vlan=0, prio=3) / V6 / TCP(),
    "802.1ad": E / Dot1AD(vlan=100) / Dot1Q(vlan=200) / V4 / TCP(dport=80) / Raw(b"GET /"),
    "q in q": E / Dot1Q(vlan=1) / Dot1Q(vlan=2) / V6 / IPv6ExtHdrHopByHop() / UDP(dport=53) / Raw(b"?"),
    "vlan arp": E / Dot1Q(vlan=9) / ARP(op=2, hwsrc="02:00:00:00:00:09", psrc="10.0.0.9", pdst="10.0.0.1"),
    "arp": E / ARP(op=1, hwsrc="02:00:00:00:00:01", psrc="255.254.253.252", hwdst="ff:ff:ff:ff:ff:ff", pdst="1.2.3.4"),
    "lldp": Ether(dst="01:80:c2:00:00:0e", src="02:00:00:00:00:03", type=0x88CC) / Raw(b"\x02\x07\x04" + bytes(40)),
}
