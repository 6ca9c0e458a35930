# SPDX-License-Identifier: Apache-2.0
"""Started by nohup, in the background, by a supervisor: signals ignored or blocked on arrival, and what ends it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import toolkit
from tests.helpers.cli import ENVIRONMENT, XSK, descendants, ended, events, inheriting, running, xsk
from tests.helpers.wire import eventually, run_child
from toolkit.lab import Lab

INT, TERM, HUP, QUIT, CHLD = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD
BACKGROUND = inheriting([INT, QUIT])
ODD = {
    "nohup": [shutil.which("nohup") or "nohup"],
    "nohup-background": inheriting([HUP, INT, QUIT]),
    "setsid": [shutil.which("setsid") or "setsid", "--wait"],
    "background": BACKGROUND,
    "children-ignored": inheriting([CHLD]),
    "blocked": inheriting(blocked=[INT, TERM, HUP, CHLD]),
    "all-ignored": inheriting([INT, TERM, HUP, QUIT, CHLD, signal.SIGPIPE]),
}


def status(pid: int, name: str) -> set[int]:
    """Signals in a mask of /proc/PID/status: SigIgn, SigBlk or SigCgt."""
    with open(f"/proc/{pid}/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith(name + ":"))
    return {bit + 1 for bit in range(64) if mask >> bit & 1}


def worker_of(process: subprocess.Popen[str]) -> int:
    """The pid of its worker, once that has everything open."""

    def ready() -> int:
        pids = [pid for pid, line in descendants(process.pid).items() if "toolkit.workers.child" in line]
        return next((pid for pid in pids if events(pid) >= 3), 0)

    found = int(eventually(ready, 30))
    assert found, "no worker got ready"
    return found


@pytest.mark.parametrize("number", [INT, TERM])
@pytest.mark.parametrize("how", [name for name in ODD if name != "setsid"])
def test_it_ends_in_order_whatever_it_inherited(lab: Lab, how: str, number: int) -> None:
    with running(lab, "receive", "veth0", "-f", "udp", "--json", wrapper=ODD[how], stdin=subprocess.DEVNULL) as process:
        lab.udp(count=5)
        assert ended(process, number)["received"] == 5


def test_it_ends_in_order_in_the_background_of_a_shell(lab: Lab) -> None:
    script = '"$@" <&- & echo $! >&2; wait $!'
    process = lab.netns.popen(
        ["/bin/sh", "-c", script, "sh", *XSK, "receive", "veth0", "-f", "udp", "--json"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    pid = int(process.stderr.readline())
    try:
        assert eventually(lambda: INT in status(pid, "SigCgt") and signal.SIGUSR1 in status(pid, "SigCgt"), 30)
        os.kill(pid, INT)
        report = json.loads(process.stdout.readline())
        assert report["received"] + report["dropped"] == report["redirected"]
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["nohup", "nohup-background"])
@pytest.mark.parametrize("more", [[], ["--workers", "1"]], ids=["alone", "workers"])
def test_a_hang_up_that_was_ignored_stays_ignored(lab: Lab, how: str, more: list[str]) -> None:
    """Also by the workers, whom the terminal would signal as well."""
    arguments = ["receive", "veth0", "-f", "udp", "--json", *more]
    with running(lab, *arguments, ready=0 if more else 2, wrapper=ODD[how], start_new_session=True) as process:
        if more:
            worker_of(process)
        os.killpg(process.pid, HUP)
        time.sleep(0.5)  # for what must not happen
        before = lab.counters()["rx_packets"]
        sent = lab.udp(count=50)
        assert eventually(lambda: lab.counters()["rx_packets"] >= before + sent)
        report = ended(process)
    assert report["received"] >= 50
    assert report.get("failed_workers", []) == []


def test_a_capture_outlives_its_terminal(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    arguments = ["capture", "veth0", "udp", "-w", str(path)]
    with running(lab, *arguments, wrapper=ODD["nohup-background"], stdin=subprocess.DEVNULL) as process:
        process.send_signal(HUP)
        lab.udp(count=20)
        assert eventually(lambda: path.exists() and path.stat().st_size > 20 * 60)
        process.send_signal(INT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    with toolkit.read(path) as recorded:
        assert sum(map(len, recorded)) == 20


def test_a_hang_up_that_was_not_ignored_ends_it(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "-f", "udp", "--json", wrapper=BACKGROUND) as process:
        lab.udp(count=5)
        assert ended(process, HUP)["received"] == 5


@pytest.mark.parametrize("number", [INT, HUP, TERM])
def test_a_signal_to_the_whole_job_while_it_compiles(lab: Lab, number: int, tmp_path: Path) -> None:
    """As the terminal, or `timeout`, sends it: to the compiler's process as well."""
    fresh = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path)}
    process = lab.netns.popen(
        [*XSK, "receive", "veth0", "-f", f"udp port {os.getpid()} or udp port {number}", "--json"],
        env=fresh,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert eventually(
            lambda: any("bcc_process.py" in line for line in descendants(process.pid).values()), 30, step=0.001
        )
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["received"] == 0


@pytest.mark.timing("packets have to come in a second")
@pytest.mark.parametrize("number", [INT, HUP, TERM])
def test_the_demo_ends_in_order_when_all_of_it_is_signalled(number: int) -> None:
    command = [*XSK, "demo", "--seconds", "30", "--json"]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert eventually(lambda: any("ping" in line for line in descendants(process.pid).values()), 30)
        time.sleep(1)  # for packets of which nothing is to be seen from here
        os.killpg(process.pid, number)
        report = ended(process, None)
    finally:
        process.kill()
        process.communicate()
    assert 0 < report["received"] + report["dropped"] == report["redirected"] <= report["sent"]


def test_programs_in_a_lab_and_workers_do_not_inherit_it() -> None:
    shown = run_child(
        """
        import os, signal, sys
        from toolkit.lab import Lab
        from toolkit.workers import Workers
        from tests.helpers.worker_jobs import masks

        with Lab() as lab:
            print(lab.far.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)
            with Workers(lab.interface, masks, filter="udp", workers=1, netns=lab.netns) as workers:
                (ignored, blocked), = workers.results(timeout=30)
            assert blocked == set(), blocked
            assert signal.SIGCHLD not in ignored, ignored
        """,
        *inheriting([INT, TERM, QUIT, CHLD, signal.SIGUSR1], [INT, TERM, CHLD]),
    )
    fields = dict(line.split(":\t", 1) for line in shown.splitlines() if ":\t" in line)
    assert int(fields["SigIgn"], 16) == 0
    assert int(fields["SigBlk"], 16) == 0


def test_a_generator_can_be_stopped_where_sigterm_is_blocked() -> None:
    run_child(
        """
        from toolkit.lab import Lab
        with Lab(gro=True) as lab:
            with lab.generator(rate=1000) as generator:
                pass
            assert generator.report is not None
        """,
        *inheriting([TERM, CHLD], [TERM]),
        timeout=60,
    )


def test_how_a_worker_ended_is_known_where_sigchld_was_ignored(lab: Lab) -> None:
    arguments = ["receive", "veth0", "-f", "udp", "--workers", "1"]
    with running(lab, *arguments, ready=0, wrapper=ODD["children-ignored"]) as process:
        os.kill(worker_of(process), signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "was killed by SIGKILL" in err


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU])
def test_other_signals_that_would_end_it_end_it_in_order(lab: Lab, number: int) -> None:
    with running(lab, "receive", "veth0", "-f", "udp", "--json") as process:
        lab.udp(count=5)
        assert ended(process, number)["received"] == 5
    with running(lab, "receive", "veth0", "-f", "udp", "--json", wrapper=inheriting([number])) as process:
        process.send_signal(number)
        lab.udp(count=5)
        time.sleep(0.3)  # for what must not happen
        assert process.poll() is None
        assert ended(process)["received"] == 5


def test_without_a_standard_input(lab: Lab) -> None:
    closed = ["/bin/sh", "-c", 'exec "$@" <&-', "sh"]
    done = xsk(lab, "top", "veth0", "-f", "udp", "--seconds", "0.3", wrapper=closed)
    assert done.returncode == 0, done.stderr
    assert done.stderr.rstrip().endswith("redirected 0")
    done = xsk(lab, "send", "veth0", "-r", "-", wrapper=closed)
    assert done.returncode == 1
    assert done.stderr.startswith("xsk: ")
    assert "standard input" in done.stderr
    assert "Traceback" not in done.stderr
