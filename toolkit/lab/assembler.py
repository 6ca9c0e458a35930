# SPDX-License-Identifier: Apache-2.0
"""Assembler: assemble a few eBPF instructions, for programs too small for a compiler. Encoding as in linux/bpf.h."""

from __future__ import annotations

import struct

from toolkit.abi.libbpf import BPF_PSEUDO_MAP_FD

__all__ = ["Assembler", "R"]

# Operand sizes of loads and stores: bits 3 and 4 of the opcode.
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
# BPF_ALU64 operations: the high nibble of the opcode.
_OPERATIONS = {"add": 0x00, "sub": 0x10, "or": 0x40, "and": 0x50, "mod": 0x90, "xor": 0xA0, "mov": 0xB0}
_ALU64, _JMP, _LDX_MEM, _STX_MEM, _IMM64, _TO_BE = 0x07, 0x05, 0x61, 0x63, 0x18, 0xDC
_REGISTER = 0x08  # the operand is a register, not a number
_JGT, _CALL, _EXIT = 0x20, 0x80, 0x90
BPF_PSEUDO_MAP_VALUE = 2


class R(int):
    """A register, r0 to r10; a plain int operand is a number."""


class Assembler:
    """Instructions in the order of the calls. Each method adds one (or one of two slots) and returns nothing."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int]] = []  # opcode, destination, source, offset, immediate
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._code)

    def _add(self, opcode: int, destination: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> None:
        self._code.append((opcode, destination, source, offset, number))

    def alu(self, operation: str, destination: R, operand: R | int) -> None:
        """64-bit `destination operation= operand`."""
        opcode = _ALU64 | _OPERATIONS[operation]
        if isinstance(operand, R):
            self._add(opcode | _REGISTER, destination, operand)
        else:
            self._add(opcode, destination, 0, 0, operand)

    def load(self, size: int, destination: R, base: R, offset: int) -> None:
        """`destination = *(size bytes at base + offset)`, zero-extended."""
        self._add(_LDX_MEM | _SIZES[size], destination, base, offset)

    def store(self, size: int, base: R, offset: int, source: R) -> None:
        """`*(size bytes at base + offset) = source`."""
        self._add(_STX_MEM | _SIZES[size], base, source, offset)

    def network_order(self, bits: int, destination: R) -> None:
        """Convert the low 16, 32 or 64 bits of a register to network byte order; the other bits become zero."""
        self._add(_TO_BE, destination, 0, 0, bits)

    def map_pointer(self, destination: R, map_fd: int, *, value_offset: int | None = None) -> None:
        """The address of a map, or of the first value of an array map plus `value_offset`. Takes two slots."""
        kind = BPF_PSEUDO_MAP_FD if value_offset is None else BPF_PSEUDO_MAP_VALUE
        self._add(_IMM64, destination, kind, 0, map_fd)
        self._add(0, 0, 0, 0, value_offset or 0)

    def jump_if_greater(self, left: R, right: R, label: str) -> None:
        """Go on at `label` when left > right, unsigned."""
        self._jumps.append((len(self._code), label))
        self._add(_JMP | _JGT | _REGISTER, left, right)

    def label(self, name: str) -> None:
        """The next instruction is where jumps to `name` land."""
        self._labels[name] = len(self._code)

    def call(self, helper: int) -> None:
        """Call a helper by its number in enum bpf_func_id."""
        self._add(_JMP | _CALL, number=helper)

    def exit(self) -> None:
        """Return r0."""
        self._add(_JMP | _EXIT)

    def assemble(self) -> bytes:
        """The program as `struct bpf_insn`s of 8 bytes, with jumps resolved."""
        code = list(self._code)
        for at, name in self._jumps:
            opcode, destination, source, _, number = code[at]
            code[at] = (opcode, destination, source, self._labels[name] - at - 1, number)
        return b"".join(
            struct.pack("=BBhi", opcode, source << 4 | destination, offset, number)
            for opcode, destination, source, offset, number in code
        )
