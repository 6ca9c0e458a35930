# SPDX-License-Identifier: Apache-2.0
"""Answers: the two ways to answer give identical bytes, scapy confirms every checksum, and nonsense is left alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import scapy.all as scapy
from hypothesis import example, given
from hypothesis import strategies as st

from toolkit.batch.editable import EditableBatch
from toolkit.errors import ArgumentError
from toolkit.forward.answers import Answers
from toolkit.umem.umem import UMEM

US, ASKER = "02:00:00:00:00:01", "02:00:00:00:00:02"
IP4, IP6, PEER4, PEER6 = "10.11.0.1", "fd00:11::1", "10.11.0.2", "fd00:11::2"
OTHER4, OTHER6 = "192.0.2.7", "fd00:11::7"
GROUP6, GROUP_MAC = "ff02::1:ff00:1", "33:33:ff:00:00:01"  # the solicited-node group of fd00:11::1
START = 256 + 37  # where a packet begins in its frame: nothing aligned
ECHO = 7


def answers(**options: Any) -> Answers:
    return Answers(bytes.fromhex(US.replace(":", "")), [IP4, IP6, "10.11.0.99", "fd00:11::99"], **options)


def one(packet: bytes, **options: Any) -> bytes | None:
    """What Answers.one() makes of a packet in the middle of a frame; nothing outside the packet may change."""
    frame = bytearray(b"\xa5" * 2048)
    frame[START : START + len(packet)] = packet
    answered = answers(**options).one(memoryview(frame)[START : START + len(packet)])
    assert frame[:START] == b"\xa5" * START
    assert set(frame[START + len(packet) :]) == {0xA5}
    answer = bytes(frame[START : START + len(packet)])
    assert answered or answer == packet, "changed, and not answered"
    return answer if answered else None


def many(packets: list[bytes], **options: Any) -> list[bytes | None]:
    """The same for a batch through Answers.many()."""
    with UMEM(max(2 * len(packets), 2), 2048) as umem:
        memory = umem.memory
        assert memory is not None
        memory[:] = 0xA5
        descs = np.zeros((len(packets), 2), dtype=np.uint64)
        for row, packet in enumerate(packets):
            begin = 2 * row * 2048 + START
            memory[begin : begin + len(packet)] = np.frombuffer(packet, np.uint8)
            descs[row] = begin, len(packet)
        mask = answers(**options).many(EditableBatch(umem, descs))
        assert mask.shape == (len(packets),)
        assert mask.dtype == np.bool_
        results: list[bytes | None] = []
        for row, packet in enumerate(packets):
            begin = 2 * row * 2048 + START
            answer = memory[begin : begin + len(packet)].tobytes()
            assert mask[row] or answer == packet, "changed, and not answered"
            results.append(answer if mask[row] else None)
            memory[begin : begin + len(packet)] = 0xA5
        assert (memory == 0xA5).all(), "bytes outside of the packets were written"
        return results


def ether(target: str = US, source: str = ASKER) -> Any:
    return scapy.Ether(dst=target, src=source)


def ping4(**fields: Any) -> Any:
    return ether() / scapy.IP(**{"src": PEER4, "dst": IP4, "ttl": 7, "id": 0x1234} | fields)


def ping6(**fields: Any) -> Any:
    return ether() / scapy.IPv6(**{"src": PEER6, "dst": IP6, "hlim": 9, "fl": 0x12345} | fields)


def solicit(source: str = PEER6, to: str = GROUP6, target: str = IP6, option: Any = None, **ip: Any) -> bytes:
    question = ether(GROUP_MAC) / scapy.IPv6(src=source, dst=to, hlim=255, **ip) / scapy.ICMPv6ND_NS(tgt=target)
    return bytes(question / option if option is not None else question)


def with_link(source: str = PEER6, **fields: Any) -> bytes:
    return solicit(source, option=scapy.ICMPv6NDOptSrcLLAddr(lladdr=ASKER), **fields)


NONCE = b"\x0e\x01abcdef"  # RFC 3971, as Linux's duplicate address detection sends it (RFC 7527)

QUESTIONS: dict[str, bytes] = {
    "arp": bytes(ether("ff:ff:ff:ff:ff:ff") / scapy.ARP(op=1, hwsrc=ASKER, psrc=PEER4, pdst=IP4)) + bytes(18),
    "arp, unicast": bytes(ether() / scapy.ARP(op=1, hwsrc=ASKER, psrc=PEER4, pdst=IP4)),
    "arp probe": bytes(ether("ff:ff:ff:ff:ff:ff") / scapy.ARP(op=1, hwsrc=ASKER, psrc="0.0.0.0", pdst=IP4)),
    "ping": bytes(ping4() / scapy.ICMP(id=3, seq=4) / bytes(range(56))),
    "ping, empty": bytes(ping4() / scapy.ICMP(id=3, seq=4)),
    "ping, odd": bytes(ping4() / scapy.ICMP(id=3, seq=4) / b"odd"),
    "ping, 1472": bytes(ping4() / scapy.ICMP(id=3, seq=4) / bytes(1472)),
    "ping, padded": bytes(ping4() / scapy.ICMP(id=3, seq=4) / b"x") + b"padding",
    "ping, record route": bytes(
        ping4(options=scapy.IPOption_RR(routers=["0.0.0.0"] * 3)) / scapy.ICMP(id=1, seq=2) / b"abc"
    ),
    "ping to another of ours": bytes(ping4(dst="10.11.0.99") / scapy.ICMP(id=3, seq=4)),
    "ping, don't fragment": bytes(ping4(flags="DF", tos=0xB8, ttl=255) / scapy.ICMP(id=3, seq=4)),
    "udp": bytes(ping4() / scapy.UDP(sport=40000, dport=ECHO) / b"hello"),
    "udp, options": bytes(ping4(options=scapy.IPOption_NOP()) / scapy.UDP(sport=40000, dport=ECHO) / b"hello"),
    "udp, no checksum": bytes(ping4() / scapy.UDP(sport=40000, dport=ECHO, chksum=0) / b"hello"),
    "ping6": bytes(ping6() / scapy.ICMPv6EchoRequest(id=5, seq=6, data=bytes(range(56)))),
    "ping6, empty": bytes(ping6() / scapy.ICMPv6EchoRequest(id=5, seq=6)),
    "ping6, odd": bytes(ping6(tc=0xE0) / scapy.ICMPv6EchoRequest(id=5, seq=6, data=b"odd")),
    "udp6": bytes(ping6() / scapy.UDP(sport=40000, dport=ECHO) / b"hello"),
    "neighbour": with_link(),
    "neighbour, unicast": with_link(to=IP6),
    "neighbour, no option": solicit(),
    "neighbour, two options": solicit(option=scapy.ICMPv6NDOptSrcLLAddr(lladdr=ASKER) / NONCE),
    "duplicate?": solicit("::", option=scapy.Raw(NONCE)),
    "duplicate?, no option": solicit("::"),
}

IGNORED: dict[str, bytes] = {
    "arp reply": bytes(ether() / scapy.ARP(op=2, hwsrc=ASKER, psrc=PEER4, pdst=IP4)),
    "arp for another": bytes(ether("ff:ff:ff:ff:ff:ff") / scapy.ARP(op=1, hwsrc=ASKER, psrc=PEER4, pdst=OTHER4)),
    "arp, other sizes": bytes(ether() / scapy.ARP(op=1, hwlen=8, hwsrc=ASKER, psrc=PEER4, pdst=IP4)),
    "arp, cut": QUESTIONS["arp, unicast"][:41],
    "ping reply": bytes(ping4() / scapy.ICMP(type=0, id=3, seq=4)),
    "ping, code 1": bytes(ping4() / scapy.ICMP(type=8, code=1)),
    "ping to another": bytes(ping4(dst=OTHER4) / scapy.ICMP()),
    "ping, first fragment": bytes(ping4(flags="MF") / scapy.ICMP() / bytes(64)),
    "ping, last fragment": bytes(ping4(frag=8) / scapy.ICMP() / bytes(64)),
    "ping, cut": QUESTIONS["ping"][:-1],
    "ping, header cut": QUESTIONS["ping, empty"][:41],
    "ping, header of 16 bytes": bytes(ping4(ihl=4) / scapy.ICMP() / bytes(40)),
    "ping, shorter than its header": bytes(ping4(len=27) / scapy.ICMP() / bytes(40)),
    "ping, version 5": bytes(ping4(version=5) / scapy.ICMP() / bytes(40)),
    "ping from everybody": bytes(ping4(src="255.255.255.255") / scapy.ICMP()),
    "ping from a group": bytes(ping4(src="224.0.0.1") / scapy.ICMP()),
    "ping from nobody": bytes(ping4(src="0.0.0.0") / scapy.ICMP()),
    "ping from the loop": bytes(ping4(src="127.0.0.1") / scapy.ICMP()),
    "ping, source route": bytes(ping4(options=scapy.IPOption_LSRR(routers=[PEER4])) / scapy.ICMP()),
    "ping, strict source route": bytes(
        ping4(options=[scapy.IPOption_NOP(), scapy.IPOption_SSRR(routers=[PEER4])]) / scapy.ICMP()
    ),
    "ping, broken option": bytes(ping4(options=scapy.IPOption(b"\x07\x00\x00\x00")) / scapy.ICMP()),
    "ping for another station": bytes(ether("02:00:00:00:00:77") / ping4().payload / scapy.ICMP()),
    "ping from a group of stations": bytes(ether(US, "03:00:00:00:00:02") / ping4().payload / scapy.ICMP()),
    "udp, another port": bytes(ping4() / scapy.UDP(sport=40000, dport=8) / b"hello"),
    "udp, between echoes": bytes(ping4() / scapy.UDP(sport=ECHO, dport=ECHO) / b"hello"),
    "udp from no port": bytes(ping4() / scapy.UDP(sport=0, dport=ECHO) / b"hello"),
    "tcp": bytes(ping4() / scapy.TCP(dport=ECHO)),
    "ping6 to another": bytes(ping6(dst=OTHER6) / scapy.ICMPv6EchoRequest()),
    "ping6 to a group": bytes(ping6(dst="ff02::1") / scapy.ICMPv6EchoRequest()),
    "ping6 from a group": bytes(ping6(src="ff02::1") / scapy.ICMPv6EchoRequest()),
    "ping6 from nobody": bytes(ping6(src="::") / scapy.ICMPv6EchoRequest()),
    "ping6 reply": bytes(ping6() / scapy.ICMPv6EchoReply()),
    "ping6, code 1": bytes(ping6() / scapy.ICMPv6EchoRequest(code=1)),
    "ping6, cut": QUESTIONS["ping6"][:-1],
    "ping6, of 7 bytes": bytes(ping6(plen=7) / scapy.ICMPv6EchoRequest()),
    "ping6, jumbo": bytes(ping6(plen=0) / scapy.ICMPv6EchoRequest()),
    "ping6, version 4": QUESTIONS["ping6"][:14] + b"\x40" + QUESTIONS["ping6"][15:],
    "ping6, fragment": bytes(ping6() / scapy.IPv6ExtHdrFragment(m=1) / scapy.ICMPv6EchoRequest()),
    "ping6 for another station": bytes(ether("02:00:00:00:00:77") / ping6().payload / scapy.ICMPv6EchoRequest()),
    "udp6, between echoes": bytes(ping6() / scapy.UDP(sport=ECHO, dport=ECHO) / b"hello"),
    "udp6 from no port": bytes(ping6() / scapy.UDP(sport=0, dport=ECHO) / b"hello"),
    "neighbour, another": with_link(target=OTHER6),
    "neighbour, from afar": bytes(scapy.Ether(with_link())).replace(b"\x3a\xff", b"\x3a\xfe", 1),
    "neighbour, wrong checksum": with_link()[:-1] + b"\x03",
    "neighbour, cut": with_link()[:77],
    "neighbour, of 23 bytes": with_link(plen=23),
    "duplicate?, to one": solicit("::", to=IP6),
    "neighbour advertisement": bytes(ping6(hlim=255) / scapy.ICMPv6ND_NA(tgt=IP6)),
    "vlan": bytes(ether() / scapy.Dot1Q(vlan=5) / ping4().payload / scapy.ICMP()),
    "nothing": b"",
    "a header": QUESTIONS["ping"][:14],
}


def rebuilt(packet: bytes) -> bytes:
    """The packet with every checksum as scapy computes it."""
    parsed = scapy.Ether(packet)
    layer = parsed
    while layer:
        for name in ("chksum", "cksum"):
            if name in getattr(layer, "fields", {}) and not (name == "chksum" and layer.fields[name] == 0):
                delattr(layer, name)
        layer = layer.payload
    return bytes(parsed)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_gets_its_answer(name: str) -> None:
    question = QUESTIONS[name]
    answer = one(question)
    assert answer is not None
    assert many([question]) == [answer]
    asked, said = scapy.Ether(question), scapy.Ether(answer)
    assert said.src == US
    if "duplicate" in name:
        assert (said.dst, said[scapy.IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    else:
        assert said.dst == ASKER
    if scapy.ARP in asked:
        assert (said.op, said.hwsrc, said.psrc) == (2, US, IP4)
        assert (said[scapy.ARP].hwdst, said.pdst) == (ASKER, asked.psrc)
        assert answer[42:] == question[42:], "the padding is none of ours"
        return
    assert rebuilt(answer) == answer, "a checksum is wrong"
    layer = scapy.IP if scapy.IP in asked else scapy.IPv6
    if scapy.ICMPv6ND_NS in asked:
        check_advertisement(name, asked, said)
        return
    assert (said[layer].src, said[layer].dst) == (asked[layer].dst, asked[layer].src)
    assert said[layer].getfieldval("ttl" if layer is scapy.IP else "hlim") == 64
    if layer is scapy.IP:
        assert (said.id, said.flags, said.tos, said.len) == (asked.id, asked.flags, asked.tos, asked.len)
        assert bytes(said[layer])[20 : 4 * said.ihl] == bytes(asked[layer])[20 : 4 * asked.ihl]
    else:
        assert (said.fl, said.tc, said.plen) == (asked.fl, asked.tc, asked.plen)
    if scapy.UDP in asked:
        assert (said.sport, said.dport) == (ECHO, 40000)
        assert bytes(said[scapy.UDP])[6:] == bytes(asked[scapy.UDP])[6:], "checksum and payload stay"
        return
    at = len(question) - len(asked[layer].payload)
    assert answer[at : at + 2] == (b"\x00\x00" if layer is scapy.IP else b"\x81\x00")
    assert answer[at + 4 :] == question[at + 4 :], "number, sequence and payload stay"


def check_advertisement(name: str, asked: Any, said: Any) -> None:
    advertisement = said[scapy.ICMPv6ND_NA]
    assert (said[scapy.IPv6].src, said.hlim, advertisement.tgt) == (IP6, 255, IP6)
    assert (advertisement.R, advertisement.O) == (0, 1)
    assert bool(advertisement.S) is ("duplicate" not in name)
    if "no option" in name:
        assert said.plen == 24
    else:
        assert said.plen == 32
        assert said[scapy.ICMPv6NDOptDstLLAddr].lladdr == US
    if "duplicate" not in name:
        assert said[scapy.IPv6].dst == asked[scapy.IPv6].src


@pytest.mark.parametrize("name", IGNORED)
def test_what_no_host_would_answer_is_left_as_it_is(name: str) -> None:
    assert one(IGNORED[name]) is None
    assert many([IGNORED[name]]) == [None]


def test_a_batch_of_everything_at_once() -> None:
    packets = [*QUESTIONS.values(), *IGNORED.values()] * 3
    random.Random(1).shuffle(packets)
    assert many(packets) == [one(packet) for packet in packets]
    assert many([]) == []


def test_without_a_udp_port_no_udp_is_echoed() -> None:
    for name in ("udp", "udp6"):
        assert one(QUESTIONS[name], udp_port=None) is None
        assert many([QUESTIONS[name]], udp_port=None) == [None]
    zero = bytes(ping4() / scapy.UDP(sport=5, dport=0) / b"hello")
    assert one(zero, udp_port=None) is None
    assert many([zero], udp_port=None) == [None]


def test_a_host_with_one_family_ignores_the_other() -> None:
    for addresses, ignored in (([IP4], "ping6"), ([IP6], "ping"), ([], "arp")):
        host = Answers(bytes(6), addresses)
        packet = bytearray(bytes(6) + QUESTIONS[ignored][6:])
        assert not host.one(memoryview(packet))


@pytest.mark.parametrize("seed", range(8))
def test_checksums_stay_right_whatever_they_were(seed: int) -> None:
    """The carry of RFC 1624 at its edges: 65,536 sums of the header and of ICMP, by way of id and sequence number."""
    pick = random.Random(seed)
    for base in (QUESTIONS["ping, empty"], QUESTIONS["ping6, empty"]):
        packets = []
        for _ in range(250):
            layer = scapy.Ether(base)
            packets.append(_edge(layer, pick))
        results = many(packets)
        for packet, answer in zip(packets, results, strict=True):
            assert answer == one(packet)
            assert answer is not None
            assert _verifies(answer)


def _edge(layer: Any, pick: random.Random) -> bytes:
    """A question whose checksums are near to 0, 0x0800, 0xF7FF or 0xFFFF more often than not."""
    packet = bytearray(bytes(layer))
    four = packet[12:14] == b"\x08\x00"
    at = 34 if four else 54
    if four:
        packet[22] = pick.randrange(256)
        packet[18:20] = pick.randrange(65536).to_bytes(2, "big")
        packet[24:26] = b"\0\0"
        packet[24:26] = _internet(bytes(packet[14:34])).to_bytes(2, "big")
    wanted = pick.choice((0, 1, 0x00FF, 0x0100, 0x07FF, 0x0800, 0xF7FF, 0xF800, 0xFEFF, 0xFFFE))
    packet[at + 2 : at + 8] = bytes(6)
    pseudo = b"" if four else bytes(packet[22:54]) + b"\0\0\0\x08\0\0\0\x3a"
    packet[at + 6 : at + 8] = _internet(pseudo + bytes(packet[at : at + 8]) + wanted.to_bytes(2, "big")).to_bytes(
        2, "big"
    )
    packet[at + 2 : at + 4] = _internet(pseudo + bytes(packet[at : at + 8])).to_bytes(2, "big")
    assert _verifies(bytes(packet))
    return bytes(packet)


def _internet(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _verifies(packet: bytes) -> bool:
    """As a receiver does: the sum over everything, checksums included, is zero."""
    if packet[12:14] == b"\x08\x00":
        return _internet(packet[14:34]) == 0 and _internet(packet[34:42]) == 0
    return _internet(packet[22:54] + b"\0\0\0\x08\0\0\0\x3a" + packet[54:62]) == 0


mutations = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4)


@given(st.lists(st.tuples(st.sampled_from(sorted(QUESTIONS)), mutations, st.integers(0, 160)), max_size=6))
@example([("ping", [(17, 3)], 160)])
@example([("ping6", [(18, 0), (19, 4)], 160)])
@example([("neighbour", [(19, 16)], 160)])
def test_mutated_questions_are_answered_alike_both_ways(cases: list[tuple[str, list[tuple[int, int]], int]]) -> None:
    packets = []
    for name, changes, keep in cases:
        packet = bytearray(QUESTIONS[name][:keep])
        for at, value in changes:
            if at < len(packet):
                packet[at] = value
        packets.append(bytes(packet))
    assert many(packets) == [one(packet) for packet in packets]


@given(st.sampled_from(sorted(QUESTIONS)), mutations, st.integers(0, 160))
@example("ping", [], 160)
@example("ping, padded", [(22, 64)], 160)
def test_the_short_cut_for_pings_says_what_the_long_way_says(
    name: str, changes: list[tuple[int, int]], keep: int
) -> None:
    packet = bytearray(QUESTIONS[name][:keep])
    for at, value in changes:
        if at < len(packet):
            packet[at] = value
    short, long, host = bytearray(packet), bytearray(packet), answers()
    taken = len(packet) >= 42 and host._ping_one(memoryview(short))
    assert taken or short == packet, "changed, and not answered"
    if taken:
        assert host._ip4_one(memoryview(long), bytes(long[:62]))
        assert short == long
    if name == "ping" and not changes and keep >= 98:
        assert taken, "it is for this very packet"


def test_a_zone_says_on_which_link_and_is_no_part_of_the_address() -> None:
    assert Answers(bytes(6), ["fe80::1%eth0"]).addresses == Answers(bytes(6), ["fe80::1"]).addresses


@given(st.lists(st.binary(max_size=100), max_size=8), st.sampled_from((b"", b"\x08\x00E", b"\x86\xdd`", b"\x08\x06")))
def test_noise_is_never_an_error(payloads: list[bytes], kind: bytes) -> None:
    head = bytes.fromhex("020000000001020000000002")
    packets = [head + kind + payload if kind else payload for payload in payloads]
    assert many(packets) == [one(packet) for packet in packets]


@pytest.mark.parametrize(
    ("mac", "addresses", "port", "says"),
    [
        (b"12345", [IP4], 7, "6 bytes"),
        ("123456", [IP4], 7, "6 bytes"),
        (bytes(6), [IP4], "7", "whole number"),
        (bytes(6), ["10.0.0.256"], 7, "Next step"),
        (bytes(6), ["a host"], 7, "Next step"),
        (bytes(6), [IP4], 0, "1 to 65,535"),
        (bytes(6), [IP4], 65536, "1 to 65,535"),
    ],
)
def test_nonsense_is_refused(mac: Any, addresses: list[str], port: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        Answers(mac, addresses, udp_port=port)
