# SPDX-License-Identifier: Apache-2.0
"""Programs through both doors, and a frame to run them on."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.program import Program, import_bcc, source_text

__all__ = ["DOORS", "FRAME", "XDP_DROP", "XDP_PASS", "XDP_REDIRECT", "XDP_TX", "by_bcc", "by_build"]

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4


FRAME = bytes(range(14)) + bytes(50)


def by_build(source: str, **options: Any) -> Program:
    """The first door: BCC compiles in a process of its own."""
    return Program.build(source, **options)


def by_bcc(source: str, **options: Any) -> Program:
    """The other door: BCC compiles and loads in this process."""
    from toolkit.program import directory

    bcc = import_bcc()
    bpf = bcc.BPF(text=source_text(source, **options).encode(), cflags=[f"-I{directory()}"])
    name = source.removesuffix(".c")
    bpf.load_func(name.encode(), bcc.BPF.XDP)
    program = Program.from_bcc(bpf, name)
    bpf.cleanup()
    return program


DOORS = pytest.mark.parametrize("door", [by_build, by_bcc])
