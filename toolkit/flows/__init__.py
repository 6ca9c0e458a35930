# SPDX-License-Identifier: Apache-2.0
"""Running counters by flow, source, destination, port or protocol: exact, in memory that does not grow."""

from __future__ import annotations

from toolkit.flows.flows import Flow, Flows

__all__ = ["Flow", "Flows"]
