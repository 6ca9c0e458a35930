# SPDX-License-Identifier: Apache-2.0
"""Loading a shared library at first use, with an error that names the package when it is missing."""

from __future__ import annotations

import ctypes

from toolkit.errors import LibraryError

__all__ = ["declare", "load"]


def load(soname: str, package: str, *, hold_gil: bool = False) -> ctypes.CDLL:
    """Open `soname`. With `hold_gil` calls keep the GIL: for calls of nanoseconds on memory that others may close."""
    kind = ctypes.PyDLL if hold_gil else ctypes.CDLL
    try:
        return kind(soname, use_errno=True)
    except OSError as refused:
        raise LibraryError(
            f"cannot load {soname}: {refused}. Likely cause: the package {package} is not installed. "
            f"Next step: `apt-get install {package}` (or run scripts/setup)."
        ) from refused


def declare(
    library: ctypes.CDLL, name: str, restype: type | None, argtypes: tuple[object, ...], *, since: str = ""
) -> None:
    """Give a function its C types; a missing one is an error that says which version has it."""
    try:
        function = getattr(library, name)
    except AttributeError as missing:
        wanted = f" It came with {since}." if since else ""
        raise LibraryError(
            f"{library._name} has no function {name}: the library is too old.{wanted} "
            "Next step: install a newer version (Debian 12 is new enough)."
        ) from missing
    function.restype = restype
    function.argtypes = argtypes
