# SPDX-License-Identifier: Apache-2.0
"""Filters: a tcpdump expression is compiled to classic BPF by libpcap, and translated to C for the XDP program."""

from __future__ import annotations

from toolkit.filter.expression import FilterWarning, instructions

__all__ = ["FilterWarning", "instructions"]
