# SPDX-License-Identifier: Apache-2.0
"""Write packets to files: pcapng, pcap, Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily

if TYPE_CHECKING:
    from toolkit.capture.capture import Capture
    from toolkit.capture.options import Queueing
    from toolkit.capture.statistics import CaptureStatistics

__all__ = ["Capture", "CaptureStatistics", "Queueing"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "capture": "Capture",
        "statistics": "CaptureStatistics",
        "options": "Queueing",
    },
)
