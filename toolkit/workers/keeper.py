# SPDX-License-Identifier: Apache-2.0
"""Keeper: the thread that starts the workers, reads their messages, and notices when one ends.

It lives as long as the workers: the kernel kills a worker when the thread that started it ends (PR_SET_PDEATHSIG), so
also when this process is killed.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.connection
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from toolkit._base.children import held_back
from toolkit._base.netns import NetNS, entered
from toolkit.workers import child
from toolkit.workers.errors import WorkerError, died, failed
from toolkit.workers.shared import send_fds
from toolkit.xsk.statistics import Statistics

__all__ = ["Keeper", "WorkerProcess", "own_cpus"]

_ANSWER_TIMEOUT = 1.0  # seconds for workers to say what the kernel has counted

_log = logging.getLogger("toolkit.workers")


class WorkerProcess:
    """One worker, in the parent. Written by the keeper's thread only."""

    def __init__(self, job: child.Job) -> None:
        self.job = job
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # it cannot be cancelled, only stopped
        self.info: dict[str, Any] | None = None  # Interface.info(), once it is ready
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1  # readable when the process has ended
        self.connection: Connection | None = None
        self.pid: int | None = None
        self.statistics = Statistics(0, 0, 0, 0, 0, 0)  # of its sockets, as last reported
        self.answered = 0  # the last question for them that it has answered

    @property
    def who(self) -> str:
        """The name of the worker in errors."""
        queues = ", ".join(map(str, self.job.queues))
        pid = f"; pid {self.pid}" if self.pid else ""
        return f"worker {self.job.number} of {self.job.interface} (queues {queues}{pid})"


class Keeper:
    """Starts one process for each worker, and watches them until the last has ended."""

    def __init__(self, members: list[WorkerProcess], fds: list[int], netns: NetNS) -> None:
        """Watch `members`. fds: sent to every worker: the program, its maps, and the memory for reports."""
        self.members = members
        self.settled = threading.Event()  # every worker is ready, or one failed before
        self.ended = threading.Event()  # every worker has ended
        self.stopping = False  # whether the end of a worker is expected
        self._fds = fds
        self._netns = netns
        self._owner = os.getpid()
        self._sending = threading.Lock()
        self._questions = 0  # how often ask_statistics() was called
        self._heard = threading.Condition()  # notified when a worker has answered, or ended
        threading.Thread(target=self._run, name="toolkit-workers", daemon=True).start()

    def send(self, *message: object) -> None:
        """Send a message to every worker that still runs. From any thread."""
        with self._sending:
            for member in self.members:
                if member.connection is not None:
                    with contextlib.suppress(OSError, ValueError):
                        member.connection.send(message)

    def statistics(self) -> Statistics:
        """Return what the kernel counted for all workers' sockets. From any thread.

        A worker that does not answer in time counts as it last reported.
        """
        with self._heard:
            self._questions += 1
            question = self._questions
        self.send("statistics", question)
        with self._heard:
            self._heard.wait_for(
                lambda: all(one.answered >= question or one.connection is None for one in self.members),
                _ANSWER_TIMEOUT,
            )
            return sum((one.statistics for one in self.members), Statistics(0, 0, 0, 0, 0, 0))

    def kill(self) -> None:
        """Kill the workers that still run. Without effect in a forked child, whose exit handlers may call it."""
        self.stopping = True
        for member in self.members:
            if member.process is not None and os.getpid() == self._owner:
                with contextlib.suppress(OSError, AttributeError):  # it has ended meanwhile
                    member.process.kill()

    def abandon(self) -> None:
        """Forget the processes, in a forked child: they are the parent's."""
        for member in self.members:
            if member.connection is not None:
                with contextlib.suppress(OSError):
                    member.connection.close()
                    os.close(member.pidfd)
        self.ended.set()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with held_back():  # until the workers have their own handlers: only this process handles Ctrl-C
            self._watch()

    def _watch(self) -> None:
        try:
            self._start()
            while any(member.process is not None for member in self.members):
                self._listen()
        except BaseException as error:
            for member in self.members:
                if not member.future.done():
                    member.future.set_exception(error)
            self.kill()
            for member in self.members:
                if member.process is not None:
                    member.process.wait()
        finally:
            self.settled.set()
            self.ended.set()

    def _start(self) -> None:
        with entered(self._netns):
            for member in self.members:
                ours, theirs = multiprocessing.connection.Pipe()
                try:
                    process = _spawn(theirs)
                    with self._sending:
                        member.process, member.connection, member.pid = process, ours, process.pid
                    member.pidfd = os.pidfd_open(process.pid)
                finally:
                    theirs.close()
        for member in self.members:
            assert member.connection is not None
            with contextlib.suppress(OSError):  # it has ended; its exit status tells more
                send_fds(member.connection, self._fds)
                member.connection.send(member.job)

    def _listen(self) -> None:
        """Wait for a message, or the end, of any worker."""
        sources: dict[Any, WorkerProcess] = {}
        for member in self.members:
            if member.process is not None:
                sources[member.pidfd] = member
            if member.connection is not None:
                sources[member.connection] = member
        for source in multiprocessing.connection.wait(list(sources)):
            member = sources[source]
            if source is member.connection:
                self._hear(member)
            elif member.process is not None:
                self._bury(member)

    def _hear(self, member: WorkerProcess) -> None:
        assert member.connection is not None
        try:
            kind, *reports = member.connection.recv()
        except (EOFError, OSError):
            self._hang_up(member)
            return
        except Exception as unreadable:  # a result that does not unpickle here
            kind, reports = "failed", [unreadable, str(unreadable)]
        if kind == "ready":
            member.info = reports[0]
            if all(one.info is not None for one in self.members):
                self.settled.set()
        elif kind == "statistics":
            question, counted = reports
            with self._heard:
                member.answered = max(member.answered, question)
                member.statistics = counted or member.statistics
                self._heard.notify_all()
        elif kind == "result":
            member.future.set_result(reports[0])
        else:
            self._fail(member, failed(member.who, *reports))

    def _bury(self, member: WorkerProcess) -> None:
        """Handle the end of a worker's process; its last messages are read first."""
        assert member.process is not None
        status = member.process.wait()
        while member.connection is not None and member.connection.poll():
            self._hear(member)
        if not member.future.done():
            self._fail(member, died(member.who, status, ready=member.info is not None))
        self._hang_up(member)
        member.process = None
        os.close(member.pidfd)

    def _fail(self, member: WorkerProcess, error: BaseException) -> None:
        if member.info is not None and not self.stopping:
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            _log.warning("%s", first_line if isinstance(error, WorkerError) else f"{member.who} failed: {first_line}")
        member.future.set_exception(error)
        if member.info is None:
            self.settled.set()

    def _hang_up(self, member: WorkerProcess) -> None:
        with self._sending:
            if member.connection is not None:
                member.connection.close()
            member.connection = None
        with self._heard:
            self._heard.notify_all()


def _spawn(connection: Connection) -> subprocess.Popen[bytes]:
    """Start a new interpreter with this one's module path. Not a fork, in which everything inherited would be dead.

    Not multiprocessing.Process either: a forked child of this process would end the workers at its exit.
    """
    fd = connection.fileno()
    code = f"import sys; sys.path[:] = {sys.path!r}; from toolkit.workers.child import main; main({fd}, {os.getpid()})"
    # Before that line, the new interpreter imports only its own start-up modules.
    options = "".join(
        letter
        for letter, chosen in (
            ("I", sys.flags.isolated),
            ("E", sys.flags.ignore_environment),
            ("s", sys.flags.no_user_site),
        )
        if chosen
    )
    environment = dict(os.environ)
    entries = environment.pop("PYTHONPATH", "").split(os.pathsep)
    if absolute := [entry for entry in entries if os.path.isabs(entry)]:
        environment["PYTHONPATH"] = os.pathsep.join(absolute)  # not the current directory's sitecustomize.py
    command = [sys.executable, f"-{options}c", code]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(fd,), env=environment)


def own_cpus(count: int) -> list[int]:
    """Return a CPU for each of `count` workers, from those that this process may use, in turn."""
    allowed = sorted(os.sched_getaffinity(0))
    return [allowed[i % len(allowed)] for i in range(count)]
