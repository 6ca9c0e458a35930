# SPDX-License-Identifier: Apache-2.0
"""The dependencies of a compiled program: the header files that clang read, and those that it would read first.

clang reports the files that it read (its option -MD), for every form of #include. A file that does not exist would be
read instead of another as soon as it is created: so for each file, the places where one of the same name would be found
first are recorded too. A result whose dependencies cannot be known in this way is not cached.
"""

from __future__ import annotations

import os
import platform
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from toolkit._base.cache import sha256

__all__ = ["hold", "noted"]

_VIRTUAL = "/virtual/"  # BCC's own headers and the program's text have names in here, and are no files
_ROOTS = ("/", "/virtual")  # where BCC's clang searches as well: its current directory, and that of the text
_LARGEST = 16 << 20  # bytes of a header

# The times of a file system have the resolution of a kernel tick, at most 10 ms.
_TICK_NS = 20_000_000

# Text whose result depends on more than the files that were read: on missing files, on the clock, on files that only
# the assembler opens. Also when the underscores of __has_include are pasted (##) to the other part.
_MORE = re.compile(rb"has_(include|embed|\W)|incbin|__DATE__|__TIME__|__TIMESTAMP__")
_SPLICE = re.compile(rb"\\\s*\n")


def _paths(rule: str) -> list[str]:
    """Return the files behind the colon of a makefile's rule, as clang writes them."""
    _, _, names = rule.partition(": ")
    found = re.findall(r"(?:\\[ #]|[^\s\\]|\\(?![\n ]))+", names)
    return [re.sub(r"\\([ #])", r"\1", name).replace("$$", "$") for name in found]


def _kernel_places() -> tuple[str, ...]:
    """Return where BCC finds the headers of the running kernel."""
    release = f"/lib/modules/{platform.release()}"
    return f"{release}/source", f"{release}/build"


def _base(kernel_headers: str | None, paths: Iterable[str]) -> str | None:
    """Return the directory of BCC's clang while it read the kernel's headers; None if that is not known."""
    places = (kernel_headers,) if kernel_headers else _kernel_places()
    relative = [path for path in paths if not path.startswith("/")]
    return next((one for one in places if all(os.path.exists(os.path.join(one, path)) for path in relative)), None)


def _of_kernel(path: str, base: str) -> bool:
    """Return whether a header belongs to a kernel's, or to the toolkit's copy, which change with packages only."""
    return path.startswith((f"{base}/", "/lib/modules/", "/usr/src/"))


def _content(path: str) -> bytes | None:
    """Return a file's bytes; None if it is not a regular file, too large, or not readable."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            return file.read() if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST else None
    except OSError:
        return None


def _digest(content: bytes) -> str:
    digest: str = sha256(content).hexdigest()
    return digest


def _first_missing(place: str, name: str) -> str | None:
    """Return the first that is missing of the directories from `place` to the file `name`, and the file itself."""
    path = place
    for part in ("", *name.split("/")):
        path = os.path.join(path, part) if part else path
        if not os.path.exists(path):
            return path
    return None


def _suffixes(path: str) -> Iterator[str]:
    """Yield every name by which `path` may have been included: the part behind each of its slashes."""
    parts = path.lstrip("/").split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))


def _in_front(read: Iterable[str], places: Sequence[str], before: int) -> list[str] | None:
    """Return the paths that do not exist, and that would be read instead if they did.

    None if one of them, or of the files read, was created or changed since `before` (ns of the clock).
    """
    missing: set[str] = set()
    names = {name for path in read for name in _suffixes(path)}
    for place in places:
        for name in names:
            absent = _first_missing(place, name)
            if absent is not None:
                missing.add(absent)
            elif os.stat(os.path.join(place, name)).st_ctime_ns >= before:
                return None
    return sorted(missing)


def noted(
    text: str, rule: str, began: int, *, include: Sequence[str], kernel_headers: str | None
) -> dict[str, Any] | None:
    """Return the dependencies of compiling `text`, for hold(): {"read": path -> digest, "missing": [path]}.

    rule: the files read, by clang's report. began: when it began, in ns of the clock. include: the search directories.
    kernel_headers: the toolkit's own, which the cache's key covers; None for those of the machine's kernel.
    None if the result depends on more than that.
    """
    paths = _paths(rule)
    base = _base(kernel_headers, paths)
    if not paths or base is None or _MORE.search(_SPLICE.sub(b"", text.encode(errors="surrogateescape"))):
        return None
    before = began - _TICK_NS
    read: dict[str, str] = {}
    beside: dict[str, None] = {}  # directories of the user's own headers: a quoted name is searched there first
    for path in (os.path.join(base, path) for path in paths):
        of_kernel = _of_kernel(path, base)
        if (kernel_headers and path.startswith(f"{base}/")) or (path.startswith(_VIRTUAL) and not os.path.exists(path)):
            continue
        content = _content(path)
        if content is None:
            return None
        if not of_kernel:
            if _MORE.search(_SPLICE.sub(b"", content)):
                return None
            beside[os.path.dirname(path)] = None
        read[path] = _digest(content)
    places = list(dict.fromkeys((*_ROOTS, *include, *beside)))
    try:
        missing = _in_front(paths, places, before)
    except OSError:  # it was removed meanwhile
        return None
    return None if missing is None else {"read": read, "missing": missing}


def hold(kept: Any) -> bool:
    """Return whether the files of noted() are unchanged, and no file was created that would be read first."""
    try:
        return all(_unchanged(path, digest) for path, digest in kept["read"].items()) and not any(
            os.path.exists(path) for path in kept["missing"]
        )
    except (KeyError, TypeError, AttributeError, ValueError):  # not what noted() returns
        return False


def _unchanged(path: str, digest: str) -> bool:
    content = _content(path)
    return content is not None and _digest(content) == digest
