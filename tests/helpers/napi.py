# SPDX-License-Identifier: Apache-2.0
"""An interface's NAPI settings, those who defer its interrupts, and a place of one's own for their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit._base import records
from toolkit.lab import Lab
from toolkit.net.napi import DEFERRAL, Deferral
from toolkit.net.sysfs import InterfaceDirectory

__all__ = ["BEFORE", "busy", "defer", "own_records", "settings"]

BEFORE = {"napi_defer_hard_irqs": 3, "gro_flush_timeout": 12345}


def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For a fixture: records of this test alone; none may be left."""
    made = tmp_path / "records"
    monkeypatch.setattr(records, "DIRECTORY", made)
    yield made
    assert not list(made.glob("*.json")), "a record was left"
    assert not list(made.glob("*.new")), "a draft was left"


def settings(lab: Lab) -> Callable[..., dict[str, int]]:
    """The near end's settings, which are BEFORE now: call it to read them, with values to set them."""

    def values(**wanted: int) -> dict[str, int]:
        with lab.netns.entered():
            found = InterfaceDirectory("veth0")
        try:
            for name, value in wanted.items():
                found.write(name, value)
            return {name: found.read(name) for name in DEFERRAL}
        finally:
            found.close()

    values(**BEFORE)
    return values


def defer(lab: Lab, name: str = "veth0") -> Deferral:
    with lab.netns.entered():
        return Deferral(name)


def busy(lab: Lab, **options: Any) -> toolkit.Interface:
    return toolkit.open("veth0", filter="all", wait="busy-poll", ring_size=64, netns=lab.netns, **options)
