# SPDX-License-Identifier: Apache-2.0
"""Check the libraries of the system, and report their versions."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterator

from toolkit.abi.shared_library import not_loaded
from toolkit.doctor.finding import Finding, note, ok, problem
from toolkit.errors import LibraryError, SystemCallError, ToolkitError

__all__ = ["examine_libraries"]

_SYSTEM = "system"


def examine_libraries() -> Iterator[Finding]:
    """libxdp, libbpf, libpcap and libatomic: loaded as the toolkit does it, which checks that they are new enough."""
    from toolkit.abi.libbpf import libbpf
    from toolkit.abi.libpcap import libpcap
    from toolkit.abi.libxdp import has_opts, libxdp

    try:
        extras = "" if has_opts(libxdp()) else "; TX metadata needs 1.5.0"
        file = _file_name("libxdp.so")
        yield _version("libxdp", f"libxdp ({file}){extras}", file.partition(".so.")[2], (1, 3))
    except (LibraryError, SystemCallError) as refused:
        yield _not_loaded("libxdp", refused, "apt-get install libxdp1")
    try:
        version = libbpf().libbpf_version_string().decode().removeprefix("v")
        yield _version("libbpf", f"libbpf {version}", version, (1, 1))
    except (LibraryError, SystemCallError) as refused:
        yield _not_loaded("libbpf", refused, "apt-get install libbpf1")
    try:
        yield ok(_SYSTEM, "libpcap", libpcap().pcap_lib_version().decode().split(" (")[0])
    except OSError as refused:
        remedy = "apt-get install libpcap0.8 (libpcap0.8t64 from Debian 13 on)"
        yield _not_loaded("libpcap", not_loaded("libpcap", "libpcap0.8", refused), remedy, "no filters but 'all': ")
    try:
        ctypes.CDLL("libatomic.so.1")
        yield ok(_SYSTEM, "libatomic", f"libatomic ({_file_name('libatomic.so')})")
    except OSError as refused:
        error = not_loaded("libatomic.so.1", "libatomic1", refused)
        text = f"the rings' memory barriers on {platform.machine()} need libatomic: "
        yield _not_loaded("libatomic", error, "apt-get install libatomic1", text)


def _version(name: str, text: str, version: str, tested: tuple[int, int]) -> Finding:
    """Return the finding for a library that can be used; `tested` is the oldest version that the tests run with."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) >= tested:
        return ok(_SYSTEM, name, text)
    oldest = ".".join(map(str, tested))
    text = f"{text} is older than {oldest}: it may work, but the toolkit is not tested with it"
    return note(_SYSTEM, name, text, f"install {name} {oldest} or later")


def _not_loaded(name: str, error: ToolkitError, remedy: str, before: str = "") -> Finding:
    """Return the problem of a library that is missing, or cannot be loaded because of a limit."""
    said, _, step = str(error).partition(". Likely cause: ")
    if isinstance(error, SystemCallError):
        remedy = step.partition("Next step: ")[2].rstrip(".")
    return problem(_SYSTEM, name, before + said, remedy)


def _file_name(name: str) -> str:
    """The file of a library that this process has loaded: its name ends in a version, and most tell it nowhere else."""
    try:
        with open("/proc/self/maps") as maps:
            lines = maps.readlines()
    except OSError:
        return "loaded, from where cannot be seen without /proc"
    paths = {line.split(maxsplit=5)[5].strip() for line in lines if f"/{name}" in line}
    return ", ".join(sorted(os.path.basename(os.path.realpath(path)) for path in paths)) or "statically linked"
