# SPDX-License-Identifier: Apache-2.0
"""Classic BPF as a graph: the targets of jumps, loops, and reads of scratch memory that was not written."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.abi.libpcap import Instruction

__all__ = ["jumps_back", "reads_unwritten", "targets"]

_LOADS = (0x60, 0x61)  # BPF_LD|BPF_MEM, BPF_LDX|BPF_MEM
_STORE, _STORE_X, _JUMP, _RETURN = 2, 3, 5, 6  # classes


def targets(at: int, insn: Instruction) -> tuple[int, ...]:
    """Return the positions to which the instruction at position `at` may jump; none if it is not a jump."""
    code, jt, jf, k = insn
    if code & 7 != _JUMP:
        return ()
    if code & 0xF0 == 0:  # BPF_JA; backwards only in protochain
        return (at + 1 + _signed(k),)
    return (at + 1 + jt, at + 1 + jf)


def jumps_back(program: Sequence[Instruction]) -> bool:
    """Return whether the program has a loop, as `protochain` makes."""
    return any(target <= at for at, insn in enumerate(program) for target in targets(at, insn))


def _signed(k: int) -> int:
    return k - (1 << 32) if k & 0x80000000 else k


def reads_unwritten(program: Sequence[Instruction]) -> bool:
    """Return whether a path leads to a load of a scratch cell, M[k], to which nothing on that path has stored.

    libpcap's interpreter reads old contents of its stack there. Linux refuses such a program as a socket filter, by the
    same analysis (check_load_and_stores() in net/core/filter.c).
    """
    written: dict[int, int] = {0: 0}  # by position: a bit for each cell that every path to it has written
    waiting = [0]
    while waiting:
        at = waiting.pop()
        insn, cells = program[at], written[at]
        code, k = insn[0], insn[3]
        if code in _LOADS and not cells >> k & 1:
            return True
        if code & 7 in (_STORE, _STORE_X):
            cells |= 1 << k
        if code & 7 == _RETURN:
            continue
        for following in targets(at, insn) or (at + 1,):
            if following >= len(program):  # translate_instructions() refuses that
                continue
            known = written.get(following)
            here = cells if known is None else cells & known
            if here != known:
                written[following] = here
                waiting.append(following)
    return False
