# SPDX-License-Identifier: Apache-2.0
"""Headers of many packets at once: from (memory, offsets, lengths) to columns, without a loop over the packets."""

from __future__ import annotations

from toolkit.decode.columns import Columns, decode
from toolkit.decode.gather import head
from toolkit.decode.groups import Top, flow_keys, top

__all__ = ["Columns", "Top", "decode", "flow_keys", "head", "top"]
