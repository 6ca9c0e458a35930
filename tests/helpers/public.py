# SPDX-License-Identifier: Apache-2.0
"""Which packages of toolkit/ are public."""

from __future__ import annotations

from tests.helpers import ROOT

PRIVATE = {"_base", "abi", "tables", "umem", "wait", "xsk", "batch", "interface", "cli"}


PUBLIC = {"errors"} | {path.parent.name for path in (ROOT / "toolkit").glob("*/__init__.py")} - PRIVATE
