# SPDX-License-Identifier: Apache-2.0
"""Start programs that the kernel kills when this process ends in any way.

The kernel's parent-death signal follows the parent *thread*: a child is killed when the thread that started it ends.
So every child is started by one thread that lives as long as the process.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from toolkit._base.children import fresh
from toolkit._base.netns import NetNS, entered
from toolkit.abi.libc import CLONE_NEWNET, PIPES, room_for, unshare
from toolkit.errors import kernel_error

__all__ = ["on_lasting_thread", "start"]

T = TypeVar("T")

# The parent may die between fork and setpriv; the child would then wait for a signal that never comes. So it compares
# its parent's pid with the one expected, after the signal is armed, and gives up when they differ. The shell leads: a
# C program between is ready in a millisecond, where preexec_fn would run Python in a fork of a threaded process.
_GUARD = ("setpriv", "--pdeathsig", "KILL", "--", "/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')


@functools.cache
def _lasting_thread(pid: int) -> ThreadPoolExecutor:
    """One worker thread for each process: a forked child (another pid) does not inherit its parent's."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"toolkit-lab-{pid}", initializer=_leave)


def _leave() -> None:
    """Move to an empty namespace: a thread starts in its maker's, and would hold that for as long as it lives."""
    try:
        unshare(CLONE_NEWNET)
    except OSError as refused:
        raise kernel_error("unshare", refused.errno or 0, "cannot make a network namespace") from None


def on_lasting_thread(function: Callable[[], T]) -> T:
    """Run `function` in the thread that lives as long as the process, and return or raise what it does."""
    return _lasting_thread(os.getpid()).submit(function).result()


def _absolute(path: str) -> str:
    """A PATH without the entries that mean the current directory: who starts a program here does it as root."""
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if os.path.isabs(entry))


def _found(program: str, path: str) -> str:
    import shutil

    found = shutil.which(program, path=path)
    if found is None:
        raise FileNotFoundError(2, "No such program", program)
    return found


def start(
    arguments: Sequence[str | os.PathLike[str]],
    netns: NetNS,
    started: list[subprocess.Popen[Any]],
    **popen: Any,
) -> subprocess.Popen[Any]:
    """Start a program in `netns`, to be killed when this process ends. `popen` goes to `subprocess.Popen`.

    No signal is blocked or ignored in it, but those of the terminal (SIGHUP, SIGTSTP, SIGTTIN, SIGTTOU) as here.

    The child is put into `started` before this returns, so that an interrupt between cannot lose it.
    Raises FileNotFoundError when there is no such program, as `subprocess.Popen` does.
    """
    path = _absolute((popen.get("env") or os.environ).get("PATH", os.defpath))
    guard, program = _found(_GUARD[0], path), _found(os.fspath(arguments[0]), path)
    command = [guard, *_GUARD[1:], str(os.getpid()), program, *(os.fspath(argument) for argument in arguments[1:])]

    def begin() -> subprocess.Popen[Any]:
        room_for(PIPES)
        with entered(netns):
            child = subprocess.Popen(fresh(command), **popen)
        child.args = list(arguments)  # what was asked for: it stands in repr(), and in what says that it failed
        started.append(child)
        return child

    return on_lasting_thread(begin)
