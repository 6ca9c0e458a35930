# SPDX-License-Identifier: Apache-2.0
"""Load a shared library at first use, with an error that names the package when it is missing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator

from toolkit.errors import LibraryError, ToolkitError, explained, kernel_error

__all__ = ["declare", "importing", "load", "not_loaded", "refused_by"]

_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EACCES, errno.EPERM)


def refused_by(text: str) -> int:
    """Return the errno of a limit or permission in a message of the dynamic linker; 0 if there is none in it.

    The linker reports it as text only.
    """
    if "failed to map segment" in text or "static TLS block" in text:
        return errno.ENOMEM
    return next((number for number in _LIMITS if os.strerror(number) in text), 0)


def not_loaded(soname: str, package: str, said: object) -> ToolkitError:
    """Build the error for a library that was not loaded. It is missing only if the dynamic linker says so."""
    if limit := _limit(soname, said):
        return limit
    if os.strerror(errno.ENOENT) in str(said):
        cause, step = f"the package {package} is not installed", "install"
    else:
        cause, step = "the file is damaged, or made for another machine", "install --reinstall"
    return LibraryError(
        f"cannot load {soname}: {said}. Likely cause: {cause}. "
        f"Next step: `apt-get {step} {package}` (or run scripts/setup)."
    )


def _limit(name: str, said: object) -> ToolkitError | None:
    """Build the error for a limit or a permission that prevents loading; None if the cause is another one."""
    number = refused_by(str(said))
    if not number:
        return None
    call = "library" if number in (errno.EACCES, errno.EPERM) else "memory" if number == errno.ENOMEM else ""
    return kernel_error(call, errno.EACCES if call == "library" else number, f"cannot load {name}")


@contextlib.contextmanager
def importing(package: str, missing: ToolkitError) -> Iterator[None]:
    """Raise the right error when an import in the block fails: `missing` only if the Python package is not there."""
    try:
        with explained(f"cannot load {package}"):
            yield
    except ImportError as refused:
        if isinstance(refused, ModuleNotFoundError) and (refused.name or package).split(".")[0] == package:
            raise missing from refused
        raise _limit(package, refused) or LibraryError(
            f"cannot load the Python package {package}: {refused}. Likely cause: it is damaged, or made for another "
            f"Python. Next step: `pip install --force-reinstall {package}`."
        ) from refused


def load(soname: str, package: str, *, hold_gil: bool = False) -> ctypes.CDLL:
    """Load a library. hold_gil: calls keep the GIL, for calls of nanoseconds on memory that other threads may close."""
    kind = ctypes.PyDLL if hold_gil else ctypes.CDLL
    try:
        return kind(soname, use_errno=True)
    except OSError as refused:
        raise not_loaded(soname, package, refused) from refused


def declare(
    library: ctypes.CDLL, name: str, restype: type | None, argtypes: tuple[object, ...], *, since: str = ""
) -> None:
    """Declare the C types of a function. LibraryError, with the version that has it, if it is missing."""
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
