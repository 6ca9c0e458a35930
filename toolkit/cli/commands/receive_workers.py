# SPDX-License-Identifier: Apache-2.0
"""`xsk receive --workers`: several processes count; a line with the rate each second, at the end one account."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from toolkit.cli.spelling import message_of, spelled
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.losses import complete, loss_lines, losses
from toolkit.cli.view.summary import Totals, introduce
from toolkit.errors import DeviceGoneError
from toolkit.interface.interface import Interface
from toolkit.workers import Workers, current

__all__ = ["Rates", "run", "work"]

_REPORT_SECONDS = 0.1  # how old the kernel's drop counters may be in the rate lines


class Counted(NamedTuple):
    """What one worker counted until its rings were empty."""

    packets: int
    bytes: int  # on the wire
    ended: str | None = None  # what ended it, if that was not the parent


def work(interface: Interface) -> Counted:
    """Count until stopped, and report: packets, bytes, dropped. Runs in every worker."""
    me = current()
    assert me is not None
    totals, dropped, next_report = Totals(interface), 0, 0.0
    ended: str | None = None
    while True:
        try:
            batch = interface.receive(timeout=_REPORT_SECONDS)
        except DeviceGoneError as gone:
            ended = message_of(gone)
            break
        totals.add(batch)
        if not batch and me.stopping:
            break
        if (now := time.monotonic()) > next_report:
            next_report = now + _REPORT_SECONDS
            dropped = interface.statistics().dropped
        me.report(totals.packets, totals.bytes, dropped)
    # stop() has detached the program, so nothing new comes: what is still in the rings is all there is.
    while ended is None and (batch := interface.receive(timeout=0.02)):
        totals.add(batch)
    me.report(totals.packets, totals.bytes, interface.statistics().dropped)
    return Counted(totals.packets, totals.bytes, ended)


def run(
    interface: str, *, workers: int, seconds: float | None, count: int | None, as_json: bool, **options: Any
) -> int:
    """Receive in `workers` processes until a signal, `seconds`, or `count` packets in all; the exit code."""
    with (
        _failure_lines(),
        Stop(seconds) as stop,
        Workers(interface, work, workers=workers, cpus="auto", **options) as pool,
    ):
        if not as_json:
            introduce(pool, None, *_shares(pool))
        began, rates = stop.restart(), Rates(pool)  # to compile and attach is not to receive
        while not stop and pool.alive:
            time.sleep(min(0.05, stop.timeout))
            if count is not None and int(pool.reports[:, 0].sum()) >= count:
                stop.request()
            if not as_json:
                rates.maybe_print()
        elapsed, taken = time.monotonic() - began, pool.reports[:, :2].sum(axis=0)
        pool.stop()
        report = _summary(pool, elapsed, taken.tolist())
    status = output.finish(report, _conclude, as_json=as_json)
    return 1 if report["failed_workers"] else status


@contextlib.contextmanager
def _failure_lines() -> Iterator[None]:
    """Show at once, on stderr, that a worker died."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("xsk: %(message)s"))
    log = logging.getLogger("toolkit.workers")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _shares(pool: Workers) -> list[str]:
    """Return a line for each worker: which queues it has."""
    return [
        f"  worker {number} (pid {pid}): queue {', '.join(map(str, queues))}"
        for number, (queues, pid) in enumerate(zip(pool.queues, pool.pids, strict=True))
    ]


class Rates:
    """Prints what the last second brought, over all workers and each."""

    def __init__(self, pool: Workers) -> None:
        self._pool = pool
        self._last = (time.monotonic(), pool.reports)

    def maybe_print(self) -> None:
        """Print a line when a second has passed since the last."""
        now, (then, before) = time.monotonic(), self._last
        if now - then < 1.0:
            return
        reports = self._pool.reports
        self._last = (now, reports)
        packets, received_bytes, dropped = (reports - before)[:, :3].sum(axis=0).tolist()
        each = " ".join(output.count(one / (now - then)) for one in (reports - before)[:, 0].tolist())
        print(
            f"{output.clock()}  {output.count(packets / (now - then)):>8} packets/s  "
            f"{output.bits(received_bytes * 8 / (now - then)):>12}  "
            f"total {output.count(int(reports[:, 0].sum())):>8}  dropped {output.count(dropped)}  workers: {each}",
            flush=True,
        )


def _summary(pool: Workers, seconds: float, taken: list[int]) -> dict[str, Any]:
    """Compare the counters of the program, the workers and the kernel; none is computed from the others.

    Of a worker that failed, what it reported last stands in for the rest.
    """
    packets = received_bytes = 0
    failures = []
    ended = pool.info()["loss"]
    for future, reports in zip(pool.futures, pool.reports.tolist(), strict=True):
        if (error := future.exception()) is None:
            counted: Counted = future.result()
            ended = ended or counted.ended
            packets, received_bytes = packets + counted.packets, received_bytes + counted.bytes
        else:
            failures.append(spelled(str(getattr(error, "strerror", None) or error)).splitlines()[0])
            packets, received_bytes = packets + reports[0], received_bytes + reports[1]
    counters, statistics, info = pool.counters(), pool.statistics(), pool.info()
    return {
        **info,
        "mode": pool.link.mode,
        "whole": ended is None and not failures and complete(statistics, zero_copy=info["zero_copy"]),
        "error": ended,
        "sent": None,
        "redirected": counters["redirected"],
        "received": packets,
        "received_bytes": received_bytes,
        "taken": taken[0],
        "taken_bytes": taken[1],
        **losses(pool, statistics),
        "passed": counters.get("passed"),
        "no_socket": counters.get("no_socket"),
        "seconds": round(seconds, 3),
        "failed_workers": failures,
    }


def _conclude(report: dict[str, Any]) -> None:
    unknown = report["redirected"] - report["received"] - report["dropped"]
    parts = {"received": report["received"], "dropped": report["dropped"]}
    if report["failed_workers"]:
        parts["with failed workers"] = unknown
    passed = {"passed on to the kernel": report["passed"], "for want of a worker": report["no_socket"]}
    output.say(
        f"{report['taken']:,} packets, {report['taken_bytes']:,} bytes in {report['seconds']:.1f} s "
        f"({output.count(report['taken'] / max(report['seconds'], 1e-9))} packets/s)",
        *(f"{name}: {value:,}" for name, value in passed.items() if value),
        output.equation("redirected", report["redirected"], parts),
        *loss_lines(report),
    )
