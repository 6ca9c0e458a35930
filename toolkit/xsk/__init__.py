# SPDX-License-Identifier: Apache-2.0
"""The AF_XDP socket: one queue of one interface, its four rings, receiving and sending."""

from __future__ import annotations

from toolkit.xsk.socket import Socket

__all__ = ["Socket"]
