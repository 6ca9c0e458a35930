# SPDX-License-Identifier: Apache-2.0
"""The format of figures, and where they are printed: the same for all commands.

Standard output gets data: packets, the lines of each interval, tables, JSON. Standard error gets all else: what was
opened, notes, questions, errors, and the account at the end. Times are UTC, with a Z.
"""

from __future__ import annotations

import contextlib
import json
import select
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from toolkit.xsk.statistics import Statistics

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

__all__ = [
    "DROP_REASONS",
    "bits",
    "clock",
    "count",
    "equation",
    "finish",
    "instant",
    "kernel_counters",
    "octets",
    "print_json",
    "reasons",
    "say",
    "show",
    "takes",
]

_ENDLESS = 100_000  # columns
_TIMEOUT = 0.1  # seconds that standard error has to take a line

# What the kernel's counters mean, the most telling ones first.
DROP_REASONS = {
    "rx_dropped": "no free frame (or packet too long)",
    "rx_ring_full": "this program did not keep up",
    "rx_fill_ring_empty_descs": "times the fill ring was empty",
    "rx_invalid_descs": "bad fill ring entries",
    "tx_invalid_descs": "bad TX ring entries",
    "tx_ring_empty_descs": "times the TX ring was empty",
}


def clock() -> str:
    """Return the time of day, for the beginning of a line: 10:45:59Z."""
    return time.strftime("%H:%M:%SZ", time.gmtime())


def instant(when: np.datetime64) -> str | None:
    """Format a time to the nanosecond: 2026-11-30T10:45:59.123456789Z; None for a packet without one."""
    text = str(when)
    return None if text == "NaT" else f"{text}Z"


def count(value: float) -> str:
    """Format a number of packets: 950, 12.3 k, 4.56 M."""
    return f"{value:,.0f}" if round(abs(value)) < 10_000 else _scaled(value, 1e3, " k", " M", " G", " T")


def bits(per_second: float) -> str:
    """Format a rate of bits: 12.3 Mbit/s."""
    return _scaled(per_second, 1, " bit/s", " kbit/s", " Mbit/s", " Gbit/s", " Tbit/s")


def octets(size: float) -> str:
    """Format a number of bytes: 12.3 MB."""
    return f"{size:,.0f} B" if round(abs(size)) < 10_000 else _scaled(size, 1e3, " kB", " MB", " GB", " TB")


def _scaled(value: float, unit: float, *names: str) -> str:
    """Write three digits, in the smallest unit of `names` that needs no more; each unit is a thousand of the one "
    "before."""
    for name in names[:-1]:
        if abs(value) < 999.5 * unit:  # from there on, three digits are 1e+03
            return f"{value / unit:.3g}{name}"
        unit *= 1e3
    return f"{value / unit:,.3g}{names[-1]}" if abs(value) < 999.5 * unit else f"{value / unit:,.0f}{names[-1]}"


def equation(name: str, total: int, parts: Mapping[str, int]) -> str:
    """Say what a figure is made of, without the parts that are zero: redirected 9 = received 7 + dropped 2."""
    made_of = " + ".join(f"{part} {value:,}" for part, value in parts.items() if value)
    return f"{name} {total:,} = {made_of}" if made_of else f"{name} {total:,}"


def reasons(statistics: Statistics) -> str:
    """Say why packets were dropped: "" when none were."""
    values = {name: getattr(statistics, name) for name in ("rx_dropped", "rx_ring_full")}
    return ", ".join(f"{value:,} {DROP_REASONS[name]}" for name, value in values.items() if value)


def kernel_counters(statistics: Statistics, *, sending: bool = False) -> list[str]:
    """Return a line for each of the kernel's counters that is not zero: the figure, its meaning, its name.

    sending: those of the TX ring too, which say nothing where nothing is sent.
    """
    values = {name: getattr(statistics, name) for name in DROP_REASONS if sending or not name.startswith("tx_")}
    lines = [f"  {value:>14,}  {DROP_REASONS[name]:<36}{name}" for name, value in values.items() if value]
    return ["counted by the kernel:", *lines] if lines else []


# --- where it goes ----------------------------------------------------------------------------------------------------


def takes(stream: TextIO, timeout: float = 0.0) -> bool:
    """Return whether a line can be printed within `timeout` seconds: a pipe without a reader fills up."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return bool(poll.poll(timeout * 1000))
    except (OSError, ValueError):  # no descriptor behind it, or a closed one: print() says which
        return True


def say(*lines: str) -> None:
    """Print lines to standard error. If it is not read, the command neither waits nor ends."""
    with contextlib.suppress(OSError):
        if takes(sys.stderr, _TIMEOUT):
            print(*lines, sep="\n", file=sys.stderr, flush=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one object on a line of its own."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def finish(report: dict[str, Any], conclude: Callable[[dict[str, Any]], None], *, as_json: bool) -> int:
    """Show the report, as JSON or by `conclude`, and the error in it if there is one; return the exit code."""
    if as_json:
        print_json(report)
    else:
        conclude(report)
    if report["error"] is not None:
        say(f"xsk: {report['error']}")
        return 1
    return 0


def show(table: RenderableType) -> None:
    """Print a table: on a terminal within its width, in a pipe or file as wide as it needs to be."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = console.measure(table, options=console.options.update(width=_ENDLESS)).maximum
    console.print(table)
