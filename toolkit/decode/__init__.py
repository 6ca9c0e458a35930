# SPDX-License-Identifier: Apache-2.0
"""Decode the headers of many packets at once: from (memory, offsets, lengths) to columns, without a loop in Python."""

from __future__ import annotations

from toolkit.decode.columns import Columns, decode
from toolkit.decode.gather import head

__all__ = ["Columns", "decode", "head"]
