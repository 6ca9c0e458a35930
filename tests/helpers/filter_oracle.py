# SPDX-License-Identifier: Apache-2.0
"""libpcap's verdicts on many packets, without the endless loop that its interpreter can fall into.

Programs that jump backwards (protochain) are first walked through here, and libpcap is asked only about packets on
which they end soon: an AH header that claims to be followed by itself leads its interpreter round for ever.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from toolkit.abi import libpcap
from toolkit.abi.libpcap import Instruction
from toolkit.filter.translate import ROUNDS

U32 = 0xFFFFFFFF
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_ALU: dict[int, Callable[[int, int], int]] = {
    0x00: operator.add,
    0x10: operator.sub,
    0x20: operator.mul,
    0x40: operator.or_,
    0x50: operator.and_,
    0x60: lambda a, b: a << b if b < 32 else 0,
    0x70: lambda a, b: a >> b if b < 32 else 0,
    0x80: lambda a, _: -a,
    0xA0: operator.xor,
}
_JUMPS: dict[int, Callable[[int, int], object]] = {
    0x10: operator.eq,
    0x20: operator.gt,
    0x30: operator.ge,
    0x40: operator.and_,
}


def jumps_back(program: Sequence[Instruction]) -> bool:
    """Whether the program has a loop."""
    return any(code & 0xF7 == 0x05 and k >> 31 for code, _, _, k in program)


def rounds(program: Sequence[Instruction], packet: bytes, most: int = ROUNDS) -> int:
    """How often the program jumps backwards on this packet; given up after `most` + 1."""
    a = x = pc = count = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = program[pc]
        kind, by_x = code & 7, code & 8
        pc += 1
        if kind in (0, 1):
            mode, size = code & 0xE0, _SIZES[code & 0x18]
            at = k + (x if mode == 0x40 else 0)
            if mode in (0x20, 0x40, 0xA0) and at + (1 if mode == 0xA0 else size) > len(packet):
                return count
            value = {0x00: k, 0x60: memory[k & 15], 0x80: len(packet)}.get(mode)
            if value is None:
                value = (packet[at] & 15) << 2 if mode == 0xA0 else int.from_bytes(packet[at : at + size], "big")
            a, x = (value, x) if kind == 0 else (a, value)
        elif kind in (2, 3):
            memory[k] = a if kind == 2 else x
        elif kind == 4:
            operand = x if by_x else k
            if code & 0xF0 in (0x30, 0x90):
                if not operand:
                    return count
                a = a // operand if code & 0xF0 == 0x30 else a % operand
            else:
                a = _ALU[code & 0xF0](a, operand) & U32
        elif kind == 5 and code & 0xF0 == 0:
            if k >> 31:
                count += 1
                if count > most:
                    return count
            pc += k - (k >> 31 << 32)
        elif kind == 5:
            pc += jt if _JUMPS[code & 0xF0](a, x if by_x else k) else jf
        elif kind == 6:
            return count
        elif code & 0x80:
            a = x
        else:
            x = a


def verdicts(
    program: Sequence[Instruction], packets: Sequence[bytes]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(what libpcap says, where that is known): two arrays of shape (n,). Unknown: more headers than we follow."""
    if not jumps_back(program):
        return np.array(libpcap.offline_filter_many(program, packets)), np.ones(len(packets), bool)
    known = np.array([rounds(program, packet) <= ROUNDS for packet in packets])
    expected = np.zeros(len(packets), bool)
    expected[known] = libpcap.offline_filter_many(program, [packets[i] for i in np.flatnonzero(known).tolist()])
    return expected, known
