# SPDX-License-Identifier: Apache-2.0
"""`xsk receive`: a rate line each second, or each packet; counters reconciled at the end."""

from __future__ import annotations

import sys
import time

from toolkit.batch.batch import Batch
from toolkit.cli.binding import Binding
from toolkit.cli.spelling import message_of
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine
from toolkit.cli.view.summary import Source, Totals, conclude, ended, introduce, reading, summary
from toolkit.errors import DeviceGoneError

__all__ = ["run"]


def run(
    interface: str,
    binding: Binding,
    *,
    expression: str | None,
    count: int | None,
    seconds: float | None,
    interval: float,
    dump: bool,
    as_json: bool,
    workers: int | None = None,
) -> int:
    """Receive until a signal, `seconds` or `count`; the exit code."""
    if workers is not None:
        from toolkit.cli.commands.receive_workers import run as run_workers

        binding.ask(interface, expression)
        wanted = binding.open_options(expression)
        return run_workers(interface, workers=workers, seconds=seconds, count=count, as_json=as_json, **wanted)
    with Stop(seconds) as stop, binding.watch(interface, expression) as opened:
        if not as_json:
            introduce(opened)
        totals, began = Totals(opened), stop.restart()  # to compile and attach is not to receive
        line = LiveLine(
            lambda: reading(opened, totals),
            interval=interval,
            quiet=as_json or dump,
        )
        gone = _loop(opened, stop, totals, line, count, dump=dump and not as_json)
        report = summary(opened, totals, time.monotonic() - began, gone)
        if as_json:
            output.print_json(report)
        else:
            conclude(report)
    if (failure := ended(opened, gone)) is not None:
        print(f"xsk: {message_of(failure)}", file=sys.stderr)
        return 1
    return 0


def _loop(
    opened: Source, stop: Stop, totals: Totals, line: LiveLine, count: int | None, *, dump: bool
) -> DeviceGoneError | None:
    while not stop:
        left = None if count is None else count - totals.packets
        try:
            batch = opened.receive(timeout=stop.timeout, limit=left)
        except DeviceGoneError as gone:
            return gone
        totals.add(batch)
        if dump and batch:
            _dump(batch)
        line.tick()
        if count is not None and totals.packets >= count:
            stop.request()
    return None


def _dump(batch: Batch) -> None:
    from toolkit.decode.text import summaries

    for line, arrival, packet in zip(summaries(batch.decode()), batch.timestamps, batch, strict=True):
        print(f"{arrival}  queue {batch.queue}  {line}")
        for at in range(0, len(packet), 16):
            row = bytes(packet[at : at + 16])
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            print(f"    {at:04x}  {row.hex(' '):<47}  {text}")
    sys.stdout.flush()
