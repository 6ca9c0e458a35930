# SPDX-License-Identifier: Apache-2.0
"""Any bytes, and packets that are nearly right: strategies for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

number16 = st.integers(0, 0xFFFF).map(lambda value: value.to_bytes(2, "big"))


octet = st.integers(0, 255).map(lambda value: bytes([value]))


@st.composite
def extension(draw: st.DrawFn) -> tuple[int, bytes, int]:
    """(protocol number, header without its first byte, how long it says to be)."""
    kind = draw(st.sampled_from([0, 43, 44, 51, 60]))
    size = draw(st.sampled_from([0, 0, 1, 2, 31, 255]))
    says = (size + 1) * 8 if kind not in (44, 51) else 8 if kind == 44 else (size + 2) * 4
    body = draw(st.binary(min_size=6, max_size=6))
    if kind == 44 and draw(st.booleans()):
        body = b"\0" + bytes([draw(st.integers(0, 7))]) + body[2:]  # a first fragment
    return kind, bytes([size]) + body + bytes(says - 8), says


@st.composite
def transport(draw: st.DrawFn) -> tuple[int, bytes]:
    protocol = draw(st.sampled_from([1, 6, 6, 17, 17, 17, 58, 132, 136, 47, 47, 0, 44, 51, 59]))
    body = draw(st.binary(max_size=48))
    if protocol == 6 and draw(st.booleans()):
        body = draw(st.binary(min_size=12, max_size=12)) + bytes([draw(st.integers(4, 8)) << 4]) + bytes(7) + body
    if protocol == 17 and draw(st.booleans()):
        body = draw(st.binary(min_size=4, max_size=4)) + (len(body) + 8).to_bytes(2, "big") + b"\0\0" + body
    if protocol == 17 and draw(st.booleans()):
        port = draw(st.sampled_from([4789, 8472, 4790])).to_bytes(2, "big")
        body = (
            b"\xc0\0"
            + port
            + (len(body) + 8).to_bytes(2, "big")
            + b"\0\0"
            + draw(st.sampled_from([b"\x08", b""]))
            + body
        )
    if protocol == 47 and draw(st.booleans()):
        flags = draw(st.sampled_from([0, 0x80, 0x20, 0x10, 0xA0, 0xB0, 0x30, 0x70, 0x40]))
        body = bytes([flags, draw(st.sampled_from([0, 0, 1, 0x81, 0x80, 2]))]) + body
    if protocol in (1, 58):
        body = draw(st.sampled_from([b"\0", b"\x08", b"\x0d", b"\x03", b"\x80", b"\x81", b"\x87"])) + body
    return protocol, body


@st.composite
def near_packet(draw: st.DrawFn) -> bytes:
    """A packet that is right in most places, then cut and scratched."""
    protocol, body = draw(transport())
    declared = draw(st.sampled_from([0, 0, 0, 1, 9, -1, -9, None]))  # how wrong the length is; None: it is 0
    kind = draw(st.sampled_from([0x0800, 0x0800, 0x86DD, 0x86DD, 0x0806, 0x8100, 0x0026]))
    if kind == 0x0800:
        options = draw(st.sampled_from([-1, 0, 0, 0, 1, 10]))
        total = 20 + max(options, 0) * 4 + len(body)
        total = 0 if declared is None else max(total + declared, 0)
        fragment = draw(st.sampled_from([0, 0x4000, 0x2000, 1, 0x3FFF])).to_bytes(2, "big")
        rest = octet.map(lambda value: value + bytes([protocol]) + b"\xab\xcd")
        first = bytes([draw(st.sampled_from([0x40, 0x40, 0x40, 0x60])) | 5 + options]) + draw(octet)
        ip = first + total.to_bytes(2, "big") + draw(number16) + fragment + draw(rest)
        body = ip + draw(st.binary(min_size=8, max_size=8)) + bytes(max(options, 0) * 4) + body
    elif kind == 0x86DD:
        chain = draw(st.lists(extension(), max_size=10))
        kinds = [number for number, _, _ in chain] + [protocol]
        raw = b"".join(bytes([after]) + header for (_, header, _), after in zip(chain, kinds[1:], strict=True))
        total = 0 if declared is None else max(len(raw) + len(body) + declared, 0)
        first = draw(st.sampled_from([b"\x60", b"\x6f", b"\x45"])) + draw(st.binary(min_size=3, max_size=3))
        ip = first + total.to_bytes(2, "big") + bytes([kinds[0]]) + draw(octet)
        body = ip + draw(st.binary(min_size=32, max_size=32)) + raw + body
    elif kind == 0x0806:
        body = draw(st.sampled_from([b"\0\1\x08\0\6\4", b"\0\6\x08\0\6\4", b"\0\1\x86\xdd\6\x10"])) + body
    tags = b"".join(
        tpid + draw(number16)
        for tpid in draw(st.lists(st.sampled_from([b"\x81\0", b"\x88\xa8", b"\x91\0"]), max_size=3))
    )
    packet = draw(st.binary(min_size=12, max_size=12)) + tags + kind.to_bytes(2, "big") + body
    if draw(st.integers(0, 3)) == 0:
        packet = packet[: draw(st.integers(0, len(packet)))]
    if packet and draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(packet) - 1))
        packet = packet[:at] + draw(octet) + packet[at + 1 :]
    return packet + bytes(draw(st.sampled_from([0, 0, 6, 18])))


any_packet = st.one_of(near_packet(), near_packet(), near_packet(), st.binary(max_size=120))
