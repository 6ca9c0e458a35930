# SPDX-License-Identifier: Apache-2.0
"""Packets as tables of other engines: Arrow, pandas, Parquet. Each module imports its engine where it is used."""

from __future__ import annotations
