# SPDX-License-Identifier: Apache-2.0
"""Where program sources are, and the whole C text that goes to the compiler."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

from toolkit.errors import ArgumentError
from toolkit.program import match

__all__ = ["Source", "directory", "headers", "read", "source_text"]

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")
_QUOTED_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def directory() -> Path:
    """The directory of the toolkit's own programs: in the package (a wheel), else beside it (a checkout)."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "progs", package.parent / "progs"):
        if os.path.isfile(place / "xsk_redirect.c"):  # unlike Path.is_file, False where we may not look
            return place
    raise ArgumentError(
        f"the toolkit's programs are missing: neither {package / 'progs'} nor {package.parent / 'progs'} has "
        "xsk_redirect.c. Likely cause: an incomplete installation, or one that this user may not read. "
        "Next step: install the package again, where everybody may read it."
    )


def headers() -> Path:
    """The kernel headers that the toolkit carries, as a directory for BCC_KERNEL_SOURCE."""
    return Path(__file__).resolve().parent / "headers"


@dataclasses.dataclass(frozen=True)
class Source:
    """A program's text, where it came from, and what else its compilation reads."""

    name: str
    text: str
    include: tuple[str, ...]

    def dependencies(self) -> list[tuple[str, str]]:
        """(path, text) of every file included with quotes, at any depth: part of what a cached result depends on."""
        found: dict[str, str] = {}
        waiting = [self.text]
        while waiting:
            for name in _QUOTED_INCLUDE.findall(waiting.pop()):
                for place in self.include:
                    path = os.path.join(place, name)
                    if path in found:
                        break
                    if os.path.isfile(path):
                        found[path] = Path(path).read_text(errors="replace")
                        waiting.append(found[path])
                        break
        return sorted(found.items())


def read(source: str | os.PathLike[str]) -> Source:
    """Find a source: C text (it contains a newline), a path, or the name of a program in progs/."""
    if isinstance(source, str) and "\n" in source:
        return Source("<text>", source, (str(directory()),))
    given = Path(source)
    own = directory() / given
    # A bare name means the toolkit's program, whatever lies in the current directory under that name.
    path = own if given.parent == Path() and own.is_file() else given
    try:
        text = path.read_text()
    except OSError as missing:
        names = ", ".join(sorted(p.name for p in directory().glob("*.c")))
        raise ArgumentError(
            f"cannot read the program {os.fspath(source)!r}: {missing.strerror}. "
            f"Next step: give a path, C text, or one of the toolkit's own programs ({names})."
        ) from missing
    return Source(str(path), text, (str(path.resolve().parent), str(directory())))


def defined(defines: Mapping[str, str | int]) -> str:
    """Macros as text, to stand before the program: unlike compiler flags they need no quoting."""
    for name in defines:
        if not _IDENTIFIER.match(name):
            raise ArgumentError(f"{name!r} is not a C identifier, so it cannot be defined as a macro.")
    return "".join(f"#define {name} {value}\n" for name, value in sorted(defines.items()))


def assemble(source: Source, filter: str, defines: Mapping[str, str | int]) -> str:
    """Macros, the filter, then the program under its own file name and line numbers."""
    macros = defined(defines)
    # A program without a filter in it takes everything its code says: a filter for it would silently do nothing.
    if filter != "all" and '"xsk_filter.h"' not in source.text:
        raise ArgumentError(
            f'{source.name} does not include "xsk_filter.h", so the filter {filter!r} would have no effect. '
            'Next step: include it and call match(data, data_end), or pass filter="all".'
        )
    text = "" if filter == "all" else "#define XSK_FILTER_H\n" + match.translate(filter)
    name = source.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'{macros}{text}#line 1 "{name}"\n{source.text}'


def source_text(
    source: str | os.PathLike[str] = "xsk_redirect.c",
    *,
    filter: str = "all",
    defines: Mapping[str, str | int] | None = None,
) -> str:
    """The C text of a program with its filter in it, ready for `bcc.BPF(text=...)` in your own process.

    Give `cflags=["-I" + str(toolkit.program.directory())]` beside it if the filter is "all".
    """
    return assemble(read(source), filter, defines or {})
