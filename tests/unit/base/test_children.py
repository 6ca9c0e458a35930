# SPDX-License-Identifier: Apache-2.0
"""Programs that we start: the signals they begin with, and those that do not reach them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from toolkit._base import children

TERMINAL = {signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


def masks(status: str) -> tuple[set[int], set[int]]:
    """Signals ignored and blocked, as /proc/PID/status has them."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return tuple({bit + 1 for bit in range(64) if int(fields[name], 16) >> bit & 1} for name in ("SigIgn", "SigBlk"))


def started(setup: str, rest: str) -> str:
    """What a process prints that begins with `setup`."""
    code = f"import signal, subprocess\n{setup}\n{rest}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EVERYTHING = (
    "import time\n"
    "for number in signal.valid_signals() - {9, 19}: signal.signal(number, signal.SIG_IGN)\n"
    "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())"
)
SHOW = "from toolkit._base.children import fresh\nsubprocess.run(fresh(['/bin/cat', '/proc/self/status']), check=True)"


def test_a_fresh_program_has_the_signals_of_a_login() -> None:
    ignored, blocked = masks(started(EVERYTHING, SHOW))
    assert blocked == set()
    assert ignored & set(signal.valid_signals()) == TERMINAL, "those of the terminal are for whoever started us"


def test_nothing_goes_in_front_where_nothing_is_odd() -> None:
    assert children.fresh(["/bin/true", "x"]) == ["/bin/true", "x"]
    ignored, blocked = masks(started("signal.signal(signal.SIGHUP, signal.SIG_IGN)", SHOW))
    assert (ignored, blocked) == ({signal.SIGHUP}, set())


@pytest.mark.timing("the signals are due in the second in which the helper works")
def test_a_helper_does_not_hear_what_ends_a_job() -> None:
    """Ctrl-C, a hang-up and `timeout` signal all processes of a job: the helper's work goes on meanwhile."""
    helper = [sys.executable, "-c", "import sys, time; print('at work', file=sys.stderr); time.sleep(1); print('done')"]
    code = f"""
import os, signal, sys, threading, time
from toolkit._base.children import run_helper
came = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: came.append(number))
def all_of_the_job():
    while not open("/proc/self/task/%d/children" % os.getpid()).read(): time.sleep(0.01)
    time.sleep(0.3)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): os.killpg(0, number)
threading.Thread(target=all_of_the_job).start()
done = run_helper({helper!r}, b"", 30)
assert (done.returncode, done.stdout, done.stderr) == (0, b"done\\n", b"at work\\n"), done
assert sorted(came) == [1, 2, 15], came
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True
    )
    assert child.wait(60) == 0


@pytest.mark.timing("an interpreter has 1.5 s to start")
def test_a_helper_goes_with_an_exception(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    helper = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired):
        children.run_helper([sys.executable, "-c", helper], b"", 1.5)
    assert not os.path.exists(f"/proc/{mark.read_text()}")
    with pytest.raises(FileNotFoundError):
        children.run_helper(["/nonexistent/program"], b"", 1.0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
