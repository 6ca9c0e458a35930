# SPDX-License-Identifier: Apache-2.0
"""What runs in a worker: the program comes in, an Interface over the worker's queues is opened, the work is done."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.fork import map_file
from toolkit.abi.libc import PR_SET_PDEATHSIG, prctl
from toolkit.errors import ArgumentError
from toolkit.interface.interface import Interface
from toolkit.program.rules import describe
from toolkit.workers.errors import portable
from toolkit.workers.shared import Handover, SharedProgram, receive_fds
from toolkit.workers.work import Work, unpacked

__all__ = ["REPORTED", "Job", "Worker", "current", "main", "page_bytes"]

REPORTED = 8  # numbers that a worker can tell: u64 each, a cache line a worker

_DRAIN_TIMEOUT = 2.0  # seconds in which the work can take what waits in the rings


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know. `options` go to toolkit.open()."""

    number: int
    workers: int
    interface: str
    queues: tuple[int, ...]
    cpu: int | None
    work: Work
    handover: Handover
    options: dict[str, Any]


class Worker:
    """This process as a worker. `current()` returns it."""

    def __init__(self, job: Job, row: npt.NDArray[np.uint64]) -> None:
        self.number = job.number
        """0 to workers - 1."""
        self.workers = job.workers
        """How many there are."""
        self.queues = job.queues
        """The receive queues of this one."""
        self._row = row  # shape (TOLD,) u64, shared with the parent, which only reads
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether the work should end. Nothing new comes then, and what had come was received.

        The last holds for work that keeps receiving: it gets 2 s for what waits.
        """
        return self._stopping.is_set()

    def report(self, *numbers: int) -> None:
        """Let the parent see up to 8 numbers (u64) while the work goes on: a row of `Workers.reports`. Costs 1 us."""
        if len(numbers) > REPORTED:
            raise ArgumentError(f"a worker tells up to {REPORTED} numbers, not {len(numbers)}")
        self._row[: len(numbers)] = numbers

    def __repr__(self) -> str:
        return f"<Worker {self.number} of {self.workers}: queues {', '.join(map(str, self.queues))}>"


_current: Worker | None = None  # written once, by main()


def current() -> Worker | None:
    """The worker that this process is; None in any other process."""
    return _current


def main(fd: int, parent: int) -> None:
    """Be a worker: what a fresh interpreter is started with. `fd` is its end of the connection to process `parent`.

    File descriptors and a Job come in; it says "ready", waits for "go", says "result" or "failed".
    """
    global _current
    stop_asked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    _live_with(parent, stop_asked)
    os.set_inheritable(fd, False)
    connection = Connection(fd)
    try:
        fds = receive_fds(connection)
        job: Job = connection.recv()
    except EOFError:  # the parent changed its mind
        return
    try:
        if job.cpu is not None:
            os.sched_setaffinity(0, {job.cpu})  # before memory is touched
        page = _page(fds.pop(), job)
        _current = Worker(job, page[job.number])
        answer = _do(connection, job, fds, _current, stop_asked, page[job.workers])
    except BaseException as error:
        answer = ("failed", *portable(error))
    _send(connection, answer)


def _live_with(parent: int, stop_asked: int) -> None:
    """Die with the thread that started this process; leave interrupts from the terminal to the parent."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

    def ask(*_: object) -> None:
        os.eventfd_write(stop_asked, 1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the work may start programs, and ask how they ended
    # `timeout`, a closed terminal and the like signal all processes at once: that is no reason to lose results.
    signal.signal(signal.SIGTERM, ask)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup: the parent goes on, and so do we
        signal.signal(signal.SIGHUP, ask)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _page(fd: int, job: Job) -> npt.NDArray[np.uint64]:
    """Map what is shared with the parent: a row for each worker, which only that writes, and one that the parent does.

    Its first number is 1 from just before the parent takes the program off.
    """
    memory = map_file(fd, page_bytes(job.workers))
    os.close(fd)
    return np.frombuffer(memory, np.uint64).reshape(-1, REPORTED)


def page_bytes(workers: int) -> int:
    """Return the size of the page that `workers` workers share with their parent."""
    return (workers + 1) * REPORTED * 8


def _do(
    connection: Connection, job: Job, fds: list[int], me: Worker, stop_asked: int, parents: npt.NDArray[np.uint64]
) -> tuple[Any, ...]:
    from toolkit.interface.open_interface import open as open_interface

    work = unpacked(job.work)
    with (
        SharedProgram(job.handover, fds, job.queues, lambda: bool(parents[0])) as program,
        open_interface(job.interface, program=program, queues=job.queues, **job.options) as interface,
    ):
        interface.filter = describe(program.rules) or None
        connection.send(("ready", interface.info()))
        if connection.recv() != "go":
            return ("result", None)
        listener = threading.Thread(target=_listen, args=(connection, stop_asked, interface, me), daemon=True)
        listener.start()
        result = work(interface)
    return ("result", result)


def _send(connection: Connection, answer: tuple[Any, ...]) -> None:
    with contextlib.suppress(OSError):  # the parent is gone; so are we, soon
        try:
            connection.send(answer)
        except OSError:
            raise
        except Exception as unsendable:  # a result that cannot be pickled
            connection.send(("failed", *portable(unsendable)))


def _listen(connection: Connection, stop_asked: int, interface: Interface, me: Worker) -> None:
    """Wait until the parent, or a signal, asks for the end; then let the work take what waits, and let it go."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    waiting.register(stop_asked, select.POLLIN)
    waiting.poll()
    with contextlib.suppress(Exception):  # the work may have ended meanwhile and closed it
        interface.detach()
        _await_drained(interface)
    me._stopping.set()
    # Wakes a receive() that waits, now and ever after: it returns an empty Batch.
    interface.wake()


def _await_drained(interface: Interface) -> None:
    """Nothing new comes. Wait until the work has received what is there, as long as it does that at all."""
    rings = select.poll()
    for sock in interface.sockets:
        rings.register(sock.fileno(), select.POLLIN)
    deadline = time.monotonic() + _DRAIN_TIMEOUT
    while any(events & select.POLLIN for _, events in rings.poll(0)) and time.monotonic() < deadline:
        time.sleep(0.002)
