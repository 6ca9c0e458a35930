# SPDX-License-Identifier: Apache-2.0
"""Check BCC: where it is, and whether it compiles, with the code that builds programs and without its cache."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator

from toolkit.doctor.finding import Finding, ok, problem
from toolkit.errors import LibraryError, ToolkitError
from toolkit.program import sources
from toolkit.program.bcc import PLACES, have_kernel_headers
from toolkit.program.build import build_images, interpreters

__all__ = ["examine_compiler"]

_SYSTEM = "system"


def examine_compiler() -> Iterator[Finding]:
    """Compile the smallest program with one interpreter that may have BCC after the other, until it works."""
    source = sources.read("xdp_pass.c")
    text = sources.assemble(source, "all", {})
    absent = []
    for interpreter in interpreters():
        try:
            build_images(source, text, cache=False, candidates=[interpreter])
        except LibraryError as missing:
            absent.append(str(missing).partition("tried ")[2].partition(". Likely")[0])
            continue
        except (ToolkitError, OSError) as broken:
            first = str(broken).strip().splitlines()[0]
            text = f"BCC of {interpreter} does not compile: {first}"
            yield problem(_SYSTEM, "bcc", text, "apt-get install --reinstall python3-bpfcc libbpfcc")
            return
        headers = "with" if have_kernel_headers() else "without"
        text = f"BCC {_versions()} of {interpreter} compiles ({headers} kernel headers; they are not needed)"
        yield ok(_SYSTEM, "bcc", text)
        return
    text = f"no BCC: {'; '.join(absent)}"
    yield problem(_SYSTEM, "bcc", text, "apt-get install python3-bpfcc (the bcc on PyPI is something else)")


def _versions() -> str:
    """What the version files of the installed BCCs say."""
    found = []
    for path in sorted({path for pattern in PLACES for path in glob.glob(os.path.join(pattern, "version.py"))}):
        with contextlib.suppress(OSError), open(path) as file:
            found += re.findall(r"__version__\s*=\s*['\"]([^'\"]+)", file.read())
    return " and ".join(found) or "of unknown version"
