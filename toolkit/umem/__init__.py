# SPDX-License-Identifier: Apache-2.0
"""The UMEM: frames shared with the kernel, and who owns which of them."""

from __future__ import annotations

from toolkit.umem.umem import UMEM

__all__ = ["UMEM"]
