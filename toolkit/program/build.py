# SPDX-License-Identifier: Apache-2.0
"""Build an Image from C text: from the cache, or with BCC in a process of its own (bcc_process.py)."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from toolkit._base.cache import Cache, sha256
from toolkit._base.cache import CacheWarning as CacheWarning  # toolkit.program.CacheWarning
from toolkit._base.capabilities import CAP_BPF, CAP_NET_ADMIN
from toolkit._base.children import run_helper
from toolkit.abi.shared_library import refused_by
from toolkit.errors import ArgumentError, CompileError, LibraryError, ToolkitError, kernel_error
from toolkit.program import compiler_error, dependencies, sources
from toolkit.program.bcc import PLACES, have_kernel_headers
from toolkit.program.image import Image, images
from toolkit.program.verifier_error import LESS

__all__ = ["build_images", "choose"]

FORMAT = 3  # of the cached report; a change of bcc_process.py's output needs a new number
TIME_LIMIT = 120.0  # s; a compilation takes a quarter of a second, on an emulated machine some fifty
SYSTEM_PYTHON = "/usr/bin/python3"

# Errors, because otherwise the verifier refuses an undeclared function with a message about jumps, and a program that
# ends without a verdict is loaded, and gives any. From clang 16 on the first is an error anyway.
_ERRORS = ("-Werror=implicit-function-declaration", "-Werror=return-type")
_NO_PRIVILEGE = re.compile(r"could not open bpf map.*Operation not permitted|bpf.*Operation not permitted")
_NO_MAP = re.compile(r"could not open bpf map: (\w+), error: (.*)")
_TOO_FAR = "Branch target out of insn range"  # of newer LLVMs; older ones truncate the jump
_LIBRARIES = ("/usr/lib*/libbcc.so.0", "/usr/lib/*-linux-gnu/libbcc.so.0", "/usr/local/lib*/libbcc.so.0")


def interpreters() -> list[str]:
    """Return the interpreters that may have BCC: this one first, if it finds any `bcc`, then the system's."""
    own = sys.executable or ""
    # By the module path only: if import_bcc() has imported it from elsewhere, a child does not find it.
    known = bool(own) and PathFinder.find_spec("bcc") is not None
    return list(dict.fromkeys(([own] if known else []) + [SYSTEM_PYTHON]))


def _stamp(path: str) -> str:
    status = os.stat(path)
    return f"{path} {status.st_mtime_ns} {status.st_size}"


@functools.cache
def _machine() -> list[str]:
    """What a result depends on besides its text, whichever BCC made it."""
    return [str(FORMAT), platform.release(), platform.machine(), str(os.sysconf("SC_PAGE_SIZE"))]


@functools.cache
def _toolchain() -> str:
    """The same, and the state of BCC's files, of our headers and of bcc_process.py."""
    files = [path for pattern in PLACES for path in glob.glob(os.path.join(pattern, "version.py"))]
    files += [path for pattern in _LIBRARIES for path in glob.glob(pattern)]
    files += [str(Path(__file__).with_name("bcc_process.py"))]
    files += sorted(str(path) for path in sources.headers().rglob("*.h"))
    stamps = sorted({_stamp(path) for path in files if os.path.exists(path)})
    return "\n".join([*_machine(), *stamps])


@functools.cache
def _without_bcc() -> str:
    """The same without BCC, and by what our headers say: for a machine that has none, and may have copied the cache."""
    files = [Path(__file__).with_name("bcc_process.py"), *sorted(sources.headers().rglob("*.h"))]
    return "\n".join([*_machine(), *(sha256(path.read_bytes()).hexdigest() for path in files)])


def _key(parts: Sequence[str]) -> str:
    digest = sha256()
    for part in parts:
        encoded = part.encode(errors="surrogateescape")
        digest.update(b"%d:" % len(encoded) + encoded)
    name: str = digest.hexdigest()[:40]
    return name


def _kernel_version() -> int:
    """Return LINUX_VERSION_CODE of the running kernel."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", platform.release())
    major, minor, patch = (int(n or 0) for n in found.groups()) if found else (5, 15, 0)
    return (major << 16) + (minor << 8) + min(patch, 255)


def _flags(source: sources.SourceText, own_headers: bool) -> list[str]:
    flags = [*_ERRORS, *(f"-I{place}" for place in source.include)]
    if own_headers:
        flags += [f"-DXSK_LINUX_VERSION_CODE={_kernel_version()}", f"-DXSK_PAGE_SIZE={os.sysconf('SC_PAGE_SIZE')}"]
    return flags


def _run(interpreter: str, request: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Run one compiling process; return its report and its stderr. It never outlives this call, or this process."""
    import subprocess

    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    worker = str(Path(__file__).with_name("bcc_process.py"))
    text = json.dumps({**request, "parent": os.getpid()})
    try:
        done = run_helper([interpreter, "-I", worker], text.encode(), TIME_LIMIT, environment, (CAP_BPF, CAP_NET_ADMIN))
    except FileNotFoundError:
        return {"status": "absent", "detail": "there is no such interpreter"}, ""
    except OSError as refused:
        number = refused.errno or errno.EIO
        raise kernel_error("", number, f"cannot start {interpreter}, which compiles the program") from refused
    except subprocess.TimeoutExpired as late:
        raise ToolkitError(
            f"compiling the program with {interpreter} took longer than {TIME_LIMIT:.0f} s and was stopped. "
            "Likely cause: a machine under heavy load, or a very long filter. Next step: try "
            "again; `net` and `portrange` instead of lists of hosts and ports."
        ) from late
    chatter = done.stderr.decode(errors="replace")
    try:
        return json.loads(done.stdout), chatter
    except ValueError:
        detail = f"it ended with status {done.returncode} and no report"
        return {"status": "error", "detail": detail}, chatter


def _compile(request: dict[str, Any], candidates: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the first report that comes from a real BCC."""
    tried = []
    for interpreter in candidates:
        report, chatter = _run(interpreter, request)
        if report["status"] == "absent":
            number = refused_by(report["detail"])
            if number:
                call = "memory" if number == errno.ENOMEM else ""
                raise kernel_error(call, number, f"cannot load BCC into {interpreter}")
            tried.append(f"{interpreter} ({report['detail']})")
        elif report["status"] == "wrong":
            tried.append(f"{interpreter} ({report['detail']} is another package of the name bcc, from PyPI)")
        else:
            return report, chatter
    raise LibraryError(
        f"no interpreter has BCC, which compiles XDP programs: tried {', '.join(tried)}. Likely cause: the package "
        "python3-bpfcc is not installed (the bcc on PyPI is something else). "
        "Next step: `apt-get install python3-bpfcc` (or run scripts/setup)."
    )


def _refusal(source: sources.SourceText, report: dict[str, Any], chatter: str) -> Exception:
    """Return the exception for a report that is not ok."""
    if _NO_PRIVILEGE.search(chatter):
        return kernel_error("map_create", 1, f"cannot create the maps of {source.name}")
    refused = _NO_MAP.search(chatter)
    if refused:
        return CompileError(
            f"{source.name} does not compile: the kernel refuses its map {refused[1]}: {refused[2]}. Likely cause: it "
            "takes no map of this type with these sizes; or, of a map of maps, the source does not declare the map "
            f"that this one names. Next step: correct the declaration of {refused[1]}."
        )
    if report["status"] == "compile" and "error" in chatter:
        text = f"{source.name} does not compile:\n{chatter.strip()}"
        if hint := compiler_error.next_step(chatter):
            text += f"\n{hint}"
        return CompileError(text)
    if _TOO_FAR in chatter:
        return CompileError(
            f"{source.name} does not compile: LLVM says {_TOO_FAR!r}. Likely cause: the program, most often its filter "
            f"or the number of its rules, is longer than a jump reaches (32,767 instructions). {LESS}"
        )
    says = report.get("detail", report["status"])
    return CompileError(
        f"{source.name} does not compile: BCC says {says!r}.\n{chatter.strip()}\nNext step: `xsk doctor` tries BCC "
        "with the smallest program."
    )


def _attempts(source: sources.SourceText) -> Iterator[tuple[str | None, list[str]]]:
    """Yield the headers to try: our own first, which are ten times faster, then the machine's, if there are any."""
    yield str(sources.headers()), _flags(source, True)
    if have_kernel_headers():
        yield None, _flags(source, False)


def _fresh(source: sources.SourceText, text: str, candidates: Sequence[str]) -> dict[str, Any]:
    """Compile.

    Return the report, with its dependencies (see dependencies.noted) instead of the files that clang read.
    """
    report: dict[str, Any] = {}
    headers: str | None = None
    chatter = ""
    for headers, flags in _attempts(source):
        request = {"text": text, "cflags": flags, "headers": headers}
        report, chatter = _compile(request, candidates)
        if report["status"] == "ok" or not compiler_error.MISSING_HEADER.search(chatter):
            break
    if report["status"] != "ok":
        raise _refusal(source, report, chatter)
    read, began = report.pop("read"), report.pop("began")
    report["depends"] = dependencies.noted(text, read, began, include=source.include, kernel_headers=headers)
    return report


def build_images(
    source: sources.SourceText, text: str, *, cache: bool = True, candidates: Sequence[str] | None = None
) -> dict[str, Image]:
    """Compile `text`, or take it from the cache; return the Images of its functions, by name.

    `candidates` overrides the interpreters that are tried. Raises CompileError with clang's text, LibraryError where
    there is no BCC and the cache has nothing that the last one made of this, PrivilegeError where maps cannot be
    created.
    """
    if not cache:
        return images(_fresh(source, text, candidates or interpreters()))
    depends = (text, *_flags(source, True))
    key, last = _key([_toolchain(), *depends]), f"last-{_key([_without_bcc(), *depends])}"
    with Cache() as kept:
        if found := _from(kept, key):
            return found
        try:
            report = _fresh(source, text, candidates or interpreters())
        except LibraryError:  # no BCC: nothing can be newer than what the last one made
            if found := _from(kept, last):
                return found
            raise
        if report["depends"] is not None:
            kept.store(key, report)
            kept.store(last, report)
    return images(report)


def _from(kept: Cache, key: str) -> dict[str, Image]:
    """What the cache has under `key`, if all that it was made of is as it was; else nothing."""
    entry = kept.load(key)
    if entry is not None and dependencies.hold(entry.get("depends")):
        with contextlib.suppress(Exception):  # damaged on disk in any way: compiled again and overwritten
            return images(entry)
    return {}


def choose(built: dict[str, Image], function: str | None, source: str) -> Image:
    """Return the named function, or the only one. ArgumentError if there is none, or several."""
    if function is None and len(built) == 1:
        return next(iter(built.values()))
    if function in built:
        return built[function]
    if not built:
        raise ArgumentError(
            f"{source} has no function that could be an XDP program. Next step: give it one that is not static, such "
            "as `int pass(struct xdp_md *ctx) { return XDP_PASS; }`."
        )
    has = f"has the functions {', '.join(built)}"
    raise ArgumentError(f"{source} {has}. Next step: say which one to load with function=...")
