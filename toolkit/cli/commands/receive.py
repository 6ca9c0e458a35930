# SPDX-License-Identifier: Apache-2.0
"""`xsk receive`: a line with the rate each second, or each packet; at the end the counters, compared."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click
import cloup

from toolkit.batch.batch import Batch
from toolkit.cli import options as opt
from toolkit.cli.binding import Binding
from toolkit.cli.command import command
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine
from toolkit.cli.view.summary import Source, Totals, conclude, introduce, reading, summary
from toolkit.errors import DeviceGoneError

__all__ = ["receive", "run"]

Show = Callable[[Batch], None]


@command(
    cloup.option_group("What to take", opt.FILTER, opt.TEE, opt.ON_MATCH, *opt.SAMPLING, opt.YES),
    cloup.option_group("What to show", opt.HEX, opt.NO_NAMES, opt.INTERVAL, opt.JSON),
    cloup.option_group("When to stop", opt.COUNT, opt.SECONDS),
    opt.where(),
    opt.how_to_receive(
        cloup.option(
            "--workers",
            metavar="N",
            type=click.IntRange(min=1),
            help="Use this many processes, each with a part of the queues.",
        )
    ),
    filtered=True,
    examples=(
        ("xsk receive eth0 tcp port 443 --tee -x -c 5", "five packets, decoded"),
        ("xsk receive eth0 udp port 9", "the rate of what port 9 gets"),
        ("xsk receive eth0 arp --tee -x -c 5", ""),
        ("xsk receive eth0 udp port 123 --on-match count", "counted only; nothing is taken"),
        ("xsk receive eth0 udp port 9 --seconds 10 --json", ""),
        ("xsk receive eth0 udp port 4789 --workers 4", ""),
        ("xsk receive eth0 udp port 4789 --sample 1/100 -s 64", ""),
    ),
    matters=("--tee", "-x", "-c", "--seconds", "-s", "--json", "--queue", "--yes"),
)
def receive(interface: str, **options: Any) -> int:
    """TAKE packets that match EXPRESSION, so that this host does not get them, and show their rate, or their bytes.

    With --tee you get copies, and this host gets every packet.

    EXPRESSION is tcpdump's, or 'all' (`xsk help filters`). Before it takes what this host needs, it asks
    (`xsk help taking`).

    Each queue has an AF_XDP socket. Standard output gets a line each second: packets and bits per second, the total,
    and what the kernel had to drop; with -x each packet instead. At the end the program is detached, the rings are
    emptied, and standard error gets the account: redirected = received + dropped (`xsk help output`).
    """
    if options["on_match"] != "redirect" and (options["count"] or options["dump"] or options["workers"]):
        raise click.UsageError(
            f"--on-match {options['on_match']} leaves the packets in the driver, so there is nothing for --count, "
            "--hex or --workers. Next step: leave them out."
        )
    if options["workers"] and options["tee"]:
        raise click.UsageError(
            "--tee has one ring of copies for all queues, so that --workers cannot share them. Next step: leave one "
            "of the two out."
        )
    if options["workers"] and options["dump"]:
        raise click.UsageError(
            "--hex shows packets in order, and several --workers have none. Next step: leave one of the two out."
        )
    return run(interface, opt.binding_from(options), **options)


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
        line = LiveLine(lambda: reading(opened, totals), interval=interval, quiet=as_json or dump)
        show = (_print_json if as_json else _print) if dump else None
        gone = _loop(opened, stop, totals, line, count, show)
        report = summary(opened, totals, time.monotonic() - began, gone)
    return output.finish(report, conclude, as_json=as_json)


def _loop(
    opened: Source, stop: Stop, totals: Totals, line: LiveLine, count: int | None, show: Show | None
) -> DeviceGoneError | None:
    while not stop:
        left = None if count is None else count - totals.packets
        try:
            batch = opened.receive(timeout=stop.timeout, limit=left)
        except DeviceGoneError as gone:
            return gone
        totals.add(batch)
        if show is not None and batch:
            show(batch)
        line.tick()
        if count is not None and totals.packets >= count:
            stop.request()
    return None


def _print(batch: Batch) -> None:
    """Show packets to people: time, queue and a line, then the bytes."""
    from toolkit.decode.text import summaries

    for line, arrival, packet in zip(summaries(batch.decode()), batch.timestamps, batch, strict=True):
        print(f"{output.instant(arrival) or 'no time'}  queue {batch.queue}  {line}")
        for at in range(0, len(packet), 16):
            row = bytes(packet[at : at + 16])
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            print(f"    {at:04x}  {row.hex(' '):<47}  {text}")
    sys.stdout.flush()


def _print_json(batch: Batch) -> None:
    """Show them to programs: an object a packet, each on a line of its own."""
    from toolkit.decode.text import summaries

    wire = batch.wire_lengths.tolist()
    for line, arrival, length, packet in zip(summaries(batch.decode()), batch.timestamps, wire, batch, strict=True):
        output.print_json(
            {
                "time": output.instant(arrival),
                "queue": batch.queue,
                "summary": line,
                "wire_length": length,
                "hex": bytes(packet).hex(),
            }
        )
