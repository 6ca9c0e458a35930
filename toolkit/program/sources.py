# SPDX-License-Identifier: Apache-2.0
"""Find program sources, and assemble the C text for the compiler."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from toolkit._base.arguments import cannot_be
from toolkit.errors import ArgumentError
from toolkit.filter.translate import translate
from toolkit.program.rules import Action, Filtering, Rule, as_line, generate, plain

__all__ = ["SourceText", "directory", "headers", "read", "source_text"]

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")


def directory() -> Path:
    """Return the directory of the toolkit's own programs: in the package (a wheel), else beside it (a checkout)."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "progs", package.parent / "progs"):
        if os.path.isfile(place / "xsk_redirect.c"):  # unlike Path.is_file(), False without permission
            return place
    raise ArgumentError(
        f"the toolkit's programs are missing: neither {package / 'progs'} nor {package.parent / 'progs'} has "
        "xsk_redirect.c. Likely cause: an incomplete installation, or one that this user may not read. "
        "Next step: install the package again, where everybody may read it."
    )


def headers() -> Path:
    """Return the directory of the toolkit's own kernel headers, for BCC_KERNEL_SOURCE."""
    return Path(__file__).resolve().parent / "headers"


@dataclasses.dataclass(frozen=True)
class SourceText:
    """A program's text, its origin, and the directories of its headers."""

    name: str
    text: str
    include: tuple[str, ...]


def read(source: str | os.PathLike[str]) -> SourceText:
    """Read a source: C text (with a newline in it), a path, or the name of a program in progs/."""
    if isinstance(source, str) and "\n" in source:
        return SourceText("<text>", source, (str(directory()),))
    given = Path(source)
    own = directory() / given
    # A bare name is that of the toolkit's program, even if the current directory has a file of that name.
    path = own if given.parent == Path() and own.is_file() else given
    try:
        raw = path.read_bytes()
    except OSError as missing:
        if missing.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # build() explains it: the program is not at fault
        names = ", ".join(sorted(p.name for p in directory().glob("*.c")))
        raise ArgumentError(
            f"cannot read the program {os.fspath(source)!r}: {missing.strerror}. "
            f"Next step: give a path, C text, or one of the toolkit's own programs ({names})."
        ) from missing
    if raw.startswith(b"\x7fELF") or b"\0" in raw:
        what = "a compiled object file" if raw.startswith(b"\x7fELF") else "not a text file"
        raise ArgumentError(
            f"cannot compile the program {os.fspath(source)!r}: it is {what}, and programs are built from C source. "
            "Next step: give the source (.c) that it was made of."
        )
    # Comments may be in any encoding: bytes that are not UTF-8 reach clang unchanged.
    text = raw.decode("utf-8", "surrogateescape")
    return SourceText(str(path), text, (str(path.resolve().parent), str(directory())))


def defined(defines: Mapping[str, str | int]) -> str:
    """Return macros as text for the beginning of a program: unlike compiler flags they need no quoting."""
    for name in defines:
        if not _IDENTIFIER.match(name):
            raise cannot_be("the name of a macro", name, "letters, digits and _, and no digit first")
    return "".join(f"#define {name} {value}\n" for name, value in sorted(defines.items()))


def assemble(
    source: SourceText, rules: str | Sequence[Rule], defines: Mapping[str, str | int], frags: bool = False
) -> str:
    """Return macros, the filter (a str) or the rules, then the program with its own file name and line numbers.

    frags: the filter reads packets of several buffers, for a program loaded with BPF_F_XDP_HAS_FRAGS.
    """
    rules = (Rule(rules),) if isinstance(rules, str) else rules
    macros = defined({"XSK_FRAGS": 1, **defines} if frags else defines)
    text = _filter(source, rules[0].filter, frags) if plain(rules) else _rules(source, rules, frags)
    name = source.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'{macros}{text}#line 1 "{name}"\n{source.text}'


def _filter(source: SourceText, filter: str, frags: bool) -> str:
    """Return the match() that replaces the one in xsk_filter.h."""
    if filter == "all":
        return ""
    # In a program that does not call match(), a filter would have no effect, without any message.
    if '"xsk_filter.h"' not in source.text and '"xsk_rules.h"' not in source.text:
        raise ArgumentError(
            f'{source.name} does not include "xsk_filter.h", so the filter {filter!r} would have no effect. '
            'Next step: include it and call match(ctx), or pass `filter="all"`.'
        )
    return "#define XSK_FILTER_H\n" + translate(filter, frags=frags)


def _rules(source: SourceText, rules: Sequence[Rule], frags: bool) -> str:
    """Return the decide() that replaces the one in xsk_rules.h."""
    if '"xsk_rules.h"' not in source.text:
        raise ArgumentError(
            f'{source.name} does not include "xsk_rules.h", so the rules {as_line(rules)!r} would have no effect. '
            "Next step: include it and do what decide(ctx) says, or pass a filter alone."
        )
    return generate(rules, frags=frags)


def source_text(
    source: str | os.PathLike[str] = "xsk_redirect.c",
    *,
    filter: str | None = None,
    rules: Iterable[Rule] | None = None,
    on_match: Action = "redirect",
    sample: float = 1,
    snaplen: int | None = None,
    defines: Mapping[str, str | int] | None = None,
) -> str:
    """Return the C text of a program with its filter or rules, for `bcc.BPF(text=...)` in your own process.

    The other arguments are those of Program.build(). Pass `cflags=["-I" + str(toolkit.program.directory())]` to BPF as
    well, and the same `rules` to Program.from_bcc(), for their names.
    """
    return assemble(read(source), Filtering.of(filter, rules, on_match, sample, snaplen).rules, defines or {})
