# SPDX-License-Identifier: Apache-2.0
"""Packets that were received: a Batch, and the EditableBatch that a Forwarder's edit function gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily
from toolkit.batch.batch import Batch
from toolkit.batch.batch import _unpickle as _unpickle

if TYPE_CHECKING:
    from toolkit.batch.editable import EditableBatch

__all__ = ["Batch", "EditableBatch"]

__getattr__, __dir__ = lazily(__name__, {"editable": "EditableBatch"})
