# SPDX-License-Identifier: Apache-2.0
"""toolkit.read() of what is cut off, damaged or hostile: what is whole comes first, then a sentence; never worse."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import random
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.recordings import Pcapng, hear, packet, pcap
from tests.helpers.zstd import flushed
from toolkit.errors import SystemCallError
from toolkit.recorded import window
from toolkit.recorded.recorded import read

PACKETS = [packet(i, (60, 90, 14, 61)[i % 4]) for i in range(20)]
CLASSIC = pcap(PACKETS)


def modern() -> Pcapng:
    file = Pcapng().interface(name=b"eth0")
    for one in PACKETS:
        file.packet(one)
    return file.statistics(received=20)


MODERN = modern().data


@pytest.fixture(params=[64, 1 << 20], ids=["small-pieces", "pieces"], autouse=True)
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "_PIECE", request.param)


def ends(data: bytes) -> list[int]:
    """Where each packet ends in the whole file, by what the formats say, not by the reader."""
    found, at = [], 24 if data is CLASSIC else 0
    while at < len(data):
        if data is CLASSIC:
            at += 16 + struct.unpack_from("<I", data, at + 8)[0]
            found.append(at)
        else:
            kind, total = struct.unpack_from("<II", data, at)
            at += total
            if kind == 6:
                found.append(at)
    return found


@pytest.mark.parametrize("data", [CLASSIC, MODERN], ids=["pcap", "pcapng"])
def test_cut_anywhere(data: bytes) -> None:
    """Whole packets come, and a warning names the offset of what is missing, unless the cut is between two."""
    places = ends(data)
    start = 24 if data is CLASSIC else len(Pcapng().interface(name=b"eth0").data)
    between = {start, *places, len(data)}
    for cut in range(start, len(data) + 1):
        found, said, error = hear(data[:cut])
        assert error == ""
        assert len(found) == sum(end <= cut for end in places)
        whole = max(place for place in between if place <= cut)
        assert (f"at offset {whole}," in said and "end is missing" in said) is (cut not in between), (cut, said)


@pytest.mark.parametrize("data", [CLASSIC, MODERN], ids=["pcap", "pcapng"])
@pytest.mark.parametrize("zeros", [12, 16, 100, 4096])
def test_a_tail_of_zeros(data: bytes, zeros: int) -> None:
    """What a machine that went down leaves behind."""
    found, said, error = hear(data + bytes(zeros))
    assert (len(found), error) == (20, "")
    assert "end is missing" in said
    assert f"offset {len(data)}" in said


@pytest.mark.parametrize("data", [CLASSIC, MODERN], ids=["pcap", "pcapng"])
def test_zeros_in_the_middle_are_no_end(data: bytes) -> None:
    place = ends(data)[9]
    found, _, error = hear(data[:place] + bytes(4096) + data[place:])
    assert len(found) == 10
    assert f"at offset {place} is a header of zeros" in error


def test_a_damaged_length_names_its_place() -> None:
    place = ends(CLASSIC)[4]
    found, said, error = hear(CLASSIC[:place] + CLASSIC[place:].replace(struct.pack("<II", 90, 90), b"\xff" * 8, 1))
    assert (len(found), said) == (5, "")
    assert f"at offset {place} is a packet of 4,294,967,295 bytes" in error
    assert "The 5 packets before that were read" in error


def test_a_length_that_no_packet_has() -> None:
    """Though as many bytes follow."""
    found, _, error = hear(CLASSIC + struct.pack("<IIII", 1, 1, 300_000, 300_000) + bytes(400_000))
    assert len(found) == 20
    assert f"at offset {len(CLASSIC)} is a packet of 300,000 bytes" in error
    assert len(hear(pcap([(1, bytes(300_000), 300_000)], snaplen=1 << 20))[0]) == 1, "the file said so"


FAULTS: dict[str, tuple[Any, str]] = {
    "lengths differ": (lambda file: file.block(6, bytes(20), trailer=36), "two lengths differ"),
    "lengths differ elsewhere": (lambda file: file.block(77, bytes(20), trailer=36), "two lengths differ"),
    "interface": (lambda file: file.packet(PACKETS[0], 3), "a packet of interface 3, which the file does not describe"),
    "longer than block": (lambda file: file.block(6, struct.pack("<IIIII", 0, 0, 1, 999, 999)), "longer than its"),
    "simple longer than block": (lambda file: file.block(3, struct.pack("<I", 999)), "longer than its"),
    "block too short": (lambda file: file.block(6, bytes(16)), "a block of 28 bytes"),
    "block too long": (lambda file: file.block(6, bytes(32), total=1 << 28), "a block of 268,435,456 bytes"),
    "uneven": (lambda file: file.block(6, bytes(32), total=45), "a block of 45 bytes"),
    "no length": (lambda file: file.block(9, b"", total=4), "a block of 4 bytes"),
    "no interface in it": (lambda file: file.block(1, bytes(4)), "too short for what it must hold"),
    "no statistics in it": (lambda file: file.block(5, bytes(0)), "too short for what it must hold"),
    "byte order": (lambda file: file.block(0x0A0D0D0A, bytes(16)), "byte-order magic"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("after", [0, 5])
def test_damaged_blocks(fault: str, after: int) -> None:
    damage, message = FAULTS[fault]
    file = Pcapng().interface()
    for one in PACKETS[:after]:
        file.packet(one)
    place = len(file.data)
    damage(file)
    found, said, error = hear(file.packet(PACKETS[0]).data)
    assert (len(found), said) == (after, "")
    assert message in error
    assert f"at offset {place} " in error


def test_damaged_options_are_left_out() -> None:
    file = Pcapng().block(1, struct.pack("<HHIHH", 1, 0, 0, 2, 0xFFFF) + b"name").packet(PACKETS[0])
    assert len(hear(file.data)[0]) == 1


# --- compressed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_and_cut_off(compress: Any) -> None:
    many = pcap([packet(i, 60) for i in range(3000)])
    noise = random.Random(7).randbytes
    many += b"".join(struct.pack("<IIII", 1, 1, 200, 200) + noise(200) for _ in range(8000))
    data = compress(many)
    assert "end in the middle" in hear(data[:12])[2]
    for cut in (len(data) - 1, len(data) - 9, len(data) * 3 // 4):
        found, said, error = hear(data[:cut])
        assert error == ""
        assert "its compressed data end in the middle" in said
        assert len(found) > 4000


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_and_damaged(compress: Any) -> None:
    data = bytearray(compress(pcap([packet(i, 60) for i in range(3000)])))
    data[len(data) // 2 :] = random.Random(3).randbytes(len(data) - len(data) // 2)
    found, said, error = hear(bytes(data))
    assert "does not decompress any further" in error or "is damaged" in error or "end is missing" in said
    assert len(found) < 3000


def test_zstd_cut_off_between_two_blocks() -> None:
    """As of a capture that was killed: what had been flushed is whole, and yet the end is missing."""
    parts = flushed(CLASSIC, CLASSIC[24:])
    for data, packets, cut in (
        (parts[0], 20, True),
        (parts[0] + parts[1][:-12], 20, True),
        (parts[0] + parts[1], 40, False),
    ):
        found, said, error = hear(data)
        assert (len(found), error) == (packets, "")
        assert ("its compressed data end in the middle" in said) is cut


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_packets_before_what_does_not_decompress(compress: Any) -> None:
    found, _, error = hear(compress(CLASSIC) + b"no stream")
    assert "does not decompress any further" in error
    assert len(found) == 20


def test_packets_before_what_cannot_be_read() -> None:
    class Disk(io.BytesIO):
        def readinto(self, target: Any) -> int:
            if not (count := super().readinto(target)):
                raise OSError(errno.EIO, "bad sector")
            return count

        read1 = property()

    with read(Disk(CLASSIC)) as recorded:
        while recorded.packets < 20:  # in how many Batches depends on the pieces
            next(recorded)
        with pytest.raises(SystemCallError, match="EIO"):
            next(recorded)


def test_an_xz_file_that_wants_all_the_memory() -> None:
    def summed(data: bytes) -> bytes:
        return data + struct.pack("<I", zlib.crc32(data))

    dictionary_of_4_gb = bytes.fromhex("0200210128000000")
    _, _, error = hear(b"\xfd7zXZ\0" + summed(bytes(2)) + summed(dictionary_of_4_gb) + b"\x01\0\0x\0" + bytes(64))
    assert "Memory usage limit exceeded" in error


# --- floods -----------------------------------------------------------------------------------------------------------


def test_very_many_sections_cost_no_more_each() -> None:
    class Interfaces(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("all interfaces are looked at for each section's packets")

    one = modern().data
    with read(io.BytesIO(one * 3)) as recorded:
        recorded._format.interfaces = Interfaces(recorded._format.interfaces)
        assert sum(map(len, recorded)) == 60
        assert len(recorded._format.interfaces) == 3


def test_interfaces_without_end() -> None:
    described = Pcapng().interface(name=b"x").data
    file = described + described[28:] * (1 << 16)
    _, _, error = hear(file + MODERN)
    assert "one interface more than 65,536" in error
    assert hear(file[: -len(described[28:])])[1:] == ("", "")  # 65,536 are allowed


def test_names_without_end() -> None:
    file = Pcapng()
    one = file.interface(name=b"n" * 65_000).data[28:]
    with read(io.BytesIO(file.data + one * 300 + Pcapng().interface(name=b"eth0").packet(PACKETS[0]).data)) as recorded:
        assert sum(map(len, recorded)) == 1
        kept = sum(len(interface.name) for interface in recorded.interfaces)
    assert 16_000_000 < kept <= 1 << 24


def test_statistics_of_interfaces_that_nobody_described() -> None:
    file = modern()
    for number in range(1, 100):
        file.statistics(number, received=1)
    with read(io.BytesIO(file.data)) as recorded:
        assert sum(map(len, recorded)) == 20
        assert recorded.statistics() == {"received": 20}


# --- whatever comes ---------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_anywhere(data: st.DataObject) -> None:
    """Bytes overwritten, left out or put in: packets, warnings and RecordedError, nothing else; no end without end."""
    mixed = modern().section(">").interface(resolution=b"\x8a", offset=-5).packet(PACKETS[0]).simple(PACKETS[1])
    file = bytearray(data.draw(st.sampled_from([CLASSIC, MODERN, mixed.obsolete(PACKETS[2]).data])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(file) - 1))
        new = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 4, bytes(4), bytes(64)])))
        old = data.draw(st.sampled_from([0, len(new), 1, 4]))
        file[at : at + old] = new
    found, said, error = hear(bytes(file), batch_size=data.draw(st.sampled_from([1, 3, 4096])))
    assert sum(len(one) for _, one, _ in found) <= len(file)
    assert len(found) <= len(file) // 16
    assert error == "" or "Next step" in error or "damaged" in error or "neither" in error or "version" in error, error
    assert said == "" or "missing" in said or "left out" in said or "theirs is NaT" in said, said


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([CLASSIC[:4], CLASSIC[:24], MODERN[:28], b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b""]), st.binary())
def test_noise(start: bytes, noise: bytes) -> None:
    found, _, _ = hear(start + noise)
    assert sum(len(one) for _, one, _ in found) <= len(noise)
