# SPDX-License-Identifier: Apache-2.0
"""The `xsk` command."""

from toolkit.cli.main import main

__all__ = ["main"]
