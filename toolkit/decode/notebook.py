# SPDX-License-Identifier: Apache-2.0
"""batch_html(): the first packets of a Batch as a table, for a notebook."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.html import LEFT
from toolkit.decode.columns import decode
from toolkit.decode.text import summaries

__all__ = ["batch_html"]

_SHOWN = 8  # packets in a table


def batch_html(
    title: str,
    heads: npt.NDArray[np.uint8],
    lengths: npt.NDArray[Any],
    timestamps: npt.NDArray[np.datetime64] | None = None,
) -> str:
    """Return a table of the first packets in HTML: number, arrival, and the packet in a line.

    heads: shape (n, k), uint8, the first bytes of each packet (128 are enough). lengths: shape (n,), bytes of the whole
    packets. timestamps: shape (n,), datetime64, UTC; NaT where there is none.
    """
    shown = min(len(heads), _SHOWN)
    sizes = np.asarray(lengths[:shown], dtype=np.int64)
    # Decoded at their full length, so that packets do not count as cut short just because only heads are here.
    width = max(int(sizes.max(initial=0)), heads.shape[1])
    packets = np.zeros((shown, width), dtype=np.uint8)
    packets[:, : heads.shape[1]] = heads[:shown]
    columns = decode(packets.reshape(-1), np.arange(shown) * width, sizes)
    lines = []
    for row, line in enumerate(summaries(columns)):
        time = "" if timestamps is None or np.isnat(timestamps[row]) else str(timestamps[row]).replace("T", " ")
        lines.append(f"<tr><td>{row}</td><td>{time}</td><td{LEFT}>{html.escape(line)}</td></tr>")
    more = f"<p>… and {len(heads) - shown} more</p>" if len(heads) > shown else ""
    head = f"<tr><th>#</th><th>arrival, UTC</th><th{LEFT}>packet</th></tr>"
    return f"<p>{html.escape(title)}</p><table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>{more}"
