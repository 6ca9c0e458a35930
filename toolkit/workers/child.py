# SPDX-License-Identifier: Apache-2.0
"""The worker's process: receive the program from the parent, open an Interface over its queues, run the work."""

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
from toolkit.errors import ArgumentError, ToolkitError
from toolkit.interface.interface import Interface
from toolkit.program.rules import as_line
from toolkit.workers.errors import portable
from toolkit.workers.shared import Handover, SharedProgram, receive_fds
from toolkit.workers.work import Work, unpacked
from toolkit.xsk.statistics import Statistics

__all__ = ["REPORTED", "Job", "Worker", "current", "main", "page_bytes"]

REPORTED = 8  # numbers that a worker can report: u64 each, a cache line a worker

_DRAIN_TIMEOUT = 2.0  # seconds for the work to receive what waits in the rings


@dataclass(frozen=True)
class Job:
    """The job of a worker. options: for toolkit.open()."""

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
        """The number of workers."""
        self.queues = job.queues
        """The receive queues of this worker."""
        self._row = row  # shape (REPORTED,), u64, shared with the parent, which only reads it
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether the work should end. No new packet comes then, and the waiting ones have been received.

        For that, work that keeps receiving gets up to 2 s.
        """
        return self._stopping.is_set()

    def report(self, *numbers: int) -> None:
        """Report up to 8 numbers (u64) to the parent, which has them in `Workers.reports`. Costs 1 us."""
        if len(numbers) > REPORTED:
            raise ArgumentError(f"a worker cannot report {len(numbers)} numbers. Next step: report {REPORTED} at most.")
        self._row[: len(numbers)] = numbers

    def __repr__(self) -> str:
        return f"<Worker {self.number} of {self.workers}: queues {', '.join(map(str, self.queues))}>"


_current: Worker | None = None  # written once, by main()


def current() -> Worker | None:
    """Return the Worker of this process; None in any other process."""
    return _current


def main(fd: int, parent: int) -> None:
    """Run a worker, in a new interpreter. fd: its end of the connection to process `parent`.

    It receives file descriptors and a Job, sends "ready", waits for "go", answers each question for "statistics", and
    sends "result" or "failed".
    """
    global _current
    stop_asked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    _live_with(parent, stop_asked)
    os.set_inheritable(fd, False)
    connection = Connection(fd)
    try:
        fds = receive_fds(connection)
        job: Job = connection.recv()
    except EOFError:  # the parent has closed the connection
        return
    try:
        if job.cpu is not None:
            os.sched_setaffinity(0, {job.cpu})  # before memory is used, so that it is on that CPU's node
        page = _page(fds.pop(), job)
        _current = Worker(job, page[job.number])
        answer = _do(connection, job, fds, _current, stop_asked, page[job.workers])
    except BaseException as error:
        answer = ("failed", *portable(error))
    _send(connection, answer)


def _live_with(parent: int, stop_asked: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Ignore Ctrl-C, which the parent handles.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

    def ask(*_: object) -> None:
        os.eventfd_write(stop_asked, 1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the work may start programs, and wait for them
    # `timeout`, a closed terminal and the like signal all processes at once: results must not be lost by that.
    signal.signal(signal.SIGTERM, ask)
    if (
        signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    ):  # not under nohup: there the parent goes on, and so do workers
        signal.signal(signal.SIGHUP, ask)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _page(fd: int, job: Job) -> npt.NDArray[np.uint64]:
    """Map the memory shared with the parent: a row for each worker, which only the worker writes, and the parent's row.

    The first number of the parent's row is 1 from just before it detaches the program.
    """
    memory = map_file(fd, page_bytes(job.workers))
    os.close(fd)
    return np.frombuffer(memory, np.uint64).reshape(-1, REPORTED)


def page_bytes(workers: int) -> int:
    """Return the size in bytes of the memory that `workers` workers share with their parent."""
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
        interface.filter = as_line(program.rules) or None
        connection.send(("ready", interface.info()))
        if connection.recv() != ("go",):
            return ("result", None)
        threading.Thread(target=_listen, args=(connection, stop_asked, interface), daemon=True).start()
        threading.Thread(target=_await_end, args=(stop_asked, interface, me), daemon=True).start()
        try:
            result = work(interface)
        finally:
            with contextlib.suppress(ToolkitError):  # the work may have closed it
                interface.detach()  # no packet comes from here on: the counts are the last
            _send_statistics(connection, interface, 0)
    return ("result", result)


_sending = threading.Lock()  # held while a thread sends to the parent


def _send(connection: Connection, answer: tuple[Any, ...]) -> None:
    with _sending, contextlib.suppress(OSError):  # the parent has ended, and this process is about to be killed
        try:
            connection.send(answer)
        except OSError:
            raise
        except Exception as unsendable:  # a result that cannot be pickled
            connection.send(("failed", *portable(unsendable)))


def _send_statistics(connection: Connection, interface: Interface, question: int) -> None:
    """Send what the kernel has counted for this worker's sockets; None when they are closed."""
    counted: Statistics | None = None
    with contextlib.suppress(ToolkitError):
        counted = interface.statistics()
    _send(connection, ("statistics", question, counted))


def _listen(connection: Connection, stop_asked: int, interface: Interface) -> None:
    """Answer the parent's questions for statistics; pass on that it asks for the end, or has ended itself."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            kind, *question = connection.recv()
            if kind == "statistics":
                _send_statistics(connection, interface, *question)
            else:
                os.eventfd_write(stop_asked, 1)
    os.eventfd_write(stop_asked, 1)


def _await_end(stop_asked: int, interface: Interface, me: Worker) -> None:
    """Wait for the parent or a signal to ask for the end; then let the work receive what waits, and wake it."""
    select.select([stop_asked], [], [])
    with contextlib.suppress(Exception):  # the work may have closed it meanwhile
        interface.detach()
        _await_drained(interface)
    me._stopping.set()
    # From here on a waiting receive() returns an empty Batch at once.
    interface.wake()


def _await_drained(interface: Interface) -> None:
    """Wait until the work has received all packets in the rings, as long as it makes progress. No new ones come."""
    rings = select.poll()
    for sock in interface.sockets:
        rings.register(sock.fileno(), select.POLLIN)
    deadline = time.monotonic() + _DRAIN_TIMEOUT
    while any(events & select.POLLIN for _, events in rings.poll(0)) and time.monotonic() < deadline:
        time.sleep(0.002)
