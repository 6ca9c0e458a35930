# SPDX-License-Identifier: Apache-2.0
"""How numbers look: one way for all commands."""

from __future__ import annotations

import json
import select
import sys
from typing import Any, TextIO

from toolkit.abi.if_xdp import Statistics

__all__ = ["DROP_REASONS", "bits", "count", "kernel_counters", "octets", "print_json", "reasons", "takes"]

# The kernel's counters in plain words, in the order in which they are worth reading.
DROP_REASONS = {
    "rx_dropped": "no free frame (or packet too long)",
    "rx_ring_full": "this program did not keep up",
    "rx_fill_ring_empty_descs": "times the fill ring was empty",
    "rx_invalid_descs": "bad fill ring entries",
    "tx_invalid_descs": "bad TX ring entries",
    "tx_ring_empty_descs": "times the TX ring was empty",
}


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
    """Write three digits, and the first of the names, of units a thousand times apart, in which they say it."""
    for name in names[:-1]:
        if abs(value) < 999.5 * unit:  # from there on, three digits are 1e+03
            return f"{value / unit:.3g}{name}"
        unit *= 1e3
    return f"{value / unit:,.3g}{names[-1]}" if abs(value) < 999.5 * unit else f"{value / unit:,.0f}{names[-1]}"


def reasons(statistics: Statistics) -> str:
    """Say why packets were dropped: "" when none were."""
    told = [f"{getattr(statistics, name):,} {DROP_REASONS[name]}" for name in ("rx_dropped", "rx_ring_full")]
    return ", ".join(text for text in told if not text.startswith("0 "))


def kernel_counters(statistics: Statistics) -> str:
    """All six counters of the kernel, a line each: the figure, what it means, what the kernel calls it."""
    lines = [f"  {getattr(statistics, name):>14,}  {plain:<36}{name}" for name, plain in DROP_REASONS.items()]
    return "\n".join(["counted by the kernel:", *lines])


def takes(stream: TextIO, timeout: float = 0.0) -> bool:
    """Whether a line can be printed within `patience` seconds: a pipe that nobody reads is full after a while."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return bool(poll.poll(timeout * 1000))
    except (OSError, ValueError):  # no descriptor behind it, or a closed one: to print tells
        return True


def print_json(value: dict[str, Any]) -> None:
    """Print one object on a line of its own."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
