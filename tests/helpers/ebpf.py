# SPDX-License-Identifier: Apache-2.0
"""A small evaluator of eBPF, for programs of an XDP filter's kind: no maps, no helpers, loads from packet and stack.

It lets tests run what clang made of a filter without any privilege. It knows nothing of the translation that it checks.
"""

from __future__ import annotations

import struct

PACKET, STACK_TOP, CONTEXT = 0x1000_0000, 0x2000_0000, 0x3000_0000
U64, U32 = (1 << 64) - 1, (1 << 32) - 1
STEPS = 100_000


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _alu(op: int, a: int, b: int, bits: int) -> int:
    mask = (1 << bits) - 1
    a, b = a & mask, b & mask
    shift = b & (bits - 1)
    results = {
        0x0: lambda: a + b,
        0x1: lambda: a - b,
        0x2: lambda: a * b,
        0x3: lambda: a // b if b else 0,
        0x4: lambda: a | b,
        0x5: lambda: a & b,
        0x6: lambda: a << shift,
        0x7: lambda: a >> shift,
        0x8: lambda: -a,
        0x9: lambda: a % b if b else a,
        0xA: lambda: a ^ b,
        0xB: lambda: b,
        0xC: lambda: _signed(a, bits) >> shift,
    }
    return results[op]() & mask


def _jumps(op: int, a: int, b: int, bits: int) -> bool:
    mask = (1 << bits) - 1
    a, b = a & mask, b & mask
    sa, sb = _signed(a, bits), _signed(b, bits)
    results = {
        0x1: a == b,
        0x2: a > b,
        0x3: a >= b,
        0x4: bool(a & b),
        0x5: a != b,
        0x6: sa > sb,
        0x7: sa >= sb,
        0xA: a < b,
        0xB: a <= b,
        0xC: sa < sb,
        0xD: sa <= sb,
    }
    return results[op]


class Machine:
    """One run of a program on one packet. A load outside the packet, the stack or the context is an error."""

    def __init__(self, packet: bytes) -> None:
        """Ten registers, 512 bytes of stack, and struct xdp_md with data and data_end."""
        self.packet = packet
        self.stack = bytearray(512)
        self.context = struct.pack("=IIIII", PACKET, PACKET + len(packet), PACKET, 0, 0)
        self.registers = [0] * 11
        self.registers[1], self.registers[10] = CONTEXT, STACK_TOP

    def _load(self, address: int, size: int) -> int:
        for base, memory in ((PACKET, self.packet), (STACK_TOP - 512, self.stack), (CONTEXT, self.context)):
            if base <= address and address + size <= base + len(memory):
                return int.from_bytes(memory[address - base : address - base + size], "little")
        raise IndexError(f"load of {size} B at {address:#x}")

    def _store(self, address: int, size: int, value: int) -> None:
        at = address - (STACK_TOP - 512)
        if not 0 <= at <= 512 - size:
            raise IndexError(f"store of {size} B at {address:#x}")
        self.stack[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def run(self, code: bytes) -> int:
        """Execute to the exit; the value of r0 (32 bits)."""
        program = list(struct.iter_unpack("=BBhi", code))
        r, pc = self.registers, 0
        for _ in range(STEPS):
            opcode, regs, offset, imm = program[pc]
            dst, src, kind = regs & 15, regs >> 4, opcode & 7
            pc += 1
            if kind in (4, 7):
                self._arithmetic(opcode, dst, src, imm)
            elif kind in (5, 6):
                if opcode == 0x95:
                    return r[0] & U32
                operand = r[src] if opcode & 8 else imm
                bits = 64 if kind == 5 else 32
                if opcode == 0x05 or _jumps(opcode >> 4, r[dst], operand, bits):
                    pc += offset
            elif opcode == 0x18:
                r[dst] = (imm & U32) | (program[pc][3] & U32) << 32
                pc += 1
            elif kind == 1:
                r[dst] = self._load(r[src] + offset & U64, {0: 4, 1: 2, 2: 1, 3: 8}[opcode >> 3 & 3])
            elif kind in (2, 3):
                value = r[src] if kind == 3 else imm
                self._store(r[dst] + offset & U64, {0: 4, 1: 2, 2: 1, 3: 8}[opcode >> 3 & 3], value)
            else:
                raise RuntimeError(f"the program has an opcode that eBPF does not: {opcode:#x}")
        raise RuntimeError("the program does not end")

    def _arithmetic(self, opcode: int, dst: int, src: int, imm: int) -> None:
        r, bits = self.registers, 64 if opcode & 7 == 7 else 32
        if opcode >> 4 == 0xD:  # byte swap: of imm bits, to big-endian where the source bit is set
            size = imm // 8
            raw = (r[dst] & ((1 << imm) - 1)).to_bytes(size, "little")
            r[dst] = int.from_bytes(raw, "big" if opcode & 8 else "little")
            return
        r[dst] = _alu(opcode >> 4, r[dst], r[src] if opcode & 8 else imm, bits)
