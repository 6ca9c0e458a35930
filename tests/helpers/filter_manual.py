# SPDX-License-Identifier: Apache-2.0
"""Expressions after pcap-filter(7): its own examples, every primitive in every form, and random combinations of them.

Where the manual has names of hosts and services, these have addresses and numbers: a test asks no DNS.
"""

from __future__ import annotations

from hypothesis import strategies as st

from toolkit.abi import libpcap
from toolkit.filter.classic import reads_unwritten

# The manual's examples, sentence by sentence: qualifiers, primitives, expressions, the section of examples.
EXAMPLES = """
host 10.0.0.1
net 128.3
port 20
portrange 6000-6008
src 10.0.0.1
dst net 128.3
src or dst port 20
ether src 02:00:00:00:00:01
arp net 128.3
tcp port 21
udp portrange 7000-7009
wlan src 02:00:00:00:00:01
src 10.0.0.1 or src 10.0.0.2
net 10 and net 11
tcp or udp port 80
host 10.0.0.1 and not port 21 and not port 20
tcp dst port 21 or 20 or 53
tcp dst port 21 or tcp dst port 20 or tcp dst port 53
ip host 10.0.0.1
ether proto \\ip and host 10.0.0.1
ether host 02:00:00:00:00:01 and not host 10.0.0.1
net 192.168.1.0
net 192.168.1
net 172.16
net 10
tcp src port 80
ip6 protochain 6
vlan 100 && vlan 200
vlan && vlan 300 && ip
mpls 100000 && mpls 1024
mpls && mpls 1024 && host 192.9.200.1
pppoes && ip
pppoes 0x27 && ip
geneve 0xb && ip
not host 10.0.0.1 and 10.0.0.2
not host 10.0.0.1 and host 10.0.0.2
not ( host 10.0.0.1 or 10.0.0.2 )
ether[0] & 1 != 0
ip[0] & 0xf != 5
ip[6:2] & 0x1fff = 0
host 10.0.0.1 and (10.0.0.2 or 10.0.0.3)
ip host 10.0.0.1 and not 10.0.0.2
net 10.0.0.0/8
ether host 02:00:00:00:00:01 and not host 10.0.0.1 and (port 21 or 20)
ip and not net 10.0.0.0/8
tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not src and dst net 10.0.0.0/8
tcp[tcpflags] & (tcp-rst|tcp-ack) == (tcp-rst|tcp-ack)
tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)
ether host 02:00:00:00:00:01 and ip[2:2] > 576
ether[0] & 1 = 0 and ip[16] >= 224
icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply
icmp6[icmp6type] != icmp6-echo and icmp6[icmp6type] != icmp6-echoreply
""".strip().splitlines()

# What the manual describes without an example, and forms that differ in the code they become.
PRIMITIVES = """
dst host 10.0.0.2
src host 2001:db8::1
src or dst host 10.0.0.1
src and dst host 10.0.0.1
dst 10.0.0.2
rarp host 10.0.0.1
arp src host 10.0.0.1
arp dst net 10.0.0.0/8
rarp net 10
ip src net 10.0.0.0/24
ip6 src net 2001:db8::/64
ip6 host 2001:db8::2
ip6 net fe80::/10
src and dst net 10
dst net 0.0.0.0/0
net 10.0.0.1/32
net ::/0
host 0.0.0.0
host 255.255.255.255
host ::1
ether dst ff:ff:ff:ff:ff:ff
ether src or dst 02:00:00:00:00:02
ether src and dst 02:00:00:00:00:02
fddi host 02:00:00:00:00:01
tr src 02:00:00:00:00:01
wlan host 02:00:00:00:00:02
wlan dst 02:00:00:00:00:02
port 0
port 65535
src or dst port 53
src and dst port 53
sctp port 53
sctp src port 1024
tcp src or dst port 443
portrange 0-65535
src portrange 1-1023
dst portrange 53-53
src or dst portrange 50-60
src and dst portrange 50-60
portrange 2000-1000
sctp portrange 1-100
udp dst portrange 6081-6081
less 0
greater 0
greater 65535
ip proto 1
ip proto \\icmp
ip proto \\tcp or \\udp
ip6 proto 58
ip6 proto 6
ip6 proto 0
ip6 proto 50
proto 1
proto \\udp
proto 132
proto 255
ip proto 0
ip protochain 17
ip protochain 51
ip6 protochain 58
ip6 protochain 60
ip6 protochain 59
protochain 6
protochain 1
ah or esp or pim
carp
broadcast
multicast
not broadcast and not multicast
ether proto 0
ether proto 1500
ether proto 1501
ether proto 0xffff
ether proto \\ip6
ether proto \\arp
ether proto \\rarp
ether proto \\atalk
ether proto \\aarp
ether proto \\decnet
ether proto \\stp
ether proto \\ipx
ether proto \\iso
ether proto \\netbeui
ether proto \\lat
ether proto \\moprc
ether proto \\mopdl
ether proto \\sca
ether proto \\loopback
aarp
decnet
decnet src 10.15
decnet dst 10.15
decnet host 10.15
lat
moprc
mopdl
sca
netbeui
llc
llc i
llc s
llc u
llc rr
llc rnr
llc rej
llc ui
llc ua
llc disc
llc sabme
llc test
llc xid
llc frmr
llc dm
ifindex 1
iso proto 0x82
iso proto \\clnp
iso proto \\esis
iso proto \\isis
clnp
esis
isis
l1
l2
iih
lsp
snp
csnp
psnp
isis proto 16
vlan 0
vlan 4095
vlan 100 and vlan 200
vlan and ip6 and tcp port 80
vlan and arp
vlan or ip
vlan 100 or vlan 200
not vlan
vlan and ether[14:2] = 0x0800
vlan and host 10.0.0.1 and udp
mpls 0
mpls 1048575
mpls and ip6 and tcp
mpls 100 and host 10.0.0.1
not mpls
vlan and mpls
pppoed
pppoes 0
pppoes 65535
pppoes and ip6
pppoes and host 10.0.0.1
vlan and pppoes
geneve 0
geneve 16777215
geneve and ip and udp port 53
geneve 42 and ether src 02:00:00:00:00:01
not geneve
len >= 100
len <= 60
len != 60
len & 1 = 0
len / 2 > 40
len % 7 = 3
len * 3 > 400
len << 2 > 400
len >> 4 = 4
len | 1 = 61
len ^ 60 = 0
len - len = 0
0 = 0
1 < 2 or ip
ether[0:1] = 2
ether[0:2] = 0x200
ether[0:4] = 0x2000000
ether[13] = 0
ether[10:4] = 0x1080045
ether[59] = 0
ether[60] = 0
ether[56:4] = 0
ether[57:4] = 0
ether[1499] = 0
ether[ether[14] & 0xf] = 0
ether[ether[0]:2] > 0
ether[ip[2:2]] = 0
link[12:2] = 0x800
ppp[0] = 2
slip[0] = 2
arp[6:2] = 1
arp[14:4] = 0x0a000001
rarp[6:2] = 3
ip[1] & 0xfc >> 2 = 0
ip[8] = 64 and ip[9] = 17
ip[4:4] != 0
ip[20] = 0
ip6[0] & 0xf0 = 0x60
ip6[4:2] > 20
ip6[7] = 64
ip6[8:4] = 0x20010db8
ip6[36:4] = 2
tcp[4:4] = 0
tcp[14:2] = 8192
tcp[tcpflags] == tcp-syn
tcp[tcpflags] & tcp-ack != 0
tcp[tcpflags] & tcp-push = 0
tcp[tcpflags] & (tcp-urg|tcp-ece|tcp-cwr) = 0
udp[2:2] = 53
udp[6:2] = 0
icmp[icmpcode] = 4
icmp[icmptype] = icmp-unreach
icmp[icmptype] = icmp-redirect or icmp[icmptype] = icmp-timxceed
icmp6[icmp6type] = icmp6-neighborsolicit
icmp6[icmp6code] = 0
icmp6[4:2] = 0
igmp[0] = 0x16
pim[0] = 0x20
vrrp[0] = 0x21
sctp[0:2] = 1024
igrp[0] = 1
carp[0] = 0x21
decnet[0] = 1
atalk[0] = 1
lat[0] = 1 or sca[0] = 1 or moprc[0] = 1 or mopdl[0] = 1
(ip[8] + ip[9]) > 70
ip[8] - 65 > 4294967290
-1 = 0xffffffff
(ip[8] * 0x10000000) = 0
0x80000000 >> ip[9] = 1
1 << 31 = 0x80000000
ip[9] << 31 = 0
ip[9] / ip[8] = 0
ip[9] / 0x10 = 1
ip[12:4] % 256 = 1
not (ether[200] = 1)
not ether[200] = 1 or ip
ip or ether[200] = 1
ether[200] = 1 or ip
! ip && ! arp || tcp
not not ip
not (ip and (tcp or (udp and not port 53)))
(tcp[2:2] = 80 or tcp[0:2] = 80) and tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420
udp[8:2] & 0x8000 = 0 and udp port 53
ip[6] & 0x20 != 0 or ip[6:2] & 0x1fff != 0
ip[((ip[0] & 0xf) << 2):2] = 53
igrp
pim or vrrp or igmp
tcp and ip6
""".strip().splitlines()

_ATOMS = st.sampled_from(
    """
    ip; ip6; arp; tcp; udp; icmp; vlan; mpls; geneve; pppoes; multicast; broadcast; stp; llc; pim; sctp; inbound;
    port 53; port 80; src port 1024; dst portrange 50-100; host 10.0.0.1; host 2001:db8::1; net 10.0.0.0/8; less 100;
    src net 192.168.0.0/16; ether src 02:00:00:00:00:01; ether proto 0x86dd; ip proto 47; proto 17; vlan 100;
    ip protochain 17; ip6 protochain 6; ip[6:2] & 0x1fff = 0; icmp[icmptype] = 8; greater 80
    """.replace("\n", " ").split("; ")
).map(str.strip)
_BASES = st.sampled_from(["ether", "ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "sctp"])
_NUMBERS = st.one_of(st.integers(0, 70), st.sampled_from([255, 0x800, 1499, 65535, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))


def _fetch(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    at = st.one_of(st.integers(0, 64).map(str), inner)
    return st.builds(lambda base, at, size: f"{base}[{at}{size}]", _BASES, at, st.sampled_from(["", ":2", ":4"]))


def _operation(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"])
    return st.builds(lambda a, op, b: f"({a} {op} {b})", inner, operators, inner)


_VALUES = st.recursive(
    st.one_of(_NUMBERS.map(str), st.just("len"), st.builds("{}[{}]".format, _BASES, st.integers(0, 40))),
    lambda inner: st.one_of(_fetch(inner), _operation(inner), inner.map("(- {})".format)),
    max_leaves=4,
)
_COMPARISONS = st.builds(
    "{} {} {}".format,
    _VALUES,
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    st.one_of(_NUMBERS.map(str), _VALUES),
)


def _accepted(expression: str) -> bool:
    try:
        # Some are refused only by the optimiser, which finds that no packet can match. Of others libpcap's verdict is
        # chance, and we refuse them (test_expression.py).
        programs = [libpcap.compile_expression(expression, optimise) for optimise in (True, False)]
    except ValueError:
        return False
    return not any(map(reads_unwritten, programs))


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    both = st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
    return st.one_of(both, inner.map("not ({})".format))


COMBINATIONS = st.recursive(st.one_of(_ATOMS, _COMPARISONS), _combined, max_leaves=5).filter(_accepted)
"""Random expressions that libpcap accepts."""
