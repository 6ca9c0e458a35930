# SPDX-License-Identifier: Apache-2.0
"""The pages that people read: README, docs/ and what else lies at the top, and the Python programs in them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers import ROOT

__all__ = ["PAGES", "programs_of", "prose_of"]

PAGES: list[Path] = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_PROGRAM = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^```.*?^```\n", re.DOTALL | re.MULTILINE)


def programs_of(page: Path) -> list[str]:
    """Return the Python programs of a page."""
    return _PROGRAM.findall(page.read_text(encoding="utf-8"))


def prose_of(page: Path) -> str:
    """Return a page without its code blocks; the lines keep their numbers."""
    return _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), page.read_text(encoding="utf-8"))
