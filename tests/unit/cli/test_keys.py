# SPDX-License-Identifier: Apache-2.0
"""Single keys: the terminal is given back while the process is suspended, and taken again afterwards."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios

from tests.helpers import ROOT
from tests.helpers.wire import eventually

JOB = """
import sys, time
from toolkit.cli.view.keys import Keys

with Keys() as keys:
    print("ready", flush=True)
    while "q" not in keys.pressed():
        time.sleep(0.01)
print("over", flush=True)
"""

# What a shell does: a job in a process group of its own, in the foreground; `fg` when it is asked to.
SHELL = f"""
import os, signal, subprocess, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
own = lambda: (os.setpgid(0, 0), os.tcsetpgrp(0, os.getpgrp()), signal.signal(signal.SIGTTOU, signal.SIG_DFL))
job = subprocess.Popen([sys.executable, "-c", {JOB!r}], preexec_fn=own)
_, status = os.waitpid(job.pid, os.WUNTRACED)
os.tcsetpgrp(0, os.getpgrp())
print("stopped" if os.WIFSTOPPED(status) else "ended", flush=True)
sys.stdin.readline()
os.tcsetpgrp(0, job.pid)
os.killpg(job.pid, signal.SIGCONT)
print("continued", flush=True)
_, status = os.waitpid(job.pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_suspended_and_continued() -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    seen = b""

    def shown(text: str) -> bool:
        nonlocal seen
        with contextlib.suppress(BlockingIOError):
            seen += os.read(ours, 65536)
        return text in seen.decode(errors="ignore")

    def single_keys() -> bool:
        return not termios.tcgetattr(theirs)[3] & termios.ICANON

    before = termios.tcgetattr(theirs)[3]
    terminal = os.ttyname(theirs)
    lead = f"import os; os.setsid(); os.close(os.open({terminal!r}, os.O_RDWR)); exec({SHELL!r})"
    shell = subprocess.Popen(
        [sys.executable, "-c", lead],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert eventually(lambda: shown("ready")), seen
        assert single_keys()
        os.write(ours, b"\x1a")
        assert eventually(lambda: shown("stopped")), seen
        assert termios.tcgetattr(theirs)[3] == before
        os.write(ours, b"fg\n")
        assert eventually(lambda: shown("continued")), seen
        assert eventually(single_keys)
        os.write(ours, b"q")
        assert eventually(lambda: shown("over")), seen
        assert shell.wait(20) == 0
        assert termios.tcgetattr(theirs)[3] == before
    finally:
        if shell.poll() is None:
            shell.kill()  # its terminal goes with it, and the job with the terminal
        shell.wait()
        os.close(ours)
        os.close(theirs)
