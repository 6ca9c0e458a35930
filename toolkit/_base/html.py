# SPDX-License-Identifier: Apache-2.0
"""table_html(): a table of names and values, which public objects show in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping

__all__ = ["LEFT", "table_html"]

LEFT = " style='text-align:left'"  # notebooks align tables to the right, which suits only numbers


def table_html(title: str, rows: Mapping[str, object]) -> str:
    """Return an HTML table of names and values, a row each, under `title`."""
    body = "".join(
        f"<tr><th{LEFT}>{html.escape(name)}</th><td{LEFT}>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<p>{html.escape(title)}</p><table><tbody>{body}</tbody></table>"
