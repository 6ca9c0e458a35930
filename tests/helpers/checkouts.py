# SPDX-License-Identifier: Apache-2.0
"""Copies of this checkout, and virtual environments that need no index."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

from tests.helpers import ROOT


def borrow_packages(venv: Path) -> None:
    """Let `venv` see what is installed here. A .pth inside the borrowed directory is not read: no editable toolkit."""
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")


def copy_checkout(target: Path) -> Path:
    """What a clone of this checkout would have in it."""
    skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*_cache", ".hypothesis", "dist", "build", "*.pyc")
    shutil.copytree(ROOT, target, ignore=skipped)
    return target
