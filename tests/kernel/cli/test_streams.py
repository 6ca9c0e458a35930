# SPDX-License-Identifier: Apache-2.0
"""Standard output gets data and nothing else, standard error all else; one clock; no keyword of Python in a message."""

from __future__ import annotations

import json
import re
import signal
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

import toolkit
from tests.helpers.cli import XSK, running, xsk
from tests.helpers.wire import child_environment
from toolkit.lab import Lab
from toolkit.program import Program

pytestmark = pytest.mark.needs("bcc")

FAR_MAC = "02:00:00:00:00:02"
# What has a line each interval, and how many event descriptors say that it is open.
LINED = {
    "receive": (["receive", "veth0", "udp"], 2),
    "tee": (["receive", "veth0", "udp", "--tee"], 1),
    "drop": (["drop", "veth0", "udp"], 2),
    "forward": (["forward", "veth0", "--back", "udp"], 2),
    "echo": (["echo", "veth0"], 2),
    "top": (["top", "veth0", "udp"], 2),
    "send": (["send", "veth0", "--eth-dst", FAR_MAC, "--rate", "200"], 1),
}
LINE = re.compile(r"^\d\d:\d\d:\d\dZ  .* packets/s  .*total ")
OF_TOP = re.compile(r"^ +[\d.e+-]+ %  .* packets/s ")


@pytest.mark.parametrize("name", LINED)
def test_lines_on_standard_output_and_all_else_on_standard_error(lab: Lab, name: str) -> None:
    arguments, ready = LINED[name]
    with running(lab, *arguments, "--interval", "0.2", "--seconds", "1", ready=ready) as process:
        lab.udp(count=20)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert 2 <= sum(bool(LINE.match(line)) for line in lines) <= 5, out
    assert all(LINE.match(line) or (name == "top" and OF_TOP.match(line)) for line in lines), out
    assert "veth0" in err.splitlines()[0], "what was opened"
    assert re.search(r"^(redirected|sent) \d+", err, re.MULTILINE), "the account"
    assert not re.search(r"[=+] [a-z ]+ 0\b|^ +0  ", err, re.MULTILINE), "figures that are zero"


@pytest.mark.parametrize("name", LINED)
def test_json_keeps_what_is_zero(lab: Lab, name: str) -> None:
    arguments, ready = LINED[name]
    with running(lab, *arguments, "--seconds", "0.5", "--json", ready=ready) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    report = report["directions"][0] if name == "forward" else report
    assert len(report["drop_reasons"]) == 6
    assert report["error"] is None
    assert 0 in report["drop_reasons"].values()


def test_capture_to_a_file_prints_nothing_but_notes(lab: Lab, tmp_path: Path) -> None:
    command = ["capture", "veth0", "udp", "-w", str(tmp_path / "a.pcapng"), "--interval", "0.2", "--seconds", "1"]
    with running(lab, *command) as process:
        lab.udp(count=20)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, ""), err
    assert "native XDP" in err.splitlines()[0]
    assert re.search(r"^\d\d:\d\d:\d\dZ  .*packets/s", err, re.MULTILINE)
    assert "received 20 = written 20\n" in err


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "EST5EDT"])
def test_the_clock_is_utc_wherever_one_is(lab: Lab, zone: str) -> None:
    environment = {**child_environment(), "PYTHONUNBUFFERED": "1", "TZ": zone}
    with running(lab, "receive", "veth0", "udp", "--interval", "0.2", env=environment) as process:
        lab.udp(count=3)
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    now = datetime.now(timezone.utc)
    shown = datetime.strptime(line[:9], "%H:%M:%SZ").replace(tzinfo=timezone.utc)
    apart = abs((now - now.replace(hour=shown.hour, minute=shown.minute, second=shown.second)).total_seconds())
    assert min(apart, 86_400 - apart) < 60, line
    with running(lab, "receive", "veth0", "udp", "-x", "-c", "1", env=environment) as process:
        lab.udp(count=1)
        out, _ = process.communicate(timeout=30)
    stamp = datetime.strptime(out[:26] + "+0000", "%Y-%m-%dT%H:%M:%S.%f%z")
    assert abs(time.time() - stamp.timestamp()) < 60
    assert re.match(r"\S+\.\d{9}Z  ", out)


def test_a_busy_interface_is_answered_with_options(lab: Lab) -> None:
    """No keyword of Python in what the command says: `replace=True` is --replace here."""
    with toolkit.open("veth0", filter="udp", netns=lab.netns):
        done = xsk(lab, "receive", "veth0", "udp")
    assert done.returncode == 1
    assert "--replace" in done.stderr
    with Program.build("xdp_pass.c") as program, program.attach("veth0", mode="native", netns=lab.netns):
        done = xsk(lab, "drop", "veth0", "udp", "--replace")
    assert done.returncode == 1
    assert "--replace-link" in done.stderr
    others = [
        xsk(lab, "receive", "veth0", "udp", "--zero-copy"),
        xsk(lab, "receive", "veth0", "udp", "--queue", "7"),
        xsk(lab, "receive", "veth0", "udp", "--ring-size", "1000"),
        xsk(lab, "receive", "veth0", "udp", "--snaplen", "13"),
        xsk(lab, "receive", "lo", "udp", "--native"),
        xsk(lab, "receive", "veth0", " "),
        xsk(lab, "send", "veth0", "--ip-dst", "10.11.0.77"),
        xsk(lab, "capture", "veth0", "udp", "-w", "/proc/1/x", "--buffer", "1m"),
    ]
    for one in (done, *others):
        assert one.returncode, one.args
        assert not re.search(r"\b[a-z_]+=(True|False|None|\"|\.\.\.)", one.stderr), one.stderr


def beside(lab: Lab, *arguments: str) -> str:
    """What `xsk status` shows in the namespace of the far end."""
    command = [*XSK, "status", *arguments]
    return str(lab.far.run(command, env=child_environment(), capture_output=True, text=True, check=True).stdout)


def test_status_names_the_command_and_asks_in_namespaces(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "-f", "udp port 9") as process:
        path = f"/proc/{process.pid}/ns/net"
        inside = xsk(lab, "status").stdout
        outside = beside(lab, "--netns", path)
        by_pid = beside(lab, "--netns", str(process.pid), "--json")
        far = beside(lab, "--json")
    for shown in (inside, outside):
        (row,) = [line for line in shown.splitlines() if line.startswith("veth0 ")]
        assert row.endswith(f"{process.pid} xsk receive veth0 -f udp port 9"), "in one line, through a pipe"
        assert f"AF_XDP socket of pid {process.pid} (xsk receive veth0 -f udp port 9)" in shown
    names = {one["interface"]: one["holders"] for one in json.loads(by_pid)["interfaces"]}
    assert names["veth0"] == [{"pid": process.pid, "command": "xsk receive veth0 -f udp port 9"}]
    assert "veth0" not in {one["interface"] for one in json.loads(far)["interfaces"]}
