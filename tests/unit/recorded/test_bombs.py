# SPDX-License-Identifier: Apache-2.0
"""A small file that becomes a large one without packets: reading it ends soon, in little memory, and at any moment."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.recordings import Pcapng, hear, packet, pcap, read_all
from tests.helpers.zstd import zstd
from toolkit.errors import RecordedError
from toolkit.recorded import window

MB = 1 << 20
PACKETS = [packet(i, 60) for i in range(5)]


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}


def unknown(size: int, count: int = 1) -> bytes:
    """Blocks of a type that nobody knows, `size` bytes each."""
    return Pcapng().block(0x0BAD, bytes(size - 12)).data[28:] * count


def start() -> bytes:
    file = Pcapng().interface().interface(link=105)
    for one in PACKETS:
        file.packet(one)
    return file.data


def other_link() -> bytes:
    """A packet of Wi-Fi, which is left out."""
    return Pcapng().packet((0, bytes(1000), 1000), 1).data[28:]


# What comes behind the packets, again and again: 4 MB of it.
WITHOUT_PACKETS: dict[str, tuple[bytes, bytes]] = {
    "zeros": (pcap(PACKETS), bytes(4 * MB)),
    "unknown blocks, large": (start(), unknown(4 * MB)),
    "unknown blocks, small": (start(), unknown(64, 4 * MB // 64)),
    "names of hosts": (start(), Pcapng().block(4, bytes(4 * MB)).data[28:]),
    "packets of other links": (start(), other_link() * (4 * MB // len(other_link()))),
    "interfaces without end": (start(), Pcapng().block(1, bytes([1]) + bytes(4 * MB)).data[28:]),
}


@pytest.mark.timing("CPU time, which a CPU that is shared (SMT, a host) lengthens")
@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize("what", WITHOUT_PACKETS)
def test_reading_ends_soon(compress: str, what: str) -> None:
    """A gigabyte in little: all packets before it come, then an error (or that only zeros follow)."""
    first, rest = WITHOUT_PACKETS[what]
    make = COMPRESSORS[compress]
    member = make(rest)
    file = io.BytesIO(make(first) + member * 256)
    began = time.process_time()
    with toolkit.read(file) as recorded:
        found = 0
        with pytest.warns() if what == "zeros" else pytest.raises(RecordedError) as reported:
            for batch in recorded:
                found += len(batch)
    spent = time.process_time() - began
    text = " ".join(str(one.message) for one in reported) if what == "zeros" else str(reported.value)
    assert found == len(PACKETS)
    assert ("as far as was looked" if what == "zeros" else "on hold no Ethernet packet") in text
    assert file.tell() < 10 * len(member) + MB, "20 MB, and not a gigabyte"
    assert spent < 5


@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize("what", ["zeros", "unknown blocks, large", "interfaces without end"])
def test_reading_takes_little_memory(compress: str, what: str) -> None:
    first, rest = WITHOUT_PACKETS[what]
    make = COMPRESSORS[compress]
    data = make(first) + make(rest) * 64
    tracemalloc.start()
    try:
        hear(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * MB


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_before_the_first_packet_too(compress: str) -> None:
    """read() itself looks for the first packet."""
    make = COMPRESSORS[compress]
    data = make(Pcapng().data) + make(unknown(4 * MB)) * 256
    with pytest.raises(RecordedError, match=r"bytes from offset 0 on hold no Ethernet packet"):
        toolkit.read(io.BytesIO(data))


def test_what_an_honest_recorder_writes_beside_packets_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics each second of a day without a packet: they compress to a tenth, not to a thousandth."""
    monkeypatch.setattr(window, "_FRUITLESS", MB)
    file = Pcapng().interface().packet(PACKETS[0])
    numbers = np.random.default_rng(1).integers(1, 100, 60_000).cumsum().tolist()
    count = 0x1122334455667788
    block = Pcapng().statistics(received=count, accepted=0, dropped=0).data[28:]
    file.data += b"".join(block.replace(count.to_bytes(8, "little"), n.to_bytes(8, "little")) for n in numbers)
    file.packet(PACKETS[1])
    assert len(file.data) > 2 * MB
    found, said, error = hear(gzip.compress(file.data))
    assert ([one[1] for one in found], said, error) == ([one[1] for one in PACKETS[:2]], "", "")


def test_packets_now_and_then_are_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is what comes without a packet, not how small a file was made."""
    monkeypatch.setattr(window, "_FRUITLESS", 2 * MB)
    file = Pcapng().interface()
    for i in range(30):
        file.packet(packet(i, 60)).block(0x0BAD, bytes(MB))
    found, said, error = hear(gzip.compress(file.data))
    assert (len(found), said, error) == (30, "", "")


def test_a_plain_file_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "_FRUITLESS", MB)
    file = Pcapng().interface().packet(PACKETS[0]).block(0x0BAD, bytes(8 * MB)).packet(PACKETS[1])
    assert len(read_all(file.data)[0]) == 2


@pytest.mark.parametrize("where", ["before", "between", "behind"])
def test_frames_of_zstd_that_are_to_be_skipped(where: str) -> None:
    """Programs put an index or a checksum there; a file may begin with one."""
    skipped = b"\x5a\x2a\x4d\x18" + (1000).to_bytes(4, "little") + bytes(1000)
    data = pcap(PACKETS)
    parts = [zstd(data[:100]), zstd(data[100:])]
    parts.insert({"before": 0, "between": 1, "behind": 2}[where], skipped)
    assert len(read_all(b"".join(parts))[0]) == len(PACKETS)


def test_skipped_frames_and_empty_members_without_end_can_be_interrupted() -> None:
    """They give no byte at all, and take as long as the file is: whoever is asked in between may end it."""
    for data in (
        gzip.compress(b"") * 200_000,
        zstd(b"x") + (b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + bytes(4)) * 500_000,
    ):
        calls = 0

        def enough() -> None:
            nonlocal calls
            calls += 1
            if calls > 20:
                raise TimeoutError

        with pytest.raises(TimeoutError):
            toolkit.read(io.BytesIO(data), between=enough)


@pytest.mark.timing("CPU time, which a CPU that is shared (SMT, a host) lengthens")
def test_options_without_end() -> None:
    """Four million of them in one block, each of which says nothing."""
    options = b"\x01\x00\x00\x00" * (4 * MB - 100)
    file = Pcapng(options=options[: 15 * MB]).interface().packet(PACKETS[0])
    began = time.process_time()
    assert len(read_all(file.data)[0]) == 1
    assert time.process_time() - began < 1


@pytest.mark.timing("the end of a process is due 2 s after SIGINT")
@pytest.mark.parametrize("what", ["zeros", "small blocks", "compressed"])
def test_ctrl_c_is_heard(tmp_path: Path, what: str) -> None:
    """A KeyboardInterrupt comes at once, whatever is being read."""
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(pcap(PACKETS) if what == "zeros" else start())
        if what == "zeros":
            file.truncate(1 << 38)
        elif what == "small blocks":
            file.write(unknown(12, 60 * MB // 12))
        else:
            file.write(b"")
    if what == "compressed":
        path.write_bytes(bz2.compress(start()) + bz2.compress(unknown(1 * MB) * 40) * 100)
    code = (
        "import sys, time, toolkit, warnings\n"
        "from toolkit.recorded import window\n"
        "window._FRUITLESS = 1 << 60\n"
        "warnings.simplefilter('ignore')\n"
        "def began():\n    global told\n    print('reading', flush=True) if not told else None\n    told = True\n"
        "told = False\n"
        "try:\n"
        "    with toolkit.read(sys.argv[1], between=began) as recorded:\n"
        "        for batch in recorded: pass\n"
        "    print('over')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True, preexec_fn=_hears_interrupts
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - sent < 2, "0.2 s where nobody else wants the CPU"
        process.wait(10)
    finally:
        process.kill()
        process.communicate()


def _hears_interrupts() -> None:
    """As a foreground command does, though the suite may run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_it_can_be_gone_on_with_after_an_exception_in_between() -> None:
    """What `between` raises comes out of the iteration; nothing is lost by it."""
    file = Pcapng().interface()
    for one in PACKETS:
        file.packet(one).block(0x0BAD, bytes(3 * MB))
    raised = 0
    found: list[Any] = []
    with toolkit.read(io.BytesIO(file.data)) as recorded:

        def now_and_then() -> None:
            nonlocal raised
            raised += 1
            if raised % 3 == 0:
                raise InterruptedError

        recorded.between = now_and_then
        while len(found) < len(PACKETS):
            try:
                found += [bytes(one) for one in recorded.receive()]
            except InterruptedError:
                continue
    assert found == [one[1] for one in PACKETS]
    assert raised > 10
