# SPDX-License-Identifier: Apache-2.0
"""A tcpdump expression becomes classic BPF (libpcap), and that becomes C for the XDP program."""

from __future__ import annotations

from toolkit.filter.expression import FilterWarning, instructions

__all__ = ["FilterWarning", "instructions"]
