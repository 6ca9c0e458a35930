# SPDX-License-Identifier: Apache-2.0
"""Losses, and who counted them: the kernel those of the sockets, the NIC those that no program saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.cli.view import output
from toolkit.interface.attachment import Attachment
from toolkit.xsk.statistics import Statistics

__all__ = ["complete", "drop_reasons", "loss_lines", "losses", "now"]


def losses(opened: Attachment, statistics: Statistics) -> dict[str, Any]:
    """Return the part of a report that says what was lost: the kernel's six counters, and those of the NIC that moved.

    `missed` never reached the program, and is no part of redirected = received + dropped.
    """
    return {
        "dropped": statistics.dropped,
        "missed": statistics.missed,
        "drop_reasons": drop_reasons(statistics),
        "nic_counters": opened.nic_counters(),
    }


def drop_reasons(statistics: Statistics) -> dict[str, int]:
    """Return what the kernel itself counts, by its names."""
    return {name: count for name, count in statistics._asdict().items() if name != "missed"}


def loss_lines(report: Mapping[str, Any], *, reasons: Statistics | None = None, sending: bool = False) -> list[str]:
    """Return the lines of that part, for people; none where nothing was lost.

    reasons: in place of the report's own. sending: with the counters of the TX ring.
    """
    kernel = reasons or Statistics(**report["drop_reasons"])
    return [*_missed(report, kernel), *output.kernel_counters(kernel, sending=sending), *_nic(report["nic_counters"])]


def complete(statistics: Statistics, *, zero_copy: bool) -> bool:
    """Return whether nothing was lost, as far as it is counted; in zero-copy mode the NIC must count."""
    return not statistics.dropped and (statistics.missed == 0 or (statistics.missed is None and not zero_copy))


def now(statistics: Statistics) -> dict[str, int]:
    """Return what a live line shows of losses: `missed` only where the NIC counted any."""
    return {"dropped": statistics.dropped, **({"missed by the NIC": statistics.missed} if statistics.missed else {})}


def _missed(report: Mapping[str, Any], kernel: Statistics) -> list[str]:
    missed = report["missed"]
    if missed:
        return [
            f"missed by the NIC: {missed:,} packets of all that arrived, which no program saw: it had no frame for "
            "them. More fit larger rings (--ring-size)"
        ]
    if missed is None and report["zero_copy"]:
        empty = kernel.rx_fill_ring_empty_descs
        counted = "what it counted is below" if report["nic_counters"] else "this one counts nothing"
        return [
            f"packets may be missing: the fill ring was empty ({empty:,} times); in zero-copy mode what arrives then "
            f"is lost in the NIC, which alone could count it ({counted}). More fit larger rings (--ring-size)"
        ]
    return []


def _nic(counters: Mapping[str, int]) -> list[str]:
    lines = [f"  {value:>14,}  {name}" for name, value in counters.items()]
    return (
        [
            "counted by the NIC and its driver (those above may be among them, and one packet under several names):",
            *lines,
        ]
        if lines
        else []
    )
