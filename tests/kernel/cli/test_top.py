# SPDX-License-Identifier: Apache-2.0
"""xsk top: real traffic, as lines, as JSON, and as a live table that obeys keys."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest

from tests.helpers.cli import ENVIRONMENT, XSK, running, xsk
from tests.helpers.wire import Wire, eventually, udp_frame
from toolkit.lab import Lab

pytestmark = pytest.mark.needs("bcc")

TOP = ["top", "veth0", "-f", "udp port 9000"]
TERMINAL = ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "120"}
FRAMES = [udp_frame(bytes(10), source_port=7001)] * 30 + [udp_frame(bytes(500), source_port=7002)] * 10


def watching(lab: Lab, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Run xsk top, its errors among its output."""
    return running(lab, *TOP, *arguments, env=TERMINAL, stderr=subprocess.STDOUT)


def until(process: subprocess.Popen[str], text: str, timeout: float = 20) -> str:
    """Read its output until `text` is in it."""
    assert process.stdout is not None
    seen, deadline = "", time.monotonic() + timeout
    while text not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([process.stdout], [], [], 0.1)[0]:
            raw = os.read(process.stdout.fileno(), 65536).decode()
            assert raw, seen
            seen += raw
    return seen


def test_lines_name_the_largest_first(lab: Lab, wire: Wire) -> None:
    with watching(lab, "--interval", "0.3") as process:
        wire.send(FRAMES)
        seen = until(process, ":7001 → 10.11.0.1:9000 UDP")
        largest = [line for line in seen.splitlines() if "UDP" in line and "packets/s" in line]
        assert "10.11.0.2:7002" in largest[0]
        assert largest[0].lstrip()[0].isdigit()
        process.send_signal(signal.SIGINT)
        rest = until(process, "redirected 40 = received 40")
        assert process.wait(20) == 0
        assert "40 packets" in rest


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("flow", ["10.11.0.2:7001 → 10.11.0.1:9000 UDP", "10.11.0.2:7002 → 10.11.0.1:9000 UDP"]),
        ("source", ["10.11.0.2"]),
        ("destination", ["10.11.0.1"]),
        ("port", ["7001/UDP", "7002/UDP"]),
        ("protocol", ["UDP"]),
    ],
)
def test_json_tells_all_of_it_in_one_object(lab: Lab, wire: Wire, group: str, names: list[str]) -> None:
    with watching(lab, "--json", "--group", group, "--by", "packets") as process:
        wire.send(FRAMES)
        assert eventually(lambda: _arrived(lab) >= len(FRAMES), 10, step=0.1)
        process.send_signal(signal.SIGTERM)
        told = json.loads(process.communicate(timeout=20)[0])
    assert process.returncode == 0
    assert [row["name"] for row in told["top"]] == names
    assert sum(row["packets"] for row in told["top"]) == told["received"] == len(FRAMES)
    assert sum(row["bytes"] for row in told["top"]) == told["received_bytes"] == sum(map(len, FRAMES))
    assert (told["group"], told["by"], told["evicted"]["flows"]) == (group, "packets", 0)
    assert told["top"][0]["last"].endswith("Z")


def _arrived(lab: Lab) -> int:
    """How many packets the near end's driver has seen."""
    told = lab.netns.run(["ip", "-j", "-s", "link", "show", lab.interface], capture_output=True, text=True, timeout=20)
    return int(json.loads(told.stdout)[0]["stats64"]["rx"]["packets"])


def test_a_table_obeys_keys_and_leaves_the_terminal_as_it_was(lab: Lab, wire: Wire) -> None:
    ours, theirs = pty.openpty()
    seen = b""

    def shown(text: str) -> bool:
        nonlocal seen
        while select.select([ours], [], [], 0)[0]:
            seen += os.read(ours, 65536)
        return text in seen.decode(errors="ignore")

    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    before = termios.tcgetattr(theirs)

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = lab.netns.popen(
        [*XSK, *TOP, "--interval", "0.2"],
        env=TERMINAL,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=own_terminal,
    )
    try:
        assert eventually(lambda: shown("the kernel does not get"), 20), seen
        wire.send(FRAMES)
        assert eventually(lambda: shown("10.11.0.2:7002 → 10.11.0.1:9000 UDP"), 10), seen
        os.write(ours, b"p")
        assert eventually(lambda: shown("by packets"), 10), seen
        os.write(ours, b"s")
        assert eventually(lambda: shown("sources"), 10), seen
        os.write(ours, b"q")
        assert eventually(lambda: shown("redirected 40 = received 40"), 10), seen
        assert process.wait(20) == 0
        assert termios.tcgetattr(theirs)[3] == before[3]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_what_stands_in_the_way_is_said_before_anything_is_taken(lab: Lab) -> None:
    done = xsk(lab, "top", "veth0")
    assert done.returncode == 2
    assert "filter" in done.stderr
    done = xsk(lab, "top", "--help")
    assert "so that this host does not get them" in " ".join(done.stdout.split())


def test_names_are_shown_as_they_are() -> None:
    """Brackets, and colons round letters, mean something to the library that draws the table."""
    from rich.console import Console

    from toolkit.cli.view.shares import share_table

    names = ["[fe80::1]:546 → [ff02::1:2]:547 UDP", "02:00:00:cd:ab:01", "tcp[tcpflags] & tcp-syn != 0 [/]"]
    console = Console(width=120, force_terminal=False)
    with console.capture() as shown:
        console.print(share_table("flow", ("packets",), [(name, "1") for name in names]))
    for name in names:
        assert name in shown.get()
