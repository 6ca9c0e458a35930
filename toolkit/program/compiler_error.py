# SPDX-License-Identifier: Apache-2.0
"""next_step(): the likely cause of a compile error and the next step, added to clang's own text."""

from __future__ import annotations

import platform
import re

__all__ = ["MISSING_HEADER", "next_step"]

MISSING_HEADER = re.compile(r"fatal error: '([^']+)' file not found")
_UNDECLARED = re.compile(  # as clang said it up to version 15, and says it since
    r"(?:implicit declaration of|call to undeclared|implicitly declaring|call to undeclared library) "
    r"(?:library )?function '(\w+)'"
)
_LIBBPF = re.compile(r"\bSEC\s*\(|\b__uint\s*\(|\b__type\s*\(")


def next_step(chatter: str) -> str:
    """Return the likely cause and the next step for clang's output; of what is not known here, the next step alone."""
    missing = MISSING_HEADER.search(chatter)
    if missing and missing[1] != "xsk_filter.h":
        return (
            f"Likely cause: the toolkit carries only the few kernel headers that XDP programs need, and {missing[1]} "
            f"is not one of them. Next step: `apt-get install linux-headers-{platform.release()}`, or do without it."
        )
    if _LIBBPF.search(chatter):
        return (
            "Likely cause: it is written for libbpf (SEC, __uint, __type), and here BCC compiles. Next step: leave out "
            "SEC(...) and the license, because every function that is not static is a program already, and declare "
            "maps as BPF_ARRAY(name, type, size), BPF_HASH(name, key, type) or BPF_XSKMAP(name, size)."
        )
    undeclared = sorted(set(_UNDECLARED.findall(chatter)))
    if undeclared:
        return (
            f"Likely cause: no function {' or '.join(undeclared)} is known here: a misspelt name, a header that is not "
            "included, or a function of the C library, of which XDP programs have none. Next step: define it in the "
            "program (`static __always_inline`), or call a helper of the kernel (`man bpf-helpers`)."
        )
    return "Next step: correct the first of these errors; the others may come from it."
