# SPDX-License-Identifier: Apache-2.0
"""Packets to files and back: pcapng, pcap, and the reader of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.capture.queueing import Queueing
    from toolkit.capture.session import Capture, CaptureStatistics

__all__ = ["Capture", "CaptureStatistics", "Queueing"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import toolkit` needs the reader only, and should stay quick."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from toolkit.capture import queueing, session

    return getattr(queueing if name == "Queueing" else session, name)
