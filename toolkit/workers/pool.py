# SPDX-License-Identifier: Apache-2.0
"""Workers: the parent's side: compile and attach once, distribute the queues, collect the results."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from toolkit._base import closing, fork
from toolkit._base.arguments import cannot_be, whole
from toolkit._base.fork import map_file
from toolkit._base.netns import NetNS, entered
from toolkit._base.uninterrupted import uninterrupted
from toolkit.errors import ArgumentError, ToolkitError, explained
from toolkit.interface.attachment import Attachment
from toolkit.interface.interface import Interface
from toolkit.interface.nic import Nic
from toolkit.interface.open_interface import wants_frags
from toolkit.interface.opening import Opening
from toolkit.net.device import Device, check_ethernet, describe, queue_numbers
from toolkit.program import Action, Program, Replace, Rule
from toolkit.wait.coalesce import LONGEST_DELAY
from toolkit.wait.waiter import WaitMode
from toolkit.workers.child import REPORTED, Job, page_bytes
from toolkit.workers.keeper import Keeper, WorkerProcess, own_cpus
from toolkit.workers.shared import Handover
from toolkit.workers.work import Work, packed, refuse_inside_worker
from toolkit.xsk.statistics import Statistics

__all__ = ["Workers"]

_START_TIMEOUT = 60.0  # seconds until every worker has imported, bound and filled; emulated CPUs need that long
_DEATH_TIMEOUT = 5.0  # seconds for a killed process to be gone


class Workers(Attachment):
    """Processes that receive from one interface, each on queues of its own, through one XDP program.

    Thread-safe. Each runs `work(interface)` with an Interface over its queues, and its result is that of one of
    `futures`. A worker that raises or is killed does not affect the others: its future has the exception, a warning is
    logged ("toolkit.workers"), and its queues' packets go on to the kernel. Use it as a context manager.
    """

    def __init__(
        self,
        interface: str,
        work: Callable[[Interface], Any],
        *,
        filter: str | None = None,
        rules: Iterable[Rule] | None = None,
        on_match: Action = "redirect",
        sample: float = 1,
        snaplen: int | None = None,
        program: Program | None = None,
        workers: int | None = None,
        queues: Iterable[int] | Literal["all"] = "all",
        cpus: Sequence[int] | Literal["auto"] | None = None,
        mode: Literal["auto", "native", "generic"] = "auto",
        zero_copy: bool | Literal["auto"] = "auto",
        replace: Replace = False,
        promisc: bool = False,
        ring_size: int | None = None,
        frames: int | None = None,
        frame_size: int | None = None,
        need_wakeup: bool | Literal["auto"] = "auto",
        tx: bool = True,
        poison: bool = False,
        wait: WaitMode = "poll",
        coalesce: float = LONGEST_DELAY,
        frags: bool | Literal["auto"] = "auto",
        timestamps: bool = True,
        netns: NetNS = None,
    ) -> None:
        """Attach, start the workers, and return when all have bound their queues.

        work: a function at the top level of a module (processes are spawned, and import it from there); arguments by
        functools.partial. receive() without a timeout returns an empty Batch after stop(): then it should return.
        workers: how many processes; by default one a queue, and not more than there are CPUs to run on.
        cpus: where each worker runs, or "auto" for a CPU each, in turn; by default the scheduler decides.
        The others are those of toolkit.open(), which each worker calls with them for its own queues. frags: by default
        as the MTU asks; False where the kernel cannot.

        Raises what toolkit.open() raises, and what a worker raises before it is ready; everything is undone then.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "work", "workers", "cpus")}
        asked = Opening.of(**given)
        refuse_inside_worker()
        function = packed(work)
        self._own_program = program is None
        self._keeper: Keeper | None = None
        self._reports = np.zeros((0, REPORTED), np.uint64)

        # Uninterrupted: otherwise an interrupt could leave a program attached without an object that detaches it.
        begin = functools.partial(self._begin, interface, asked, function, workers, cpus)
        uninterrupted(begin, dispose=lambda _: self.close())

    # --- the beginning ------------------------------------------------------------------------------------------------

    def _begin(
        self,
        interface: str,
        wanted: Opening,
        work: Work,
        workers: int | None,
        cpus: Sequence[int] | Literal["auto"] | None,
    ) -> None:
        super().__init__(f"the pool of workers of {interface}")
        with explained(f"cannot start workers on {interface}"), contextlib.ExitStack() as undo:
            undo.callback(self._take_down)
            with entered(wanted.netns):
                self.device = describe(interface)
                check_ethernet(self.device)
                numbers = queue_numbers(self.device, wanted.queues)
                self._dealt = _deal(numbers, workers, interface)
                places = _places(cpus, len(self._dealt))
                # The program is made here, for all: what the workers open must fit it.
                wanted = dataclasses.replace(wanted, frags=_several(self.device, wanted))
                self._attach(wanted, numbers)
            handover = Handover.of(self.program, self.link)
            jobs = [
                Job(i, len(places), interface, mine, cpu, work, handover, wanted.of_queues())
                for i, (mine, cpu) in enumerate(zip(self._dealt, places, strict=True))
            ]
            self._start(jobs, wanted.netns)
            fork.track(self)
            _close_at_exit(self)
            undo.pop_all()

    def _attach(self, wanted: Opening, numbers: list[int]) -> None:
        wanted.check_rules(self.device, numbers)
        self.program = wanted.program or wanted.build(wanted.frags is True, numbers)
        self.link = self.program.attach(self.device.name, mode=wanted.mode, replace=wanted.replace, netns=wanted.netns)
        self._nic = Nic(self.device, self.link.location.home, promisc=wanted.promisc)

    def _start(self, jobs: list[Job], netns: NetNS) -> None:
        page = os.memfd_create("toolkit-workers", os.MFD_CLOEXEC)
        try:
            os.ftruncate(page, page_bytes(len(jobs)))
            shared = np.frombuffer(map_file(page, page_bytes(len(jobs))), np.uint64).reshape(-1, REPORTED)
            self._reports, self._parents = shared[:-1], shared[-1]
            fds = [self.program.fd, *(one.fd for one in self.program.maps.values()), page]
            self._keeper = Keeper([WorkerProcess(job) for job in jobs], fds, netns)
            self._finalizer = weakref.finalize(self, self._keeper.kill)  # when Workers are garbage-collected
            settled = self._keeper.settled.wait(_START_TIMEOUT)
        finally:
            os.close(page)
        for member in self._keeper.members:
            if member.future.done() and (error := member.future.exception()) is not None:
                raise error
        if not settled:
            late = ", ".join(member.who for member in self._keeper.members if member.info is None)
            raise ToolkitError(
                f"{late} did not get ready within {_START_TIMEOUT:.0f} s and was stopped. Likely cause: the machine "
                "is very busy, or the function's module takes long to import. Next step: try again with fewer workers."
            )
        self._keeper.send("go")

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def queues(self) -> tuple[tuple[int, ...], ...]:
        """The receive queues of each worker."""
        return self._dealt

    @property
    def futures(self) -> tuple[Future[Any], ...]:
        """The future of each worker, in order, for concurrent.futures.wait() and as_completed()."""
        return tuple(member.future for member in self._members)

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process id of each worker."""
        return tuple(member.pid for member in self._members)

    @property
    def alive(self) -> int:
        """How many workers are running."""
        return sum(not member.future.done() for member in self._members)

    @property
    def reports(self) -> npt.NDArray[np.uint64]:
        """What each worker reported last: shape (workers, 8) u64, zeros at first. A copy. It outlives the workers."""
        return self._reports.copy()

    def statistics(self) -> Statistics:
        """Return the kernel's six counters, summed over all workers' queues, and `missed`: what the NIC lost before.

        Of a worker that has ended, they are those of its end: after results(), received + dropped equals
        counters()["redirected"]. Of one that was killed, or does not answer within a second, they are the last that
        are known.
        """
        self._check_open()
        assert self._keeper is not None
        total = self._keeper.statistics()  # `missed` of each worker is of the whole NIC: not to be added up
        unknown = any(one.statistics.missed is None and one.info and one.info["zero_copy"] for one in self._members)
        return self._nic.with_missed(total, starved=unknown)

    def info(self) -> dict[str, Any]:
        """Return the options in effect, as Interface.info() does; `frames` of all workers, and the queues of each."""
        seen = [member.info for member in self._members if member.info]
        return {
            **seen[0],
            **self._about(),
            "zero_copy": all(one["zero_copy"] for one in seen),
            "queues": sorted(queue for mine in self._dealt for queue in mine),
            "frames": sum(one["frames"] for one in seen),
            "workers": [list(mine) for mine in self._dealt],
        }

    def __repr__(self) -> str:
        """Show the interface, and how many workers are running."""
        if self._why_dead:
            return f"<Workers of {self.device.name}, {self._why_dead}>"
        return f"<Workers of {self.name}: {self.alive} of {len(self._dealt)} at work, {self.mode}>"

    # --- the end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Detach the program, and ask every worker to end: its receive() returns what waits, then an empty Batch.

        After that received + dropped equals counters()["redirected"]. Returns at once; results() waits. Repeatable.
        """
        self._check_open()
        self._stop()

    def _stop(self) -> None:
        if not self.link.closed:
            self._parents[0] = 1  # first, so that workers know that the parent detached the program
            self.link.close(wait=True)
        assert self._keeper is not None
        self._keeper.send("stop")

    def results(self, timeout: float | None = None) -> list[Any]:
        """Wait for every worker and return their results in order.

        When all have ended, raises the exception of the first that failed (`futures` has the others' results).
        TimeoutError when they have not ended within `timeout` seconds; they then continue.
        """
        futures = self.futures
        _, unfinished = wait_for(futures, timeout)
        if unfinished:
            raise TimeoutError(f"{len(unfinished)} of {len(futures)} workers have not ended within {timeout} s")
        return [future.result() for future in futures]

    def close(self) -> None:
        """Detach, stop every worker (kill those whose work does not return in 5 s), and release all. Repeatable."""
        super().close()

    def _take_down(self) -> None:
        with contextlib.ExitStack() as parts:  # all of them, even if one raises
            if self._own_program and hasattr(self, "program"):
                parts.callback(self.program.close)
            if hasattr(self, "_nic"):
                parts.callback(self._nic.close)
            if hasattr(self, "link"):
                parts.callback(self.link.close)
            if self._keeper is not None:
                parts.callback(self._end_workers, self._keeper)

    def _end_workers(self, keeper: Keeper) -> None:
        keeper.stopping = True  # from here on the end of a worker is expected
        if all(member.info is not None for member in keeper.members):
            self._stop()
            keeper.ended.wait(closing.CLOSE_TIMEOUT)
        keeper.kill()
        keeper.ended.wait(_DEATH_TIMEOUT)
        self._reports = self._reports.copy()  # kept when the shared memory is unmapped
        self._parents = self._parents.copy()
        self._finalizer.detach()  # it keeps the futures alive, and an exception in one keeps this object alive

    @property
    def _members(self) -> list[WorkerProcess]:
        assert self._keeper is not None
        return self._keeper.members

    def _abandon(self) -> None:
        if self._keeper is not None:
            self._keeper.abandon()


def _several(device: Device, wanted: Opening) -> bool:
    """Return whether packets may come in several frames."""
    return wanted.frags is True or (wanted.frags == "auto" and wanted.program is None and wants_frags(device))


def _deal(numbers: list[int], workers: int | None, interface: str) -> tuple[tuple[int, ...], ...]:
    """Distribute the queues to the workers, in turn."""
    count = min(len(numbers), len(os.sched_getaffinity(0))) if workers is None else whole("workers", workers)
    if not 1 <= count <= len(numbers):
        raise ArgumentError(
            f"{count} workers for {len(numbers)} queue(s) of {interface}: each needs a queue of its own. "
            f"Next step: workers={len(numbers)} or fewer, or more queues (`ethtool -L {interface} combined N`)."
        )
    return tuple(tuple(numbers[i::count]) for i in range(count))


def _places(cpus: Sequence[int] | Literal["auto"] | None, count: int) -> list[int | None]:
    if cpus is None:
        return [None] * count
    if isinstance(cpus, str):
        return [*own_cpus(count)]
    allowed = os.sched_getaffinity(0)
    if len(cpus) != count or not set(cpus) <= allowed:
        raise cannot_be("cpus", cpus, f"one CPU for each of the {count} workers, out of {sorted(allowed)}")
    return list(cpus)


_open: weakref.WeakSet[Workers] = weakref.WeakSet()
_registered = False


def _close_at_exit(workers: Workers) -> None:
    """Close Workers that are still open at exit, so that their workers end in order."""
    global _registered
    if not _registered:
        atexit.register(_close_all)
        _registered = True
    _open.add(workers)


def _close_all() -> None:
    for workers in list(_open):
        with contextlib.suppress(ToolkitError, OSError):
            workers.close()
