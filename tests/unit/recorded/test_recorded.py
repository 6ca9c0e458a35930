# SPDX-License-Identifier: Apache-2.0
"""toolkit.read(): what a recording holds comes as Batches, whoever wrote it and wherever it comes from."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers.recordings import Pcapng, hear, packet, pcap, read_all
from toolkit.errors import ArgumentError, ClosedError, RecordedError, SystemCallError
from toolkit.recorded import window
from toolkit.recorded.recorded import read

PACKETS = [packet(i, (60, 1500, 14, 61, 9000, 1)[i % 6]) for i in range(200)]
MICRO = [(time // 1000 * 1000, data, wire) for time, data, wire in PACKETS]


@pytest.fixture(params=[64, 1 << 20], ids=["small-pieces", "pieces"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Also with pieces so small that every packet lies across two of them."""
    monkeypatch.setattr(window, "_PIECE", request.param)
    return int(request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("batch_size", [1, 7, 4096])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nanoseconds", [True, False])
def test_pcap(order: str, nanoseconds: bool, batch_size: int) -> None:
    found, recorded = read_all(pcap(PACKETS, order, nanoseconds=nanoseconds), batch_size=batch_size)
    assert found == (PACKETS if nanoseconds else MICRO)
    assert (recorded.format, recorded.packets, recorded.cut_at) == ("pcap", 200, None)
    assert (recorded.link_types, recorded.interface, recorded.filter, recorded.statistics()) == ((1,), "", "", {})


def pcapng(order: str = "<") -> Pcapng:
    file = Pcapng(order).interface(name=b"eth7", filter=b"\0udp port 53", os=b"Linux", description=b"the uplink")
    for one in PACKETS:
        file.packet(one)
    return file.statistics(received=1000, dropped=7)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("batch_size", [1, 7, 4096])
@pytest.mark.parametrize("order", "<>")
def test_pcapng(order: str, batch_size: int) -> None:
    found, recorded = read_all(pcapng(order).data, batch_size=batch_size)
    assert found == MICRO
    assert (recorded.format, recorded.interface, recorded.filter) == ("pcapng", "eth7", "udp port 53")
    assert recorded.interfaces[0].os == "Linux"
    assert recorded.interfaces[0].description == "the uplink"
    assert recorded.statistics() == {"received": 1000, "dropped": 7}


def test_what_the_file_says_is_known_before_the_first_packet() -> None:
    with read(io.BytesIO(pcapng().data)) as recorded:
        assert (recorded.interface, recorded.filter, recorded.packets) == ("eth7", "udp port 53", 0)


@pytest.mark.usefixtures("piece")
def test_sections_interfaces_and_blocks_of_every_kind() -> None:
    file = Pcapng("<", options=Pcapng("<").option(1, b"by hand") + bytes(4))
    file.interface(name=b"a").interface(name=b"b", resolution=b"\x09", offset=-1000).block(0x0BAD, b"custom" * 50)
    file.packet(PACKETS[0]).packet(PACKETS[1], 1, ticks=PACKETS[1][0] + 1000 * 10**9)
    file.simple(PACKETS[2]).obsolete(PACKETS[3], 0).block(4, b"names").packet(PACKETS[4], options=bytes(8))
    file.statistics(0, received=5).statistics(0, received=10, dropped=1).statistics(1, received=100)
    file.section(">").interface(name=b"c", offset=1).packet(PACKETS[5], ticks=MICRO[5][0] // 1000 - 1_000_000)
    file.simple(PACKETS[7]).interface().obsolete(PACKETS[6], 1)
    file.statistics(0, received=1000, os_dropped=3)
    found, recorded = read_all(file.data)
    untimed = [(-1, *PACKETS[i][1:]) for i in (2, 7)]
    assert found == [
        MICRO[0],
        PACKETS[1],
        untimed[0],
        MICRO[3],
        MICRO[4],
        MICRO[5],
        untimed[1],
        MICRO[6],
    ]
    assert [one.name for one in recorded.interfaces] == ["a", "b", "c", ""]
    assert recorded.statistics() == {"received": 1110, "dropped": 1, "os_dropped": 3}, "the last word of each interface"
    assert recorded.comment == "by hand"


RESOLUTIONS: dict[int, tuple[int, int]] = {  # if_tsresol: (ticks, ns)
    0: (1_700_000_000, 1_700_000_000_000_000_000),
    3: (1_700_000_000_123, 1_700_000_000_123_000_000),
    6: (1_700_000_000_123_456, 1_700_000_000_123_456_000),
    9: (1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
    10: (17_000_000_001_234_567_899, 1_700_000_000_123_456_789),
    12: (3_123_456_789_999, 3_123_456_789),
    0x80: (1_700_000_000, 1_700_000_000_000_000_000),
    0x80 | 10: (1_700_000_000 << 10 | 512, 1_700_000_000_500_000_000),
    0x80 | 32: (1_700_000_000 << 32 | 1 << 30, 1_700_000_000_250_000_000),
    0x80 | 40: (1_700_000 << 40 | 1 << 38, 1_700_000_250_000_000),
    0x80 | 63: (1 << 62, 500_000_000),
    127: (1, 0),
}


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_resolutions(resolution: int) -> None:
    ticks, ns = RESOLUTIONS[resolution]
    file = Pcapng().interface(resolution=bytes([resolution])).packet(PACKETS[0], ticks=ticks)
    assert [one[0] for one in read_all(file.data)[0]] == [ns]


def test_times_that_are_none() -> None:
    """A count that no datetime64[ns] holds: NaT, never a wrong time, and a warning. 0 is a time as any other."""
    file = Pcapng().interface(resolution=b"\0").interface(resolution=b"\x09", offset=1 << 40).interface(offset=10)
    file.interface(resolution=b"\x80").interface(resolution=b"\x09", offset=9_000_000_000)
    for interface, ticks in ((0, 0), (0, 1 << 40), (0, (1 << 64) - 1), (1, 5), (2, 1), (3, 1 << 60), (4, 10**18)):
        file.packet(PACKETS[0], interface, ticks=ticks)
    found, said, error = hear(file.data)
    assert [one[0] for one in found] == [0, -1, -1, -1, 10_000_001_000, -1, -1]
    assert ("5 packets have a time before 1677 or after 2262" in said, error) == (True, "")
    assert [one[0] for one in read_all(pcap([(0, b"x" * 60, 60)]))[0]] == [0]


def test_snaplen_and_simple_packets() -> None:
    file = Pcapng().interface(snaplen=96).simple((0, b"a" * 96, 1500)).simple((0, b"b" * 61, 61))
    assert read_all(file.data)[0] == [(-1, b"a" * 96, 1500), (-1, b"b" * 61, 61)]


def test_packets_of_other_links_are_left_out_and_counted() -> None:
    file = Pcapng().interface().interface(113)
    for i in range(10):
        file.packet(PACKETS[i], i % 2)
    with pytest.warns(UserWarning, match="5 packets are of another link type"):
        found, recorded = read_all(file.data)
    assert (found, recorded.skipped, recorded.packets) == (MICRO[:10:2], 5, 5)


@pytest.mark.parametrize(
    ("link", "name"), [(113, "LINUX_SLL.*113.*by name"), (101, "RAW.*101"), (147, "link type 147")]
)
def test_other_links_only(link: int, name: str) -> None:
    for data in (pcap(PACKETS, link=link), Pcapng().interface(link).packet(PACKETS[0]).data):
        with pytest.raises(RecordedError, match=name):
            read_all(data)


# --- Batches like any other -------------------------------------------------------------------------------------------


def test_batches_are_good_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "_PIECE", 1 << 17)
    with read(io.BytesIO(pcap(PACKETS)), batch_size=16) as recorded:
        batches = list(recorded)
        assert len(batches) >= 200 // 16
    assert [bytes(one) for batch in batches for one in batch] == [data for _, data, _ in PACKETS]
    kept = pickle.loads(pickle.dumps(batches))
    for before, after in zip(batches, kept, strict=True):
        assert (after.timestamps == before.timestamps).all()
        assert (after.wire_lengths == before.wire_lengths).all()
        assert [bytes(one) for one in after] == [bytes(one) for one in before]
    assert len(pickle.dumps(batches[0])) < 2 * batches[0].lengths.sum() + 4096, "not the whole piece"
    assert not batches[0].stale
    assert batches[0].packet(0).readonly
    assert (batches[0].arrival_ns == 0).all()
    assert batches[0].head(4)[:3, 3].tolist() == [0, 1, 2]


def test_receive_as_if_live() -> None:
    recorded = read(io.BytesIO(pcap(PACKETS)))
    taken = []
    while batch := recorded.receive(timeout=1.0, limit=30):
        taken.append(len(batch))
    assert taken == [30] * 6 + [20]
    assert len(recorded.receive(timeout=0)) == 0
    assert list(recorded) == []
    recorded.close()
    recorded.close()
    with pytest.raises(ClosedError, match=r"toolkit\.read"):
        recorded.receive()


def test_it_decodes() -> None:
    from toolkit.packets.frames import udp_frame

    with read(
        io.BytesIO(pcap([(1, udp_frame(size=size, destination_port=9), size) for size in (64, 100, 1500)]))
    ) as recorded:
        (batch,) = recorded
        assert batch.decode()["dst_port"].tolist() == [9, 9, 9]
        assert batch.lengths.tolist() == [64, 100, 1500]


# --- where from -------------------------------------------------------------------------------------------------------


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


COMPRESSORS: dict[str, Any] = {
    "plain": bytes,
    "gz": gzip.compress,
    "zst": zstd,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
NEEDS = {"zst": pytest.mark.needs("zstd")}


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("kind", [pytest.param(one, marks=NEEDS.get(one, ())) for one in COMPRESSORS])
@pytest.mark.parametrize("parts", [1, 3])
def test_files_plain_and_compressed(tmp_path: Path, kind: str, parts: int) -> None:
    data, compress = pcapng().data, COMPRESSORS[kind]
    path = tmp_path / "any name"
    size = len(data) // parts + 1
    path.write_bytes(b"".join(compress(data[i : i + size]) for i in range(0, len(data), size)))
    assert read_all(path)[0] == read_all(str(path))[0] == MICRO
    assert len(next(read(os.fsencode(path)))) > 0
    with path.open("rb") as file:
        assert read_all(file)[0] == MICRO
        assert not file.closed, "not ours to close"


def test_gzip_filled_up_with_zeros() -> None:
    whole = gzip.compress(pcap(PACKETS))
    for padding in (1, 5000, 65536 - len(whole), 70_000, 200_000):
        assert read_all(whole + bytes(padding))[0] == PACKETS
    assert read_all(whole + bytes(70_000) + gzip.compress(pcap(PACKETS)[24:]))[0] == PACKETS * 2


class Trickle:
    """read() only, and little at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int) -> bytes:
        out, self.data = self.data[: min(size, 13)], self.data[min(size, 13) :]
        return out


def test_an_object_that_can_but_read() -> None:
    assert read_all(Trickle(pcapng().data))[0] == MICRO


def test_a_pipe_gives_packets_as_they_come() -> None:
    receiver, sender = os.pipe()
    first, rest = pcap(PACKETS[:3]), pcap(PACKETS[3:])[24:]
    with open(receiver, "rb") as file, open(sender, "wb", buffering=0) as target:
        target.write(first)
        recorded = read(file)
        assert [bytes(one) for one in next(recorded)] == [one[1] for one in PACKETS[:3]], "without waiting for more"
        writer = threading.Thread(target=lambda: (target.write(rest[:5]), target.write(rest[5:]), target.close()))
        writer.start()
        assert [bytes(one) for batch in recorded for one in batch] == [one[1] for one in PACKETS[3:]]
        writer.join()


def test_standard_input() -> None:
    code = "import toolkit; print(sum(map(len, toolkit.read('-'))))"
    done = subprocess.run([sys.executable, "-c", code], input=pcap(PACKETS), capture_output=True, check=True)
    assert done.stdout.split() == [b"200"]


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.pcap"
    records = pcap([packet(1, 1500)] * 1000)
    with path.open("wb") as file:
        file.write(records[:24])
        for _ in range(100):
            file.write(records[24:])
    code = f"""if True:
        import resource, toolkit
        largest = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        recorded = toolkit.read({str(path)!r})
        next(recorded).decode()
        before = largest()
        total = sum(len(batch.timestamps) for batch in recorded)
        print(total, largest() - before)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    total, grown = map(int, done.stdout.split())
    assert total > 90_000
    assert grown < 30_000, f"{grown} KB for a file of 150 MB"


# --- written by others ------------------------------------------------------------------------------------------------


def test_scapy_s_files(tmp_path: Path) -> None:
    from scapy.layers.l2 import Ether
    from scapy.utils import PcapNgWriter, PcapWriter

    made = [Ether(data) for _, data, _ in PACKETS if len(data) >= 14]
    for i, one in enumerate(made):
        one.time = 1_700_000_000 + i / 4
    names = {"a.pcap": lambda path: PcapWriter(path, nano=True), "b.pcapng": PcapNgWriter}
    for name, writer in names.items():
        path = str(tmp_path / name)
        with writer(path) as out:
            for one in made:
                out.write(one)
        found, _ = read_all(path)
        assert [one[1] for one in found] == [bytes(one) for one in made]
        assert [one[0] for one in found] == [1_700_000_000_000_000_000 + i * 250_000_000 for i in range(len(made))]


@pytest.mark.needs("tcpdump")
def test_tcpdump_reads_the_same(tmp_path: Path) -> None:
    """The oracle for the bytes made here: libpcap finds what we find."""
    for name, data in {"a.pcap": pcap(PACKETS, ">"), "b.pcapng": pcapng(">").data}.items():
        (tmp_path / name).write_bytes(data)
        again = tmp_path / f"again-{name}"
        subprocess.run(
            ["tcpdump", "--time-stamp-precision=nano", "-r", tmp_path / name, "-w", again],
            capture_output=True,
            check=True,
        )
        assert read_all(again)[0] == read_all(tmp_path / name)[0]


# --- wrong from the beginning -----------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"\xd4\xc3", "only 2 bytes"),
    "cut header": (pcap([])[:20], "middle of its header"),
    "text": (b"GET / HTTP/1.0\r\n", r"neither pcap nor pcapng: it begins with 47 45 54 20"),
    "parquet": (b"PAR1" + bytes(100), "pyarrow"),
    "version": (pcap([])[:4] + b"\x09\0\x04\0" + pcap([])[8:], "version 9.4"),
    "section version": (Pcapng(version=(2, 0)).data, "version 2.0"),
    "byte order": (Pcapng().data[:8] + b"abcd" + Pcapng().data[12:], "byte-order magic"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_recording(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(RecordedError, match=message):
        read_all(data)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SystemCallError, match=r"cannot read .*nothing: No such file"):
        read(tmp_path / "nothing")
    with pytest.raises(SystemCallError, match="EISDIR"):
        read(tmp_path)
    with pytest.raises(ArgumentError, match=r"NUL|null"):
        read("a\0b")
    with pytest.raises(ArgumentError, match='mode "rb"'):
        read(io.StringIO("text"))
    for wrong in (7, None, object()):
        with pytest.raises(ArgumentError, match="give a path"):
            read(wrong)
    with pytest.raises(ArgumentError, match="batch_size"):
        read(io.BytesIO(pcap(PACKETS)), batch_size=0)


def test_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(pcap(PACKETS))
    (tmp_path / "b.pcap").write_bytes(b"nothing of the kind")
    before = os.listdir("/proc/self/fd")
    toolkit.read(tmp_path / "a.pcap").close()
    with pytest.raises(RecordedError):
        toolkit.read(tmp_path / "b.pcap")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_it_is_at_a_glance() -> None:
    with read(io.BytesIO(pcap(PACKETS))) as recorded:
        assert "pcap, 0 packets read, open" in repr(recorded)
        total = sum(len(batch) for batch in recorded)
        assert (total, recorded.closed) == (200, False)
        assert "200 packets read, at its end" in repr(recorded)
    assert "closed" in repr(recorded)
