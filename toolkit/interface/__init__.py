# SPDX-License-Identifier: Apache-2.0
"""Receive the packets of a network interface (toolkit.open(), Interface), or copies of them (toolkit.tee(), Tee)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily

if TYPE_CHECKING:
    from toolkit.interface.interface import Interface
    from toolkit.interface.tee import Tee

__all__ = ["Interface", "Tee"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "interface": "Interface",
        "tee": "Tee",
    },
)
