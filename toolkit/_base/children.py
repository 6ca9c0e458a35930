# SPDX-License-Identifier: Apache-2.0
"""Start programs with the signal settings that they need, whatever this process has inherited or blocked.

A shell without job control starts its background jobs with SIGINT ignored, nohup with SIGHUP, some supervisors with
SIGCHLD, or with signals blocked. Programs inherit that, and pass it on to their children.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from toolkit._base.capabilities import handed_on
from toolkit.abi.libc import PIPES, room_for

if TYPE_CHECKING:
    import subprocess

__all__ = ["fresh", "held_back", "run_helper"]

_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # what a terminal, `timeout` and the like send to a whole job
# Signals of the terminal stay ignored where they are: the user who started the job decides that (nohup).
_OF_THE_TERMINAL = {signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_RESTORED = {signal.SIGPIPE, signal.SIGXFSZ}  # Python ignores them, and subprocess resets them in its children

# A program of its own: a shell cannot reset ignored signals, and a preexec_fn would run in a fork of a process with
# threads.
_FRESH = f"""
import os, signal, sys
for number in signal.valid_signals() - {set(map(int, _OF_THE_TERMINAL))}:
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
os.execv(sys.argv[1], sys.argv[1:])
"""


def fresh(command: Sequence[str]) -> list[str]:
    """Return a command that starts `command` with no signal blocked, and none ignored except those of the terminal.

    It is `command` itself if the calling thread is like that already; else a Python interpreter that resets the signals
    and then becomes the program (10 ms). command[0] is a path.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    others = signal.valid_signals() - _OF_THE_TERMINAL - _RESTORED
    if not blocked and all(signal.getsignal(number) != signal.SIG_IGN for number in others):
        return list(command)
    return [sys.executable or "/usr/bin/python3", "-I", "-S", "-c", _FRESH, *command]


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Start the children of this block with SIGINT, SIGTERM and SIGHUP blocked.

    These signals reach every process of a job, but this process decides when its helpers end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_helper(
    command: Sequence[str],
    request: bytes,
    timeout: float | None,
    environment: dict[str, str] | None = None,
    capabilities: Sequence[int] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run one of our helpers to its end, in the directory /, with `request` on its standard input.

    It has those of `capabilities` that this thread has, wherever they come from.
    Ctrl-C and hang-up do not reach it; on any exception in this process it is killed before that is raised.
    subprocess.TimeoutExpired after `timeout` seconds (None: it has no limit); OSError when it cannot be started.
    """
    import subprocess

    room_for(PIPES)
    child: subprocess.Popen[bytes] | None = None
    pipe = subprocess.PIPE
    try:
        with held_back(), handed_on(*capabilities):
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=os.sep)
        out, err = child.communicate(request, timeout=timeout)
    except BaseException:
        if child is not None:
            child.kill()
            child.communicate()
        raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)
