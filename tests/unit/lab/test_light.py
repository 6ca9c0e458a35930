# SPDX-License-Identifier: Apache-2.0
"""What the lab costs before it is used, and its instructions against the encodings of the kernel's documentation."""

from __future__ import annotations

import subprocess
import sys

from toolkit.lab.assembler import Assembler, R


def test_import_is_light() -> None:
    code = "import sys; import toolkit.lab; print(*({'pyroute2', 'scapy', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_generate_needs_the_standard_library_only() -> None:
    from toolkit.lab import generator_process

    assert generator_process.__file__ is not None
    code = f"import runpy; runpy.run_path({generator_process.__file__!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_instructions() -> None:
    program = Assembler()
    program.alu("mov", R(0), 2)  # BPF_MOV64_IMM
    program.alu("add", R(2), R(3))  # BPF_ALU64_REG
    program.load(4, R(6), R(1), 4)  # BPF_LDX_MEM(BPF_W)
    program.store(8, R(10), -8, R(7))  # BPF_STX_MEM(BPF_DW)
    program.network_order(16, R(4))  # BPF_ENDIAN(BPF_TO_BE)
    program.call(23)
    program.exit()
    assert program.assemble().hex(" ", 8) == (
        "b700000002000000 0f32000000000000 6116040000000000 7b7af8ff00000000 "
        "dc04000010000000 8500000017000000 9500000000000000"
    )


def test_jump_counts_from_the_next_instruction() -> None:
    program = Assembler()
    program.jump_if_greater(R(2), R(7), "end")
    program.map_pointer(R(1), 5, value_offset=8)
    program.label("end")
    program.exit()
    assert program.assemble().hex(" ", 8) == "2d72020000000000 1821000005000000 0000000008000000 9500000000000000"
