# SPDX-License-Identifier: Apache-2.0
"""scripts/guest with guests: what a command gets and gives back, and what is said of a guest that does not end well."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.wire import eventually

pytestmark = [pytest.mark.boots("it runs machines in emulation"), pytest.mark.needs_root]
GUEST = ROOT / "scripts/guest"
STORE = Path(os.environ.get("GUEST_ROOT", "/var/tmp/toolkit-guest"))


@pytest.fixture(autouse=True)
def parts() -> None:
    """Skip where the parts of a guest cannot be had."""
    made = subprocess.run([GUEST, "--prepare"], capture_output=True, text=True, check=False)
    if made.returncode == 75:
        pytest.skip(f"no guest can be made here: {made.stderr.strip().splitlines()[-1]}")
    assert made.returncode == 0, made.stderr


def guest(*arguments: str | Path, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GUEST, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def left(job: str = "") -> list[str]:
    """What a guest may not leave: its directory, and qemu."""
    running = [
        command
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if b"qemu-system" in (command := _read(entry)) and f"{STORE}/{job}".encode() in command
    ]
    return [str(one) for one in running] + [str(one) for one in STORE.glob(job or "nothing")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


COMMAND = """
echo "$GIVEN, $(id -u), $(uname -r), $PWD"
echo "to the errors" >&2
echo "kept" >"$GUEST_OUT/file"
ping -c 1 -W 5 10.0.0.2 >/dev/null && echo "the wire is there"
ip -n far -br link show eth1 | grep -q UP && echo "its other end is far"
python -c 'import toolkit; print("toolkit", toolkit.__version__)'
touch /etc/written-in-the-guest && echo "/etc can be written to"
exit 7
"""


def test_what_a_command_gets_and_gives_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = guest("--nic", "virtio", "--far", "--env", "GIVEN=a b", "--out", out, "--", "bash", "-c", COMMAND)
    assert done.returncode == 7, done.stderr
    assert f"a b, 0, {_kernel()}-amd64, {ROOT}\n" in done.stdout
    for line in ("the wire is there", "its other end is far", "toolkit 0", "/etc can be written to"):
        assert line in done.stdout
    assert "to the errors" in done.stderr
    assert (out / "file").read_text() == "kept\n"
    assert not os.path.exists("/etc/written-in-the-guest")


def _kernel() -> str:
    return subprocess.run([GUEST, "--prepare"], capture_output=True, text=True, check=True).stdout.strip()


def test_the_example_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/guest.md").read_text(encoding="utf-8")
    (tmp_path / "my-checks").write_text(page.partition("```\n#!/bin/bash")[2].partition("```")[0])
    out = tmp_path / "results"
    done = guest("--nic", "igb", "--far", "--out", out, "--directory", tmp_path, "--", "bash", "my-checks")
    assert done.returncode == 0, done.stderr
    listed = subprocess.run(["tcpdump", "-nr", out / "seen.pcap"], capture_output=True, text=True, check=True).stdout
    assert listed.count("10.0.0.1") == 3


def test_a_command_that_takes_too_long_is_ended_and_named() -> None:
    done = guest("--timeout", "3", "--", "sleep", "12345")
    assert done.returncode == 124
    assert "the command has not ended after 3 s. What runs in the guest:" in done.stderr
    assert "sleep 12345" in done.stderr


def test_a_panic_is_reported_with_the_console() -> None:
    done = guest("--", "bash", "-c", "echo c >/proc/sysrq-trigger; sleep 600")
    assert done.returncode == 125
    assert "the kernel panicked: sysrq triggered crash" in done.stderr
    assert "  | " in done.stderr


def test_it_ends_quietly_when_nobody_reads_its_output() -> None:
    command = ["--memory", "768", "--", "bash", "-c", "while echo line; do sleep 0.05; done"]
    with subprocess.Popen([GUEST, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGPIPE


def test_a_guest_that_does_not_come_up_is_reported() -> None:
    done = guest("--boot-timeout", "1", "--", "true", timeout=120)
    assert done.returncode == 125
    assert "not ready after 1 s. It waited for the kernel to start." in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing(number: int) -> None:
    before = {one.name for one in STORE.glob("run-*")}

    def begun() -> str:
        """The directory of the guest whose qemu is the child of ours."""
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            if b"qemu-system" in (command := _read(Path("/proc", child, "cmdline"))):
                return command.decode().partition(f"path={STORE}/run-")[2].partition(",")[0]
        return ""

    process = subprocess.Popen([GUEST, "--", "sleep", "600"], stderr=subprocess.PIPE, text=True)
    job = eventually(begun, timeout=120)
    assert job
    assert left(f"run-{job}")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"run-{job}" not in before
    assert not left(f"run-{job}")
