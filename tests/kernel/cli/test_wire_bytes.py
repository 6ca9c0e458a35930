# SPDX-License-Identifier: Apache-2.0
"""Bytes, bits and totals are those on the wire, whatever snaplen left of the packets: in live lines and at the end."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cli import ENVIRONMENT, XSK, ended, running
from tests.helpers.wire import Wire, eventually, udp_frame
from toolkit.lab import Lab

pytestmark = pytest.mark.needs("bcc")

COUNT, SIZE = 200, 1042  # packets, and the bytes of each
FRAMES = [udp_frame(bytes(1000))] * COUNT
COMMANDS = {
    "receive": ["receive", "veth0", "-f", "udp"],
    "receive --tee": ["receive", "veth0", "-f", "udp", "--tee"],
    "top": ["top", "veth0", "-f", "udp"],
    "top --tee": ["top", "veth0", "-f", "udp", "--tee"],
    "drop": ["drop", "veth0", "-f", "udp"],
    "capture": ["capture", "veth0", "udp"],
    "capture --tee": ["capture", "veth0", "udp", "--tee"],
}
EACH = pytest.mark.parametrize("name", COMMANDS)


def arguments(name: str, tmp_path: Path) -> list[str]:
    more = ["-w", f"{tmp_path}/x.pcapng"] if name.startswith("capture") else []
    return [*COMMANDS[name], "-s", "64", *more]


def number(text: str) -> float:
    """What a figure with a unit says."""
    value, _, unit = text.partition(" ")
    powers = {"": 1, "k": 1e3, "M": 1e6, "bit/s": 1, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}
    return float(value.replace(",", "")) * powers[unit]


@EACH
def test_live_lines_and_the_sum(lab: Lab, wire: Wire, tmp_path: Path, name: str) -> None:
    """A line's bits are its packets times 8336, to three digits; the bytes at the end are all of them."""
    with running(
        lab,
        *arguments(name, tmp_path),
        "--interval",
        "0.2",
        ready=1 if "--tee" in name else 2,
        stderr=subprocess.STDOUT,
    ) as process:
        wire.send(FRAMES)
        assert process.stdout is not None
        seen = ""
        while f"total {COUNT:>8}" not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, rest
    rates = re.findall(r"([\d,.]+(?: [kM])?) packets/s +([\d,.e+]+ [kMG]?bit/s)", seen)
    told = [(number(packets), number(bits)) for packets, bits in rates if number(packets)]
    assert told, seen
    for packets, bits in told:
        assert bits / packets == pytest.approx(8 * SIZE, rel=0.02), seen
    assert f"{COUNT} packets, {COUNT * SIZE:,} bytes" in rest
    if name.startswith("capture"):
        assert f"(kept: {COUNT * 64:,})" in rest


@EACH
def test_the_json_object(lab: Lab, wire: Wire, tmp_path: Path, name: str) -> None:
    with running(lab, *arguments(name, tmp_path), "--json", ready=1 if "--tee" in name else 2) as process:
        wire.send(FRAMES)
        assert eventually(lambda: arrived(lab) >= COUNT, 10, step=0.05)
        report = ended(process)
    if name.startswith("capture"):
        assert (report["wire_bytes"], report["written_bytes"]) == (COUNT * SIZE, COUNT * 64)
    else:
        assert report["received_bytes"] == COUNT * SIZE
        assert report["taken_bytes"] == report["taken"] * SIZE
    assert report["matched_bytes"] == COUNT * SIZE
    if name.startswith("top"):
        assert sum(row["bytes"] for row in report["top"]) == COUNT * SIZE


def arrived(lab: Lab) -> int:
    """How many packets the near end's driver has seen."""
    told = lab.netns.run(["ip", "-j", "-s", "link", "show", lab.interface], capture_output=True, text=True, timeout=20)
    return int(json.loads(told.stdout)[0]["stats64"]["rx"]["packets"])


@pytest.mark.needs("pyarrow")
def test_tables_hold_packets_whole(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    """A Parquet file takes headers out of what snaplen left; its wire_length and the command's figures are right."""
    path = tmp_path / "x.parquet"
    with running(lab, "capture", "veth0", "udp", "-s", "64", "-w", str(path), "--json") as process:
        wire.send(FRAMES)
        assert eventually(lambda: arrived(lab) >= COUNT, 10, step=0.05)
        report = ended(process)
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    assert sum(table["wire_length"].to_pylist()) == report["wire_bytes"] == COUNT * SIZE
    assert sum(table["length"].to_pylist()) == report["written_bytes"] == COUNT * 64


def test_workers_too(lab: Lab, wire: Wire) -> None:
    command = ["receive", "veth0", "-f", "udp", "-s", "64", "--workers", "1", "--json"]
    process = lab.netns.popen(
        [*XSK, *command], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:

        def reached() -> bool:
            """Whether a packet sent now goes to the worker: it enters its socket in the map when it is ready."""
            before = kernel_udp(lab)
            wire.send([udp_frame(b"")])
            return not eventually(lambda: kernel_udp(lab) > before, 0.5, step=0.02)

        assert eventually(lambda: process.poll() is not None or attached(lab), 30, step=0.1)
        assert eventually(reached, 30, step=0.1)
        wire.send(FRAMES)
        report = ended(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    probes = report["received"] - COUNT
    assert probes >= 1
    assert report["received_bytes"] == COUNT * SIZE + probes * len(udp_frame(b""))


def attached(lab: Lab) -> bool:
    told = lab.netns.run(["ip", "-j", "link", "show", lab.interface], capture_output=True, text=True, timeout=20)
    return "xdp" in json.loads(told.stdout)[0]


def kernel_udp(lab: Lab) -> int:
    """Datagrams that the near end's kernel got, for a port that nobody has."""
    text = lab.netns.run(["cat", "/proc/net/snmp"], capture_output=True, text=True, timeout=20).stdout
    names, values = [line.split() for line in text.splitlines() if line.startswith("Udp:")]
    return int(values[names.index("NoPorts")])


def test_the_rates_of_top_after_a_grouping_key(lab: Lab) -> None:
    """What was counted since the key is divided by the time since the key, not by a moment of it."""
    ours, theirs = pty.openpty()
    seen: list[str] = []
    over = threading.Event()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    sender = threading.Thread(target=lambda: lab.udp(payloads(over), rate=200, destination_port=9000), daemon=True)
    process: Any = lab.netns.popen(
        [*XSK, "top", "veth0", "-f", "udp", "--interval", "0.5"],
        env=ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=own_terminal,
    )

    def pictures(text: str, count: int = 1) -> bool:
        while select.select([ours], [], [], 0)[0]:
            seen.append(os.read(ours, 65536).decode(errors="ignore"))
        return "".join(seen).count(text) >= count

    try:
        assert eventually(lambda: pictures("the kernel does not get"), 30), seen
        sender.start()
        assert eventually(lambda: pictures("10.11.0.1:9000 UDP"), 30), seen
        for key, title in ((b"s", "sources"), (b"o", "ports"), (b"r", "protocols"), (b"f", "flows")):
            seen.clear()
            os.write(ours, key)
            assert eventually(lambda title=title: pictures(title, 3), 30), seen  # the last with all of an interval
            rates = re.findall(r"([\d,.]+(?: [kM])?) packets/s", "".join(seen))
            assert rates
            assert max(map(number, rates)) < 20 * 200, (key, rates)
        os.write(ours, b"q")
        assert eventually(lambda: process.poll() is not None or pictures("never"), 20), seen
    finally:
        over.set()
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    sender.join(20)


def payloads(over: threading.Event) -> Any:
    began = time.monotonic()
    while not over.is_set() and time.monotonic() - began < 60:
        yield bytes(18)
