# SPDX-License-Identifier: Apache-2.0
"""Recorded times at the ends of what a file can say: 1970 is a time, and no time becomes another one silently."""

from __future__ import annotations

import io
import pickle
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.captures import batch_of, frames
from tests.helpers.recordings import Pcapng, hear, packet, pcap, read_all
from toolkit.batch.batch import Batch
from toolkit.capture import Capture
from toolkit.capture.parquet import ParquetSink
from toolkit.errors import ArgumentError
from toolkit.flows import Flows
from toolkit.recorded.replay import Replay

SECOND = 1_000_000_000
FIRST = [0, SECOND // 2, SECOND]  # ns since 1970
LAST = (1 << 32) * SECOND - 1  # the last ns of classic pcap: in February 2106
DATA = packet(0, 60)[1]


def shown(path: Path) -> list[str]:
    """Each packet's time as Wireshark reads it."""
    done = subprocess.run(
        ["tshark", "-n", "-r", path, "-T", "fields", "-e", "frame.time_epoch"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def text_of(times: list[int]) -> list[str]:
    return [f"{ns // SECOND}.{ns % SECOND:09}" for ns in times]


def times_of(file: Any) -> list[int]:
    return [one[0] for one in read_all(file)[0]]


@pytest.mark.needs("tshark")
@pytest.mark.parametrize("name", ["x.pcap", "x.pcapng"])
@pytest.mark.parametrize("given", ["pcap", "pcap in us", "pcapng"])
def test_packets_of_1970_are_written_again_as_they_were(tmp_path: Path, name: str, given: str) -> None:
    packets = [(ns, DATA, 60) for ns in FIRST]
    file = Pcapng().interface()
    for one in packets:
        file.packet(one)
    data = file.data if given == "pcapng" else pcap(packets, nanoseconds=given == "pcap")
    (tmp_path / "given").write_bytes(data)
    with toolkit.read(tmp_path / "given") as recorded, Capture(None, tmp_path / name) as capture:
        for batch in recorded:
            capture.write(batch)
    assert capture.statistics().untimed == 0
    assert times_of(tmp_path / name) == FIRST
    assert shown(tmp_path / name) == text_of(FIRST)


def test_they_are_counted_and_replayed_at_their_times() -> None:
    with toolkit.read(io.BytesIO(pcap([(ns, DATA, 60) for ns in FIRST]))) as recorded:
        (batch,) = recorded
    assert batch.timestamps.astype(str).tolist()[0] == "1970-01-01T00:00:00.000000000"
    flows = Flows(group="protocol")
    flows.add(batch)
    (flow,) = flows.top()
    assert [int(time.astype(np.int64)) for time in (flow.first, flow.last)] == [0, SECOND]
    assert player()._schedule(batch.timestamps.view(np.int64)).tolist() == FIRST
    for kept in (batch.copy(), pickle.loads(pickle.dumps(batch))):
        assert kept.timestamps.view(np.int64).tolist() == FIRST


def player() -> Replay:
    sock: Any = SimpleNamespace(umem=SimpleNamespace(frame_size=2048), device=SimpleNamespace(mtu=1500))
    return Replay(sock)


def test_a_clock_that_was_set_on_is_not_waited_for() -> None:
    """A machine without a battery begins in 1970, and learns the time on the way; a step back is one as well."""
    now = 1_700_000_000 * SECOND
    times = [0, SECOND, now, now + SECOND, 0, SECOND // 2, now + 3 * SECOND, now + 4 * SECOND]
    due = player()._schedule(np.array(times, dtype=np.int64)) / SECOND
    assert due.tolist() == [0, 1, 1, 2, 2, 2.5, 2.5, 3.5]
    month = 30 * 86_400 * SECOND
    assert player()._schedule(np.array([0, month], dtype=np.int64)).tolist() == [0, month], "that is a gap"


def test_times_at_both_ends_of_datetime64_do_not_upset_the_pace() -> None:
    ends = [-(1 << 63) + 1, -(1 << 63) + 1 + SECOND, (1 << 63) - 1 - SECOND, (1 << 63) - 1]
    due = player()._schedule(np.array(ends, dtype=np.int64))
    assert due.tolist() == [0, SECOND, SECOND, 2 * SECOND]


@pytest.mark.needs("pyarrow")
def test_a_dataset_has_a_day_for_them(tmp_path: Path) -> None:
    times = [-1_000_000_000_000, -(1 << 63) + 1, *FIRST, -1]  # 1969 is one, 1677 another, -1 stands for none
    with ParquetSink(f"{tmp_path}/ds/") as sink:
        sink.write(batch_of(frames(len(times)), times=times))
    days = {directory.parent.name for directory in (tmp_path / "ds").glob("date=*/hour=*")}
    assert days == {f"date={day}" for day in ("1677-09-21", "1969-12-31", "1970-01-01", "__HIVE_DEFAULT_PARTITION__")}


@pytest.mark.parametrize(
    ("name", "time", "reported"),
    [
        ("x.pcap", LAST + 1, r"packet 1 of 2 is of 2106-02-07T06:28:16\.000000000, .* to 2106-02-07T06:28:15.*pcapng"),
        ("x.pcap", -2, r"packet 1 of 2 is of 1969-12-31T23:59:59\.999999998, .*pcapng"),
        ("x.pcapng", -2, r"packet 1 of 2 is of 1969-12-31T23:59:59\.999999998, .*Parquet"),
    ],
)
def test_a_time_that_the_format_cannot_hold_is_refused(tmp_path: Path, name: str, time: int, reported: str) -> None:
    """tcpdump and editcap write another time there (2106 becomes 1970): see the next test."""
    with Capture(None, tmp_path / name) as capture:
        with pytest.raises(ArgumentError, match=reported):
            capture.write(batch_of(frames(2), times=[5, time]))
        assert capture.statistics().received == 0
        capture.write(batch_of(frames(1), times=[LAST if name == "x.pcap" else (1 << 63) - 1]))
    assert capture.statistics().written == 1
    assert len(read_all(tmp_path / name)[0]) == 1


@pytest.mark.needs("tshark", "editcap")
def test_what_others_do_after_2106(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(pcap([(LAST, DATA, 60)]))
    for name, expected in (("b.pcap", 999), ("b.pcapng", LAST // SECOND + 1000)):
        done = subprocess.run(
            ["editcap", "-t", "1000", "-F", name[2:], tmp_path / "a.pcap", tmp_path / name],
            check=False,
            stderr=subprocess.DEVNULL,
        )
        if name == "b.pcap" and done.returncode:
            continue  # newer ones refuse it, as we do
        assert done.returncode == 0
        assert [ns // SECOND for ns in times_of(tmp_path / name)] == [expected]
    with toolkit.read(tmp_path / "b.pcapng") as recorded, Capture(None, tmp_path / "c.pcapng") as capture:
        for batch in recorded:
            capture.write(batch)
    assert shown(tmp_path / "c.pcapng") == shown(tmp_path / "b.pcapng") == text_of([LAST + 1000 * SECOND])


@pytest.mark.needs("tshark")
@pytest.mark.parametrize("offset", [-100, 4_000_000_000, -9_000_000_000])
def test_an_offset_leads_before_1970(tmp_path: Path, offset: int) -> None:
    """if_tsoffset, in seconds, is added to all times of an interface. Wireshark knows no such time below 0."""
    ticks = [0, 50 * SECOND, 150 * SECOND, -offset * SECOND + 7 if offset < 0 else 7]
    file = Pcapng().interface(resolution=b"\x09", offset=offset)
    for one in ticks:
        file.packet((0, DATA, 60), ticks=one)
    (tmp_path / "a.pcapng").write_bytes(file.data)
    with toolkit.read(tmp_path / "a.pcapng") as recorded:
        (batch,) = recorded
    expected = [one + offset * SECOND for one in ticks]
    assert batch.timestamps.view(np.int64).tolist() == expected
    if min(expected) >= 0:
        assert shown(tmp_path / "a.pcapng") == text_of(expected)


@pytest.mark.parametrize("resolution", [b"\x09", b"\x0c", b"\x80\x00", b"\x06", b"\xc0"])
def test_counts_of_64_bits_come_back_with_an_offset(resolution: bytes) -> None:
    """Beyond 63 bits of ns a count fits no more, unless the offset brings it back; never is it another time."""
    unit = resolution[0]
    per_second = 1 << (unit & 0x7F) if unit & 0x80 else 10**unit
    late = 10_000_000_000  # s after 1970: the year 2286
    if late * per_second >= 1 << 64:
        late = (1 << 64) // per_second - 1
    file = Pcapng().interface(resolution=resolution[:1], offset=-8_000_000_000).interface(resolution=resolution[:1])
    for interface in (0, 1):
        file.packet((0, DATA, 60), interface, ticks=late * per_second)
    found, said, error = hear(file.data)
    expected = (late - 8_000_000_000) * SECOND
    undated = late * SECOND >= 1 << 63
    assert error == ""
    assert ("1 packets have a time before 1677 or after 2262" in said) == undated
    with toolkit.read(io.BytesIO(file.data)) as recorded:
        times = np.concatenate([batch.timestamps.view(np.int64) for batch in recorded]) if not undated else None
    assert len(found) == 2
    if times is not None:
        assert times.tolist() == [expected, late * SECOND]
    else:
        assert [one[0] for one in found] == [expected, -1]


def test_a_batch_of_your_own_with_time_0() -> None:
    memory = np.zeros(60, np.uint8)
    descs = np.array([[0, 60]], dtype=np.uint64)
    own = Batch(None, descs, memory=memory, utc_ns=np.zeros(1, np.int64))
    assert own.timestamps[0] == np.datetime64(0, "ns")
    monotonic = Batch(None, descs, memory=memory, arrival_ns=np.zeros(1, np.int64))
    assert np.isnat(monotonic.timestamps[0]), "of CLOCK_MONOTONIC, 0 is none: it is before the kernel had a clock"
