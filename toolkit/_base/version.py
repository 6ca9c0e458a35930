# SPDX-License-Identifier: Apache-2.0
"""The version of the installed toolkit."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("afxdp-toolkit")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
