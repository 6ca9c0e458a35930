# SPDX-License-Identifier: Apache-2.0
"""scripts/guest without a guest: wrong arguments, which kernel is meant, the options for qemu, the page of results."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from guests import machine, matrix, nics, support
from guests.__main__ import main

from tests.helpers import ROOT
from tests.helpers.wire import eventually

PARTS = ROOT / "scripts/guests/parts"


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no command"),
        (["--nic", "igb"], "no command"),
        (["--nic", "e1000", "--", "true"], "a NIC is virtio, igb, vmxnet3 or e1000e, or two of them"),
        (["--nic", "igb+nothing", "--", "true"], "'nothing'"),
        (["--nic", "igb", "--pairs", "9", "--", "true"], "a number from 1 to 8, not '9'"),
        (["--nic", "igb", "--nic", "virtio", "--pairs", "5", "--", "true"], "at most 8 pairs, not 10"),
        (["--nic", "igb", "--queues", "2", "--", "true"], "--queues is for virtio"),
        (["--kernel", "../6.1", "--", "true"], "newest, a version such as 6.1"),
        (["--env", "1=2", "--", "true"], "NAME=VALUE, not '1=2'"),
        (["--timeout", "0", "--", "true"], "a number from 1 to"),
        (["--memory", "lots", "--", "true"], "a number from 512 to"),
        (["--prepare", "--", "true"], "--prepare runs no command"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["guest", *arguments])
    monkeypatch.setenv("GUEST_ROOT", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing was downloaded for it"


# --- the kernel -------------------------------------------------------------------------------------------------------

PACKAGED = ("6.1.0-9", "6.1.0-57", "6.12.94+deb13", "6.12.118+deb13", "6.18.15+deb13", "7.3.4+deb13", "7.10.1+deb14")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One in which everything is there already; apt has a cloud kernel too, which has no drivers for NICs."""
    made = tmp_path / "store"
    sources = b"".join((PARTS.with_name(name)).read_bytes() for name in ("parts", "init"))
    for version in PACKAGED:
        kernel = made / "kernels" / version
        kernel.mkdir(parents=True)
        (kernel / "complete").touch()
        (kernel / f"initramfs-{hashlib.sha256(sources).hexdigest()[:16]}").touch()
    for directory in ("tools", "apt", "bin"):
        (made / directory).mkdir()
    (made / "tools/complete").write_text("qemu-system-x86 busybox-static kmod xz-utils zstd\n")
    (made / "apt/updated").touch()
    names = [f"linux-image-{version}-amd64 - Linux" for version in (*PACKAGED, "9.9-cloud", "9.9-rt")]
    (made / "bin/apt-cache").write_text("#!/bin/sh\ncat <<'E'\n" + "\n".join(names) + "\nE\n")
    (made / "bin/apt-cache").chmod(0o755)
    return made


def environment(store: Path) -> dict[str, str]:
    return {"PATH": f"{store}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def meant(store: Path, kernel: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PARTS, store, kernel], env=environment(store), capture_output=True, text=True, check=False)


MEANT = {
    "newest": "7.10.1+deb14",
    "6.1": "6.1.0-57",
    "6.12": "6.12.118+deb13",
    "6.12.94": "6.12.94+deb13",
    "7": "7.10.1+deb14",
    "<=6.18": "6.18.15+deb13",
    "<=6.17": "6.12.118+deb13",
    "<=7.9": "7.3.4+deb13",
}


def test_the_newest_kernel_that_is_meant(store: Path) -> None:
    for wanted, version in MEANT.items():
        done = meant(store, wanted)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == version, wanted


def test_a_kernel_that_there_is_not(store: Path) -> None:
    done = meant(store, "5.10")
    assert done.returncode == 2
    assert "Debian has no kernel 5.10. It has: 6.1 6.12 6.18 7.3 7.10" in done.stderr


def grown_old(store: Path, answers: bool) -> Path:
    """The lists are nine days old, and 6.1.0-9 was the newest 6.1 then. Returns the log of what apt-get was asked."""
    asked = store / "asked"
    (store / "kernels/means-6.1").write_text("6.1.0-9\n")
    past = time.time() - 9 * 86400
    os.utime(store / "apt/updated", (past, past))
    (store / "bin/apt-get").write_text(
        f'#!/bin/sh\n[ "$1" != indextargets ] || {{ echo Debian http://mirror/debian; exit; }}\n'
        f'echo "$*" >>{asked}\nexit {0 if answers else 100}\n'
    )
    (store / "bin/apt-get").chmod(0o755)
    return asked


@pytest.mark.parametrize("answers", [True, False])
def test_the_mirror_is_asked_again_after_a_week(store: Path, answers: bool) -> None:
    """Where it does not answer, what is here serves as before, and the next run does not wait for it again."""
    asked = grown_old(store, answers)
    for _ in range(2):
        done = meant(store, "6.1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == "6.1.0-57"
        assert asked.read_text().count("update") == 1
    (store / "apt/unanswered").touch()
    subprocess.run([PARTS, store, "6.1", "update"], env=environment(store), capture_output=True, check=True)
    assert asked.read_text().count("update") == 2, "told to, it asks in any case"


def test_without_a_mirror_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\n")  # knows no archive
    (tmp_path / "bin/apt-get").chmod(0o755)
    store = tmp_path / "store"
    done = subprocess.run(
        [PARTS, store, "newest"], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 75
    assert "apt knows no Debian mirror" in done.stderr


def test_a_signal_ends_the_download_as_well(tmp_path: Path) -> None:
    """What goes on would keep the lock, and the next run would wait for it."""
    (tmp_path / "bin").mkdir()
    pid = tmp_path / "pid"
    (tmp_path / "bin/apt-get").write_text(
        f'#!/bin/sh\n[ "$1" != indextargets ] || {{ echo Debian http://mirror/debian; exit; }}\n'
        f"echo $$ >{pid}.new\nmv {pid}.new {pid}\nexec sleep 60\n"
    )
    (tmp_path / "bin/apt-get").chmod(0o755)
    given = {**environment(tmp_path), "GUEST_ROOT": str(tmp_path / "store"), "PYTHONPATH": str(ROOT / "scripts")}
    with subprocess.Popen([sys.executable, "-m", "guests", "--prepare"], env=given) as running:
        assert eventually(pid.exists, 30)
        running.terminate()
        assert running.wait(10) == 128 + signal.SIGTERM
    assert eventually(lambda: not Path("/proc", pid.read_text().strip()).exists(), 10)


# --- NICs -------------------------------------------------------------------------------------------------------------


def test_two_nics_of_a_pair_are_on_one_cable_and_no_other() -> None:
    pairs = [nics.Pair.parse("igb"), nics.Pair.parse("igb+virtio")]
    given = nics.options(pairs, queues=1)
    assert [one for one in given if one.startswith("hubport")] == [
        f"hubport,id=n{number},hubid={number // 2}" for number in range(4)
    ]
    devices = [one for one in given if "mac=" in one]
    assert [one.partition(",")[0] for one in devices] == ["igb", "igb", "igb", "virtio-net-pci"]
    assert len({one for one in given if one.startswith("pcie-root-port")}) == 3
    assert len({one.rpartition("mac=")[2] for one in devices}) == 4


# --- the page ---------------------------------------------------------------------------------------------------------


def result(test: str, nic: str, mode: str, outcome: str, seen: str = "", why: str = "") -> dict[str, str]:
    parameters = "-".join(filter(None, (nic, mode)))
    name = f"tests/guest/test_a.py::{test}[{parameters}]"
    return {"test": name, "nic": nic, "mode": mode, "outcome": outcome, "seen": seen, "why": why}


def test_the_page_counts_what_passed_and_says_what_did_not(tmp_path: Path) -> None:
    old = support.Run(
        "Linux 6.1", "today", "its versions", [result("test_x", "igb", "native", "passed", "9 of 9 frames")]
    )
    new = support.Run("Linux 7.3", "today", "its versions")
    new.results = [
        result("test_x", "igb", "native", "passed", "9 of 9 frames"),
        result("test_x", "igb", "zero-copy", "failed", why="assert 1 == 2\nmore"),
        result("test_x", "veth", "zero-copy", "skipped", why="Skipped: the driver of veth has no zero-copy"),
    ]
    page = support.page([old, new])
    assert "| igb | native | 1 | 1 |" in page
    assert "| igb | zero-copy | not run | **0 of 1** |" in page
    assert "| veth | zero-copy | not run | - |" in page
    assert "| 9 of 9 frames | Linux 6.1, Linux 7.3: igb native |" in page
    assert "| **FAILED**: assert 1 == 2 | Linux 7.3: igb zero-copy |" in page
    assert "| no: the driver of veth has no zero-copy | Linux 7.3: veth zero-copy |" in page


def test_what_fails_after_its_check_has_failed(tmp_path: Path) -> None:
    report = tmp_path / "report"
    good, bad = result("test_x", "igb", "", "passed"), result("test_x", "igb", "", "failed", why="left open")
    report.write_text("".join(json.dumps(one) + "\n" for one in (good, bad)))
    assert [one["outcome"] for one in support.read(report)] == ["failed"]
    assert support.read(tmp_path / "none") == []


def test_a_later_run_replaces_what_it_ran_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_RUNS", tmp_path)
    first = [result("test_x", "igb", "", "failed"), result("test_x", "virtio", "", "passed")]
    for results in (first, [result("test_x", "igb", "", "passed")]):
        matrix._keep(support.Run("Linux 7.3", "today", "its versions", results))
    (kept,) = matrix._kept()
    assert {(one["nic"], one["outcome"]) for one in kept.results} == {("igb", "passed"), ("virtio", "passed")}
    matrix._keep(support.Run("Linux 7.3", "today", "other versions", [result("test_x", "igb", "", "passed")]))
    (kept,) = matrix._kept()
    assert [one["nic"] for one in kept.results] == ["igb"], "of another kernel nothing is kept"


# --- what is said of a guest that ended -------------------------------------------------------------------------------


def test_the_console_is_shown_from_where_the_trouble_began(tmp_path: Path) -> None:
    guest = machine.Machine(tmp_path, "6.1.0-57", tmp_path / "initramfs", machine.Wanted(["true"], tmp_path))
    guest._console_file = console = tmp_path / "console"
    (tmp_path / "qemu").touch()
    assert "The serial console is empty." in str(guest._ended_early(0, tmp_path / "qemu"))
    trace = [f"[ 2.0] line {number}" for number in range(30)]
    console.write_text("\n".join(["[ 1.0] all is well", "[ 2.0] Kernel panic - not syncing: no reason", *trace]))
    said = str(guest._ended_early(0, tmp_path / "qemu"))
    assert said.startswith("the kernel panicked: no reason. It waited for the kernel to start.")
    assert said.endswith("line 29")
    assert "all is well" not in said
    console.write_text("\n".join(["[ 2.0] Kernel panic - not syncing: no reason", *trace * 10]))
    said = str(guest._ended_early(0, tmp_path / "qemu"))
    assert said.startswith("the kernel panicked: no reason.")
    assert len(said.splitlines()) < 90
    console.write_text("\n".join(trace))
    said = str(guest._ended_early(0, tmp_path / "qemu"))
    assert said.startswith("the guest ended before the command did.")
    assert len(said.splitlines()) == 26
