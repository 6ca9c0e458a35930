# SPDX-License-Identifier: Apache-2.0
"""sha256() without OpenSSL, which hashlib loads: 3 ms and 3 MB, for the hashes of a few small files."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["sha256"]


def _found() -> Callable[..., Any]:
    for name in ("_sha2", "_sha256"):  # Python's own, from 3.12 on and before
        with contextlib.suppress(ImportError, AttributeError):
            own: Callable[..., Any] = importlib.import_module(name).sha256
            return own
    import hashlib

    return hashlib.sha256


sha256 = _found()
