# SPDX-License-Identifier: Apache-2.0
"""The libraries of the system, with their versions as far as they tell them."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator

from toolkit.doctor.finding import Finding, ok, problem
from toolkit.errors import LibraryError

__all__ = ["examine_libraries"]

_SYSTEM = "system"


def examine_libraries() -> Iterator[Finding]:
    """libxdp, libbpf, libpcap and libatomic: loaded as the toolkit does it, which checks that they are new enough."""
    from toolkit.abi.libbpf import libbpf
    from toolkit.abi.libpcap import libpcap
    from toolkit.abi.libxdp import has_opts, libxdp

    try:
        extras = "" if has_opts(libxdp()) else "; TX metadata needs 1.5.0"
        yield ok(_SYSTEM, "libxdp", f"libxdp ({_file_name('libxdp.so')}){extras}")
    except LibraryError as refused:
        yield problem(_SYSTEM, "libxdp", str(refused).split(". ")[0], "apt-get install libxdp1")
    try:
        version = libbpf().libbpf_version_string().decode().removeprefix("v")
        yield ok(_SYSTEM, "libbpf", f"libbpf {version}")
    except LibraryError as refused:
        yield problem(_SYSTEM, "libbpf", str(refused).split(". ")[0], "apt-get install libbpf1")
    try:
        yield ok(_SYSTEM, "libpcap", libpcap().pcap_lib_version().decode().split(" (")[0])
    except OSError as refused:
        text = f"no filters but 'all': {refused}"
        yield problem(_SYSTEM, "libpcap", text, "apt-get install libpcap0.8 (libpcap0.8t64 from Debian 13 on)")
    try:
        ctypes.CDLL("libatomic.so.1")
        yield ok(_SYSTEM, "libatomic", f"libatomic ({_file_name('libatomic.so')})")
    except OSError as refused:
        text = f"the rings' memory barriers on {platform.machine()} need libatomic: {refused}"
        yield problem(_SYSTEM, "libatomic", text, "apt-get install libatomic1")


def _file_name(name: str) -> str:
    """The file of a library that this process has loaded: its name ends in a version, and most tell it nowhere else."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if f"/{name}" in line}
    return ", ".join(sorted(os.path.basename(os.path.realpath(path)) for path in paths)) or "statically linked"
