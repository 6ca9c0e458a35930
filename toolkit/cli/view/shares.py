# SPDX-License-Identifier: Apache-2.0
"""Tables of who has how much of the traffic: the demo's and those of `xsk top`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["percent", "share_table"]


def percent(part: float, whole: float) -> str:
    """Format a share: 12.3 %, or 0 % of nothing."""
    return f"{100 * part / whole:.3g} %" if whole else "0 %"


def share_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, width: int | None = None
) -> Table:
    """Return a table of names, `title` above them, and figures, flush right under `columns`.

    width: of the names, at most; what is longer is cut.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, min_width=12, max_width=width, no_wrap=True, overflow="ellipsis")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # not str: to rich, an IPv6 address in brackets is markup, and :ab: a picture
    return table
