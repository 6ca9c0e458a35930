# SPDX-License-Identifier: Apache-2.0
"""What the tests share: oracles, recordings, wires, and programs run as a user runs them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ROOT"]

ROOT = Path(__file__).resolve().parents[2]  # the checkout
