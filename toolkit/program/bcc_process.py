# SPDX-License-Identifier: Apache-2.0
"""The BCC worker: compiles one XDP program in a process of its own and reports what came out.

A script, not a module: `build` runs it isolated (`-I`, scrubbed environment) by whichever interpreter has the real BCC.
It uses the standard library only. LLVM, its memory, its change of the working
directory and its chatter all stay in here.

A JSON request comes in on stdin: `text`, `cflags`, `headers` (a directory for BCC_KERNEL_SOURCE, or null for the
machine's own kernel headers) and `parent` (a pid). A JSON report goes out on stdout; clang writes to stderr as it
likes. `status` is "ok", or the reason why not: "absent", "wrong", "compile", "error". With "ok" come `license`, `maps`
(in a map of maps, `inner` says which of them it holds the likes of) and `functions`: name -> instructions (base64) and
relocations; `read`, what clang says that it read, as a makefile has
it, and `began`, when it began to, in ns of the clock.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import struct
import sys
import time
from typing import Any

__all__ = ["declare", "main", "tables"]  # `bcc` uses the first and the last for a BPF object of the user's

PR_SET_PDEATHSIG = 1
BPF_LD_IMM64 = 0x18
BPF_PSEUDO_MAP_FD = 1
INSTRUCTION = 8  # bytes
MAPS_OF_MAPS = (12, 13)  # BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that asked for it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def take_stdout() -> int:
    """Keep stdout for the report, as the file descriptor returned; what BCC prints there goes to stderr."""
    report = os.dup(1)
    os.dup2(2, 1)
    return report


def import_bcc() -> tuple[Any, dict[str, Any]]:
    """The real BCC, or None and a report that says why there is none."""
    try:
        import bcc
    except ImportError as missing:
        return None, {"status": "absent", "detail": str(missing)}
    except Exception as broken:  # OSError from a libbcc of another version, AttributeError from a half-installed one
        return None, {"status": "absent", "detail": f"{type(broken).__name__}: {broken}"}
    if not hasattr(bcc, "BPF"):
        return None, {"status": "wrong", "detail": getattr(bcc, "__file__", "?")}
    return bcc, {}


def declare(lib: Any) -> None:
    """C types of the calls that bcc's own Python declares in some versions only."""
    for name, restype in (
        ("bpf_num_tables", ctypes.c_size_t),
        ("bpf_table_name", ctypes.c_char_p),
        ("bpf_table_fd_id", ctypes.c_int),
        ("bpf_table_type_id", ctypes.c_int),
        ("bpf_table_max_entries_id", ctypes.c_size_t),
        ("bpf_table_key_size_id", ctypes.c_size_t),
        ("bpf_table_leaf_size_id", ctypes.c_size_t),
        ("bpf_table_flags_id", ctypes.c_int),
        ("bpf_table_leaf_desc_id", ctypes.c_char_p),
    ):
        function = getattr(lib, name)
        function.restype = restype
        function.argtypes = [ctypes.c_void_p] if name == "bpf_num_tables" else [ctypes.c_void_p, ctypes.c_size_t]


def tables(lib: Any, module: int) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The maps that BCC made, and where each one's file descriptor stands in that list."""
    maps, indices = [], {}
    for i in range(lib.bpf_num_tables(module)):
        indices[lib.bpf_table_fd_id(module, i)] = i
        maps.append(
            {
                "name": lib.bpf_table_name(module, i).decode(),
                "type": lib.bpf_table_type_id(module, i),
                "key_size": lib.bpf_table_key_size_id(module, i),
                "value_size": lib.bpf_table_leaf_size_id(module, i),
                "max_entries": lib.bpf_table_max_entries_id(module, i),
                "flags": lib.bpf_table_flags_id(module, i),
                "value_layout": (lib.bpf_table_leaf_desc_id(module, i) or b"").decode(),
            }
        )
    return maps, indices


def add_inner(lib: Any, maps: list[dict[str, Any]], indices: dict[int, int]) -> None:
    """Note in each map of maps which map its entries must be like. BCC keeps that to itself, so the kernel is asked.

    It takes those as an entry that are as the declared one in all that matters to it. The entries are gone afterwards.
    """
    fds = {index: fd for fd, index in indices.items()}
    for outer, described in enumerate(maps):
        if described["type"] not in MAPS_OF_MAPS:
            continue
        key = ctypes.create_string_buffer(described["key_size"])
        for inner in range(len(maps)):
            if lib.bpf_update_elem(fds[outer], key, ctypes.byref(ctypes.c_int(fds[inner])), 0) == 0:
                lib.bpf_delete_elem(fds[outer], key)
                described["inner"] = inner
                break


def relocations(code: bytes, indices: dict[int, int]) -> list[tuple[int, int]]:
    """Pairs (instruction, map): which instructions load a map's file descriptor."""
    found = []
    for i in range(0, len(code), INSTRUCTION):
        opcode, registers, _offset, fd = struct.unpack_from("=BBhi", code, i)
        if opcode == BPF_LD_IMM64 and registers >> 4 == BPF_PSEUDO_MAP_FD:
            found.append((i // INSTRUCTION, indices[fd]))
    return found


def build(bcc: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Compile, and describe the result."""
    if request["headers"]:
        os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
    lib = bcc.libbcc.lib
    declare(lib)
    read = os.memfd_create("read")
    path = f"/proc/self/fd/{read}"  # clang opens it by a name
    says = ["-MD", "-MF", path] if os.path.exists(path) else []  # a chroot may have no /proc
    began = time.time_ns()
    try:
        bpf = bcc.BPF(text=request["text"].encode(errors="surrogateescape"), cflags=[*request["cflags"], *says])
    except Exception as refused:
        return {"status": "compile", "detail": str(refused)}
    maps, indices = tables(lib, bpf.module)
    add_inner(lib, maps, indices)
    functions = {}
    for i in range(lib.bpf_num_functions(bpf.module)):
        name = lib.bpf_function_name(bpf.module, i)
        code = bpf.dump_func(name)
        functions[name.decode()] = {
            "instructions": base64.b64encode(code).decode(),
            "relocations": relocations(code, indices),
        }
    return {
        "status": "ok",
        "license": (lib.bpf_module_license(bpf.module) or b"GPL").decode(),
        "maps": maps,
        "functions": functions,
        "read": os.pread(read, os.fstat(read).st_size, 0).decode(errors="surrogateescape"),
        "began": began,
    }


def main() -> None:
    """Read the request, do the work, report, and leave without tearing LLVM down."""
    request = json.load(sys.stdin)
    die_with(request["parent"])
    report_fd = take_stdout()
    try:
        bcc, report = import_bcc()
        if bcc is not None:
            report = build(bcc, request)
    except Exception as unexpected:
        report = {"status": "error", "detail": f"{type(unexpected).__name__}: {unexpected}"}
    with os.fdopen(report_fd, "w") as out:
        json.dump(report, out)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
