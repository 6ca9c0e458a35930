# SPDX-License-Identifier: Apache-2.0
"""Finding: one thing that was examined, its state, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "note", "ok", "problem"]

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """`area` is "system" or the name of an interface; `check` names what was examined, by the same words everywhere.

    A note is worth knowing; a problem keeps something from working. `remedy` is a command, or a step as text.
    """

    area: str
    check: str
    level: Level
    text: str
    remedy: str = ""


def ok(area: str, check: str, text: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(area, check, "ok", text)


def note(area: str, check: str, text: str, remedy: str = "") -> Finding:
    """Return the finding that something works, but not as well as it could, or not always."""
    return Finding(area, check, "note", text, remedy)


def problem(area: str, check: str, text: str, remedy: str) -> Finding:
    """Return the finding that something does not work."""
    return Finding(area, check, "problem", text, remedy)
