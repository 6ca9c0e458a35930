# SPDX-License-Identifier: Apache-2.0
"""Interpreters that find a package of the test before any other of that name."""

from __future__ import annotations

from pathlib import Path

__all__ = ["finding_first"]


def finding_first(site: Path, python: str, script: Path) -> str:
    """Write a program at `script` that runs `python` with the packages in `site` in front; its path."""
    script.write_text(
        f"#!{python}\n"
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(site)!r})\n"
        "sys.argv = sys.argv[2:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    script.chmod(0o755)
    return str(script)
