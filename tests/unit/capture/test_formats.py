# SPDX-License-Identifier: Apache-2.0
"""Packets as bytes of a file: vectorised, and yet what a loop over packets would have written."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.captures import EPOCH, batch_of, blocks_of, frames, packets_of, pcap_of
from toolkit.capture import Capture
from toolkit.capture.pack import pack
from toolkit.errors import ArgumentError

LENGTHS = st.one_of(
    st.lists(st.integers(0, 2000), min_size=1, max_size=40),
    st.builds(lambda n, length: [length] * n, st.integers(1, 40), st.integers(0, 2000)),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 31, 32, 33, 60, 64, 1500, 1514]), min_size=1, max_size=40),
)


def written(tmp_path: Path, name: str, batches: list[Any], **options: Any) -> Path:
    path = tmp_path / name
    with Capture(None, path, force=True, **options) as capture:
        for batch in batches:
            assert capture.write(batch) == len(batch)
    return path


@settings(max_examples=100)
@given(LENGTHS, st.sampled_from([1, 4, 8]), st.integers(0, 3), st.integers(0, 64), st.randoms(use_true_random=False))
def test_records_are_what_a_loop_would_write(lengths: list[int], align: int, back: int, gap: int, random: Any) -> None:
    packets = [random.randbytes(length) for length in lengths]
    batch = batch_of(packets, gap=gap)
    words = [np.array([random.getrandbits(32) for _ in packets], dtype=np.uint32), 7, np.arange(len(packets))]
    behind = [9, words[0], 1 << 31][:back]
    out = pack(
        batch._bytes(),
        batch._offsets(),
        batch.lengths,
        words,
        behind,
        reserve=lambda n: np.full(n, 0xAA, np.uint8),
        align=align,
    )
    assert out is not None

    def word(value: Any, i: int) -> bytes:
        return struct.pack("=I", int(value if isinstance(value, int) else value[i]))

    expected = b"".join(
        b"".join(word(one, i) for one in words)
        + packet
        + bytes(-len(packet) % align)
        + b"".join(word(one, i) for one in behind)
        for i, packet in enumerate(packets)
    )
    assert out.tobytes() == expected


def test_a_packet_outside_of_the_memory_is_refused() -> None:
    memory = np.zeros(100, dtype=np.uint8)
    for offset, length in ((90, 11), (-1, 5), (101, 0)):
        with pytest.raises(ArgumentError, match="does not lie inside"):
            pack(memory, np.array([offset]), np.array([length]), (1,), reserve=lambda n: np.empty(n, np.uint8))


def test_without_memory_nothing_is_written() -> None:
    memory = np.zeros(100, dtype=np.uint8)
    for lengths in ([10, 10], [10, 11]):
        assert pack(memory, np.array([40, 50]), np.array(lengths), (1,), reserve=lambda _: None) is None


@settings(max_examples=50)
@given(LENGTHS, st.integers(0, 40))
def test_scapy_and_we_read_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], gap: int
) -> None:
    from scapy.utils import RawPcapNgReader, RawPcapReader

    tmp_path = tmp_path_factory.mktemp("formats")
    packets = [(bytes([i & 0xFF]) * length) for i, length in enumerate(lengths)]
    batch = batch_of(packets, gap=gap)
    times = [EPOCH + i for i in range(len(packets))]
    pcapng = written(tmp_path, "a.pcapng", [batch, batch])
    pcap = written(tmp_path, "a.pcap", [batch, batch])
    expected = [(time, len(data), data) for time, data in zip(times, packets, strict=True)] * 2
    assert packets_of(pcapng) == expected
    assert pcap_of(pcap) == expected
    with RawPcapNgReader(str(pcapng)) as reader:
        theirs = [((about.tshigh << 32 | about.tslow), about.wirelen, data) for data, about in reader]
    assert theirs == expected
    with RawPcapReader(str(pcap)) as reader:
        assert reader.nano
        assert [(about.sec * 10**9 + about.usec, about.wirelen, data) for data, about in reader] == expected


def test_snaplen_keeps_the_length_on_the_wire(tmp_path: Path) -> None:
    packets = [*frames(3, 100), *frames(2, 20)]
    found = packets_of(written(tmp_path, "a.pcapng", [batch_of(packets)], snaplen=50))
    assert [(wire, data) for _, wire, data in found] == [(len(one), one[:50]) for one in packets]
    assert [len(data) for _, _, data in pcap_of(written(tmp_path, "a.pcap", [batch_of(packets)], snaplen=7))] == [7] * 5
    with pytest.raises(ArgumentError, match="snaplen"):
        Capture(None, tmp_path / "b", snaplen=0)


def test_every_format_counts_the_same(tmp_path: Path) -> None:
    """The same Batch, with packets without a time, longer than snaplen, and empty of payload."""
    told = []
    for name in ("a.pcapng", "a.pcap", "a.parquet"):
        with Capture(None, tmp_path / name) as capture:
            capture.write(batch_of(frames(3), times=[EPOCH, -1, -1]))
            capture.write(batch_of(frames(2)))
        told.append(capture.statistics()._replace(file_bytes=0))
    assert told[0] == told[1] == told[2]
    assert (told[0].received, told[0].written, told[0].untimed) == (5, 5, 2)


def test_packets_without_a_time_get_that_of_their_receipt_and_are_counted(tmp_path: Path) -> None:
    import time

    path = tmp_path / "a.pcapng"
    before = time.time_ns()
    with Capture(None, path) as capture:
        capture.write(batch_of(frames(3), times=[EPOCH, -1, -1]))
    assert capture.statistics().untimed == 2
    times = [time for time, _, _ in packets_of(path)]
    assert times[0] == EPOCH
    assert all(before <= one <= time.time_ns() for one in times[1:])


def test_a_file_begins_with_what_it_is(tmp_path: Path) -> None:
    data = written(tmp_path, "a.pcapng", [batch_of(frames(1))]).read_bytes()
    section, interface, packet, statistics = blocks_of(data)
    assert section.kind == 0x0A0D0D0A
    assert section.body[:16] == struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    assert b"afxdp-toolkit" in section.body
    assert interface.kind == 1
    assert struct.unpack_from("=HHI", interface.body) == (1, 0, 262144)
    assert struct.pack("=HHB", 9, 1, 9) in interface.body  # if_tsresol: nanoseconds
    assert packet.kind == 6
    assert packet.body.endswith(struct.pack("=HHI", 2, 4, 1) + bytes(4))  # epb_flags: inbound
    assert statistics.kind == 5


def test_one_queue_says_nothing_of_queues(tmp_path: Path) -> None:
    """Of an interface with several, each packet tells: tests/kernel/capture/test_capture.py."""
    data = written(tmp_path, "a.pcapng", [batch_of(frames(1), queue=3)]).read_bytes()
    assert len(blocks_of(data)[2].body) == 20 + 60 + 8 + 4
