# SPDX-License-Identifier: Apache-2.0
"""Warn of what forwarded packets may lose, beforehand, on stderr (so that --json stays JSON)."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit._base.netns import entered
from toolkit.cli.binding import Binding
from toolkit.cli.spelling import spelled
from toolkit.cli.view import output
from toolkit.doctor.finding import Finding
from toolkit.doctor.forwarding import joined_segments, lost_when_forwarded, surely_generic
from toolkit.interface.interface import Interface

__all__ = ["warn_of_generic", "warn_of_losses"]


def warn_of_losses(binding: Binding, names: Iterable[str], *, tcp: bool = True) -> set[str]:
    """Say what packets from these interfaces lose, before anything is opened; which of them will be generic.

    tcp: whether TCP is among them.
    """
    generic = set()
    for name in names:
        device = binding.describe(name)
        with entered(binding.netns):
            if binding.mode == "generic" or (binding.mode == "auto" and surely_generic(device)):
                generic.add(name)
            findings = list(lost_when_forwarded(device, generic=tcp and name in generic))
        _say(findings)
    return generic


def warn_of_generic(opened: Iterable[Interface], expected: set[str]) -> None:
    """Say so where generic mode came about unexpectedly."""
    for one in opened:
        if one.mode == "generic" and one.name not in expected:
            _say(joined_segments(one.device))


def _say(findings: Iterable[Finding]) -> None:
    for one in findings:
        output.say(spelled(f"xsk: warning: {one.area}: {one.text}. Next step: {one.remedy}."))
