# SPDX-License-Identifier: Apache-2.0
"""Starting programs with the signals that they need, whatever this process inherited or blocks.

A shell without job control starts its background jobs with SIGINT ignored, nohup with SIGHUP, some supervisors with
SIGCHLD, or with signals blocked; programs inherit all of that, and their children too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from toolkit.abi.libc import PIPES, room_for

if TYPE_CHECKING:
    import subprocess

__all__ = ["fresh", "held_back", "run_helper"]

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # what a terminal, `timeout` and the like send to a whole job
# What a terminal does to a job is decided by whoever started the job: where it is ignored, it stays ignored.
_OF_THE_TERMINAL = {signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_RESTORED = {signal.SIGPIPE, signal.SIGXFSZ}  # Python ignores them, and subprocess gives its children the default

# A program of its own: nothing but Python can take back what is ignored (no shell may), and a preexec_fn would run
# in a fork of a process with threads.
_FRESH = f"""
import os, signal, sys
for number in signal.valid_signals() - {set(map(int, _OF_THE_TERMINAL))}:
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
os.execv(sys.argv[1], sys.argv[1:])
"""


def fresh(command: Sequence[str]) -> list[str]:
    """Return `command` such that it begins with no signal blocked, and none ignored but those of the terminal.

    It is `command` itself where this process and the calling thread are like that already; else an interpreter goes
    first and becomes the program (10 ms). The program is a path.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    others = signal.valid_signals() - _OF_THE_TERMINAL - _RESTORED
    if not blocked and all(signal.getsignal(number) != signal.SIG_IGN for number in others):
        return list(command)
    return [sys.executable or "/usr/bin/python3", "-I", "-S", "-c", _FRESH, *command]


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Have children that are started in the block begin with SIGINT, SIGTERM and SIGHUP blocked.

    They reach every process of a job, and what they mean to a helper is for this process to say.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_helper(
    command: Sequence[str], request: bytes, timeout: float, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a helper of ours to its end, in the directory /, with `request` on its standard input.

    No Ctrl-C and no hang-up ends it, but this process does: on any exception it is killed before that is raised.
    Raises subprocess.TimeoutExpired after `timeout` seconds, and OSError where it cannot be started.
    """
    import subprocess

    room_for(PIPES)
    child: subprocess.Popen[bytes] | None = None
    pipe = subprocess.PIPE
    try:
        with held_back():
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=os.sep)
        out, err = child.communicate(request, timeout=timeout)
    except BaseException:
        if child is not None:
            child.kill()
            child.communicate()
        raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)
