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
    for limit, divisor, unit in ((1e4, 1, ""), (1e6, 1e3, " k"), (1e9, 1e6, " M")):
        if abs(value) < limit:
            return f"{value:,.0f}" if divisor == 1 else f"{value / divisor:.3g}{unit}"
    return f"{value / 1e9:.3g} G"


def bits(per_second: float) -> str:
    """Format a rate of bits: 12.3 Mbit/s."""
    for limit, divisor, unit in ((1e3, 1, "bit/s"), (1e6, 1e3, "kbit/s"), (1e9, 1e6, "Mbit/s")):
        if per_second < limit:
            return f"{per_second / divisor:.3g} {unit}"
    return f"{per_second / 1e9:.3g} Gbit/s"


def octets(size: float) -> str:
    """Format a number of bytes: 12.3 MB."""
    for limit, divisor, unit in ((1e4, 1, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB")):
        if size < limit:
            return f"{size:,.0f} B" if divisor == 1 else f"{size / divisor:.3g} {unit}"
    return f"{size / 1e9:.3g} GB"


def reasons(statistics: Statistics) -> str:
    """Say why packets were dropped: "" when none were."""
    told = [f"{getattr(statistics, name):,} {DROP_REASONS[name]}" for name in ("rx_dropped", "rx_ring_full")]
    return ", ".join(text for text in told if not text.startswith("0 "))


def kernel_counters(statistics: Statistics) -> str:
    """All six counters of the kernel, a line each: the figure, what it means, what the kernel calls it."""
    lines = [f"  {getattr(statistics, name):>14,}  {plain:<36}{name}" for name, plain in DROP_REASONS.items()]
    return "\n".join(["counted by the kernel:", *lines])


def takes(stream: TextIO, patience: float = 0.0) -> bool:
    """Whether a line can be printed within `patience` seconds: a pipe that nobody reads is full after a while."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return bool(poll.poll(patience * 1000))
    except (OSError, ValueError):  # no descriptor behind it, or a closed one: to print tells
        return True


def print_json(value: dict[str, Any]) -> None:
    """Print one object on a line of its own."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
