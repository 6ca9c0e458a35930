# SPDX-License-Identifier: Apache-2.0
"""`xsk receive`: a rate line each second, or each packet; counters reconciled at the end."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from toolkit.abi.if_xdp import Statistics
from toolkit.batch import Batch
from toolkit.cli import output
from toolkit.cli.stop import Stop
from toolkit.errors import ClosedError, DeviceGoneError
from toolkit.interface import Interface
from toolkit.opening import open as open_interface

__all__ = ["Totals", "drain", "run", "summary"]


@dataclass
class Totals:
    """What was received so far."""

    packets: int = 0
    bytes: int = 0

    def add(self, batch: Batch) -> None:
        """Count a Batch."""
        if batch:
            self.packets += len(batch)
            self.bytes += int(batch.lengths.sum())


def run(
    interface: str,
    *,
    expression: str | None,
    count: int | None,
    seconds: float | None,
    dump: bool,
    queues: tuple[int, ...],
    mode: str | None,
    zero_copy: bool,
    ring_size: int | None,
    replace: bool,
    netns: str | None,
    as_json: bool,
) -> int:
    """Receive until a signal, `seconds` or `count`; the exit code."""
    namespace = int(netns) if netns is not None and netns.isdigit() else netns
    with (
        Stop(seconds) as stop,
        open_interface(
            interface,
            filter=expression,
            queues=queues or "all",
            mode=mode or "auto",  # type: ignore[arg-type]
            zero_copy=True if zero_copy else "auto",
            ring_size=ring_size,
            replace=replace,
            netns=namespace,
        ) as opened,
    ):
        if not as_json:
            _introduce(opened)
        totals, began = Totals(), time.monotonic()
        gone = _loop(opened, stop, totals, count, dump=dump, quiet=as_json)
        elapsed = time.monotonic() - began
        report = summary(opened, totals, elapsed) if gone is None else None
        if gone is not None:
            print(f"xsk: {gone.strerror}", file=sys.stderr)
            return 1
        assert report is not None
        if as_json:
            output.print_json(report)
        else:
            _conclude(report)
    return 0


def _introduce(opened: Interface) -> None:
    info = opened.info()
    copying = "zero-copy" if info["zero_copy"] else "copy mode"
    queues = info["queues"]
    which = f"queue {queues[0]}" if len(queues) == 1 else f"{len(queues)} queues"
    print(f"{info['interface']}: {info['mode']} XDP, {copying}, {which}; filter: {info['filter']}", flush=True)
    if info["fallback_reason"]:
        print(f"  generic, because: {info['fallback_reason']}", flush=True)


def _loop(
    opened: Interface, stop: Stop, totals: Totals, count: int | None, *, dump: bool, quiet: bool
) -> DeviceGoneError | None:
    line = _RateLine(opened, totals)
    while not stop:
        left = None if count is None else count - totals.packets
        try:
            batch = opened.receive(timeout=stop.patience, limit=left)
        except DeviceGoneError as gone:
            return gone
        totals.add(batch)
        if dump and batch and not quiet:
            _dump(batch)
        elif not quiet and not dump:
            line.maybe_print()
        if count is not None and totals.packets >= count:
            stop.request()
    return None


class _RateLine:
    """Prints what the last second brought."""

    def __init__(self, opened: Interface, totals: Totals) -> None:
        self._opened = opened
        self._totals = totals
        self._last = (time.monotonic(), 0, 0, opened.statistics().dropped)

    def maybe_print(self) -> None:
        """Print a line when a second has passed since the last."""
        now = time.monotonic()
        then, packets, received_bytes, dropped = self._last
        if now - then < 1.0:
            return
        dropped_now = self._opened.statistics().dropped
        self._last = (now, self._totals.packets, self._totals.bytes, dropped_now)
        rate = (self._totals.packets - packets) / (now - then)
        bit_rate = (self._totals.bytes - received_bytes) * 8 / (now - then)
        print(
            f"{time.strftime('%H:%M:%S')}  {output.count(rate):>8} packets/s  {output.bits(bit_rate):>12}  "
            f"total {output.count(self._totals.packets):>8}  dropped {output.count(dropped_now - dropped)}",
            flush=True,
        )


def _dump(batch: Batch) -> None:
    from toolkit.describe import summaries

    for line, arrival, packet in zip(summaries(batch.decode()), batch.timestamps, batch, strict=True):
        print(f"{arrival}  queue {batch.queue}  {line}")
        for at in range(0, len(packet), 16):
            row = bytes(packet[at : at + 16])
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            print(f"    {at:04x}  {row.hex(' '):<47}  {text}")
    sys.stdout.flush()


def drain(opened: Interface, totals: Totals) -> None:
    """Detach, and receive what is still in the rings: after this the counters stand still."""
    try:
        opened.detach()
        while batch := opened.receive(timeout=0.05):
            totals.add(batch)
    except (ClosedError, DeviceGoneError):
        return


def summary(opened: Interface, totals: Totals, seconds: float) -> dict[str, Any]:
    """Drain, then put the program's counters, ours and the kernel's side by side.

    `taken` is what was received before the end was asked for (with --count, just that many); `received` is all.

    redirected is counted by the XDP program, received by us, dropped by the kernel; none is computed from the others.
    """
    taken, taken_bytes = totals.packets, totals.bytes
    drain(opened, totals)
    counters, statistics = opened.counters(), opened.statistics()
    return {
        **opened.info(),
        "sent": None,
        "redirected": counters["redirected"],
        "received": totals.packets,
        "received_bytes": totals.bytes,
        "taken": taken,
        "taken_bytes": taken_bytes,
        "dropped": statistics.dropped,
        "drop_reasons": statistics._asdict(),
        "passed": counters.get("passed"),
        "seconds": round(seconds, 3),
    }


def _conclude(report: dict[str, Any]) -> None:
    seconds = max(report["seconds"], 1e-9)
    statistics = Statistics(**report["drop_reasons"])
    print(
        f"{report['taken']:,} packets, {report['taken_bytes']:,} bytes in {report['seconds']:.1f} s "
        f"({output.count(report['taken'] / seconds)} packets/s); passed on to the kernel: {report['passed']:,}"
    )
    why = output.reasons(statistics)
    print(
        f"redirected {report['redirected']:,} = received {report['received']:,} + dropped {report['dropped']:,}", end=""
    )
    print(f" ({why})" if why else "")
