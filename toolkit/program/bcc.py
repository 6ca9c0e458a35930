# SPDX-License-Identifier: Apache-2.0
"""BCC in the user's own process: import the real BCC, and take a program over from a BPF object (Program.from_bcc)."""

from __future__ import annotations

import fcntl
import glob
import importlib
import importlib.util
import os
import platform
import sys
import types
from typing import Any

from toolkit.errors import ArgumentError, LibraryError
from toolkit.program import bcc_process, query, sources
from toolkit.program.image import Image, map_specs
from toolkit.program.load import load_program
from toolkit.program.maps import Map

__all__ = ["PLACES", "adopt", "have_kernel_headers", "import_bcc"]

PLACES = (
    "/usr/lib/python3/dist-packages/bcc",
    "/usr/lib/python3.*/site-packages/bcc",
    "/usr/local/lib/python3*/dist-packages/bcc",
)
"""Where distributions put BCC's Python (glob patterns)."""


def have_kernel_headers() -> bool:
    """Return whether BCC would find the running kernel's own headers."""
    return os.path.isdir(f"/lib/modules/{platform.release()}/build") or os.path.exists("/sys/kernel/kheaders.tar.xz")


def import_bcc() -> types.ModuleType:
    """Import the real BCC into this process, also in a venv or with a newer Python that does not find it.

    If the machine has no kernel headers, the environment variable BCC_KERNEL_SOURCE is set to the toolkit's own small
    ones, which are enough for XDP programs. LibraryError without BCC.
    """
    if "BCC_KERNEL_SOURCE" not in os.environ and not have_kernel_headers():
        os.environ["BCC_KERNEL_SOURCE"] = str(sources.headers())
    tried = []
    try:
        found = importlib.import_module("bcc")
        if hasattr(found, "BPF"):
            return found
        tried.append(f"{getattr(found, '__file__', None) or 'bcc'} is another package of the name bcc, from PyPI")
    except Exception as absent:  # a BCC of another version than its libbcc can raise any exception
        tried.append(f"this interpreter: {absent}")
    for place in sorted({found for pattern in PLACES for found in glob.glob(pattern)}):
        try:
            return _import_from(place)
        except Exception as broken:
            tried.append(f"{place}: {type(broken).__name__}: {broken}")
    raise LibraryError(
        f"cannot import BCC ({'; '.join(tried)}). Likely cause: the package python3-bpfcc is not installed (the bcc on "
        "PyPI is something else). Next step: `apt-get install python3-bpfcc` (or run scripts/setup)."
    )


def _import_from(place: str) -> types.ModuleType:
    """Import the package `bcc` from its directory; if that fails, restore the module that had the name before."""
    spec = importlib.util.spec_from_file_location(
        "bcc", os.path.join(place, "__init__.py"), submodule_search_locations=[place]
    )
    if spec is None or spec.loader is None:
        raise ImportError("no package there")
    module = importlib.util.module_from_spec(spec)
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "bcc"}
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "BPF"):
            raise ImportError("it has no BPF")
    except BaseException:
        for name in [name for name in sys.modules if name.split(".")[0] == "bcc"]:
            del sys.modules[name]
        sys.modules.update(before)
        raise
    return module


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _function_name(bpf: Any, function: Any) -> str:
    """Return the name of a function that is given as str, bytes, BPF.Function, or None (the only one)."""
    if function is None:
        lib = sys.modules[type(bpf).__module__].libbcc.lib
        names = [lib.bpf_function_name(bpf.module, i).decode() for i in range(lib.bpf_num_functions(bpf.module))]
        if len(names) != 1:
            raise ArgumentError(
                f"the BPF object has the functions {', '.join(names) or '(none)'}. Next step: say which one, with "
                "function=..."
            )
        return str(names[0])
    name = getattr(function, "name", function)
    return name.decode() if isinstance(name, bytes) else str(name)


def _program_fd(bpf: Any, function: Any, name: str) -> int:
    """Return our own descriptor of the program: loaded by load_func already, or else loaded here."""
    loaded = function if hasattr(function, "fd") else getattr(bpf, "funcs", {}).get(name.encode())
    if loaded is not None:
        return _duplicate(loaded.fd)
    try:
        code = bpf.dump_func(name.encode())
    except Exception as unknown:
        raise ArgumentError(
            f"the BPF object has no function {name!r}: {unknown}. Next step: name one that its text defines."
        ) from unknown
    # BCC has already inserted the maps' descriptors: there is nothing to relocate.
    return load_program(Image(name, "GPL", code, (), ()), {}, frags=False, source="a bcc.BPF object")


def adopt(bpf: Any, function: Any) -> tuple[int, str, dict[str, Map]]:
    """Return (program fd, name, maps) with file descriptors of our own; see Program.from_bcc."""
    if not getattr(bpf, "module", None) or not hasattr(bpf, "dump_func"):
        raise ArgumentError(f"{bpf!r} is not an open bcc.BPF object. Next step: `bpf = bcc.BPF(text=...)`.")
    lib = sys.modules[type(bpf).__module__].libbcc.lib
    bcc_process.declare(lib)
    name = _function_name(bpf, function)
    fd = _program_fd(bpf, function, name)
    maps: dict[str, Map] = {}
    try:
        query.program_info(fd)  # raises for anything but a program, before it is attached
        described, indices = bcc_process.tables(lib, bpf.module)
        fds = {index: number for number, index in indices.items()}
        for index, spec in enumerate(map_specs(described)):
            maps[spec.name] = Map(spec, _duplicate(fds[index]))
    except BaseException:
        os.close(fd)
        for one in maps.values():
            one.close()
        raise
    return fd, name, maps
