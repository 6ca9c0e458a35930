# SPDX-License-Identifier: Apache-2.0
"""Read recordings as Batches (toolkit.read), and send them on an interface again (toolkit.replay)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily

if TYPE_CHECKING:
    from toolkit.recorded.format import RecordedInterface
    from toolkit.recorded.recorded import Recorded
    from toolkit.recorded.replay import Replay, Replayed

__all__ = ["Recorded", "RecordedInterface", "Replay", "Replayed"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "recorded": "Recorded",
        "format": "RecordedInterface",
        "replay": "Replay Replayed",
    },
)
