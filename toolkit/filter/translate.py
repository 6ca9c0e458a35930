# SPDX-License-Identifier: Apache-2.0
"""The translation of a filter: a tcpdump expression as C, from libpcap's classic BPF, instruction by instruction.

The C function gives the same answer as libpcap's interpreter, for packets as the program gets them. A load beyond the
end of the packet, or a division by zero, is "no match" at once, even under `not`.

There are two forms. The plain one reads the packet's first buffer, which is the whole packet unless the program is
loaded with BPF_F_XDP_HAS_FRAGS. The form for packets of several buffers calls a helper for bytes beyond the first one.
Where the first buffer has the headers, as with every driver that is known, it costs as much as the plain form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from toolkit.abi.libpcap import Instruction
from toolkit.errors import FilterError
from toolkit.filter.classic import jumps_back, targets
from toolkit.filter.expression import instructions

__all__ = ["translate", "translate_instructions"]

FARTHEST = 0x7FFF  # the largest packet offset that the verifier accepts; no single buffer is longer
FARTHEST_FRAGS = 0xFFFF  # the largest offset of bpf_xdp_load_bytes(); an MTU is 65535 at most
ROUNDS = 16  # headers that `protochain` follows: the verifier accepts only loops with a bound

_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}  # BPF_W, BPF_H, BPF_B
_ALU = {0x00: "+", 0x10: "-", 0x20: "*", 0x40: "|", 0x50: "&", 0xA0: "^"}
_SHIFT = {0x60: "<<", 0x70: ">>"}
_DIVIDE = {0x30: "/", 0x90: "%"}
_JUMP = {0x10: "A == {}", 0x20: "A > {}", 0x30: "A >= {}", 0x40: "A & {}"}


def translate(expression: str, name: str = "match", *, frags: bool = False) -> str:
    """Return the C text of `name(struct xdp_md *ctx)` for a tcpdump expression. frags: for packets of several buffers.

    FilterError with libpcap's message; LibraryError without libpcap.
    """
    # The comment shows what the generated text is; nothing in the expression may end the comment.
    shown = expression.replace("*/", "* /").replace("\\", "\\\\").replace("\n", " ")
    return f"/* {shown} */\n{translate_instructions(instructions(expression), name, frags=frags)}"


def translate_instructions(program: Sequence[Instruction], name: str = "match", *, frags: bool = False) -> str:
    """Return the C text of `static u32 name(struct xdp_md *ctx)` for classic BPF: 1 where it accepts, else 0.

    frags: read packets of several buffers to their end (Linux 5.18); else the first buffer only.
    """
    labels = {target for at, insn in enumerate(program) for target in targets(at, insn)}
    if any(not 0 <= target < len(program) for target in labels):
        raise FilterError("libpcap's program jumps out of itself. Next step: report the expression.")
    body: list[str] = []
    for at, insn in enumerate(program):
        if at in labels:
            body.append(f"L{at}:;")
        body += [f"\t{line}" for line in _statement(at, insn, frags)]
    return "\n".join(
        [f"static __always_inline u32 {name}(struct xdp_md *ctx)", "{", *_declarations(program, frags), *body, "}", ""]
    )


def _declarations(program: Sequence[Instruction], frags: bool) -> Iterator[str]:
    slots = sorted({k for code, _, _, k in program if code in (0x02, 0x03, 0x60, 0x61)})
    yield "\tu8 *data = (u8 *)(unsigned long)ctx->data;"
    yield "\tu8 *data_end = (u8 *)(unsigned long)ctx->data_end;"
    if frags:  # declared here, by number, so that the text compiles without any header
        yield "\tlong (*load_bytes)(struct xdp_md *, u32, void *, u32) = (void *)189; /* bpf_xdp_load_bytes */"
        yield "\tu64 (*buff_len)(struct xdp_md *) = (void *)188; /* bpf_xdp_get_buff_len */"
        yield "\tu32 far;"
    yield "\tu32 " + ", ".join(f"{name} = 0" for name in ["A", "X", *(f"M{k}" for k in slots)]) + ";"
    if any(code in (0x80, 0x81) for code, *_ in program):
        yield "\tu32 len = buff_len(ctx);" if frags else "\tu32 len = data_end - data;"
        # Otherwise clang compares packet pointers where the program compares lengths, and the verifier refuses that.
        yield '\tasm volatile("" : "+r"(len));'
    if jumps_back(program):
        yield "\tu32 rounds = 0;"


def _statement(at: int, insn: Instruction, frags: bool) -> list[str]:
    code, _, _, k = insn
    kind = code & 7
    if kind in (0, 1):  # BPF_LD, BPF_LDX
        return _load(code, k, frags)
    if kind == 2:  # BPF_ST
        return [f"M{k} = A;"]
    if kind == 3:  # BPF_STX
        return [f"M{k} = X;"]
    if kind == 4:  # BPF_ALU
        return _arithmetic(code, k)
    if kind == 5:  # BPF_JMP
        return _jump(at, insn)
    if kind == 6:  # BPF_RET
        return ["return A != 0;" if code & 0x18 == 0x10 else f"return {int(k != 0)};"]
    return ["A = X;" if code & 0xF8 == 0x80 else "X = A;"]  # BPF_MISC: TXA, TAX


def _load(code: int, k: int, frags: bool) -> list[str]:
    register = "X" if code & 7 else "A"
    mode, size = code & 0xE0, _SIZES.get(code & 0x18, 4)
    if mode == 0x00:  # BPF_IMM
        return [f"{register} = {k}u;"]
    if mode == 0x60:  # BPF_MEM
        return [f"{register} = M{k};"]
    if mode == 0x80:  # BPF_LEN
        return [f"{register} = len;"]
    if mode == 0xA0:  # BPF_MSH: the length of an IPv4 header
        return _fetch(k, 1, "X = (*(u8 *)({at}) & 15) << 2;", frags)
    value = {4: "__builtin_bswap32(*(u32 *)({at}))", 2: "__builtin_bswap16(*(u16 *)({at}))", 1: "*(u8 *)({at})"}[size]
    if mode == 0x20:  # BPF_ABS
        return _fetch(k, size, f"A = {value};", frags)
    if mode == 0x40:  # BPF_IND
        return _fetch_indirect(k, size, f"A = {value};", frags)
    raise FilterError(f"libpcap's program has an unknown load (code {code:#x}). Next step: report the expression.")


def _fetch(k: int, size: int, use: str, frags: bool) -> list[str]:
    """Load at a constant offset. Ancillary loads (SKF_AD_OFF) are beyond any packet's end: no match, as in libpcap."""
    near = k + size <= FARTHEST
    if not frags:
        if not near:
            return ["return 0;"]
        return [f"if (data + {k + size} > data_end)", "\treturn 0;", use.format(at=f"data + {k}")]
    if k > FARTHEST_FRAGS:
        return ["return 0;"]
    beyond = [f"if (load_bytes(ctx, {k}, &far, {size}))", "\treturn 0;", use.format(at="&far")]
    if not near:
        return beyond
    return [
        f"if (data + {k + size} <= data_end) {{",
        "\t" + use.format(at=f"data + {k}"),
        "} else {",
        *(f"\t{line}" for line in beyond),
        "}",
    ]


def _fetch_indirect(k: int, size: int, use: str, frags: bool) -> list[str]:
    # 64 bits, because libpcap's sum does not wrap around.
    offset = f"\tu64 o = (u64)X + {k}u;"
    # Otherwise clang folds the bound into X, where the verifier does not find it.
    barrier = '\tasm volatile("" : "+r"(o));'
    # Otherwise clang may add o to data before the bound is checked, if the loaded value is not used.
    within = f'({{ asm volatile("" : "+r"(o)); data + o + {size} <= data_end; }})'
    if not frags:
        return [
            "{",
            offset,
            barrier,
            f"\tif (o > {FARTHEST - size} || !{within})",
            "\t\treturn 0;",
            "\t" + use.format(at="data + o"),
            "}",
        ]
    return [
        "{",
        offset,
        barrier,
        f"\tif (o <= {FARTHEST - size} && {within}) {{",
        "\t\t" + use.format(at="data + o"),
        "\t} else {",
        # The helper refuses offsets beyond FARTHEST_FRAGS, but it gets only the lower 32 bits of the offset.
        f"\t\tif (o > {FARTHEST_FRAGS} || load_bytes(ctx, o, &far, {size}))",
        "\t\t\treturn 0;",
        "\t\t" + use.format(at="&far"),
        "\t}",
        "}",
    ]


def _arithmetic(code: int, k: int) -> list[str]:
    operation = code & 0xF0
    by_x = bool(code & 0x08)
    operand = "X" if by_x else f"{k}u"
    if operation in _ALU:
        return [f"A = A {_ALU[operation]} {operand};"]
    if operation in _SHIFT:
        if by_x:
            return [f"A = X < 32 ? A {_SHIFT[operation]} (X & 31) : 0;"]
        return [f"A = A {_SHIFT[operation]} {k};" if k < 32 else "A = 0;"]
    if operation in _DIVIDE:
        if by_x:
            return ["if (X == 0)", "\treturn 0;", f"A = A {_DIVIDE[operation]} X;"]
        return [f"A = A {_DIVIDE[operation]} {k}u;" if k else "return 0;"]
    if operation == 0x80:  # BPF_NEG
        return ["A = 0 - A;"]
    raise FilterError(f"libpcap's program has an unknown operation (code {code:#x}). Next step: report the expression.")


def _jump(at: int, insn: Instruction) -> list[str]:
    code, _, _, k = insn
    operation = code & 0xF0
    if operation == 0:
        (target,) = targets(at, insn)
        bound = [f"if (++rounds > {ROUNDS})", "\treturn 0;"] if target <= at else []
        return [*bound, f"goto L{target};"]
    if operation not in _JUMP:
        raise FilterError(f"libpcap's program has an unknown jump (code {code:#x}). Next step: report the expression.")
    yes, no = targets(at, insn)
    condition = _JUMP[operation].format("X" if code & 0x08 else f"{k}u")
    if yes == no:
        return [f"goto L{yes};"] if yes != at + 1 else []
    if no == at + 1:
        return [f"if ({condition})", f"\tgoto L{yes};"]
    if yes == at + 1:
        return [f"if (!({condition}))", f"\tgoto L{no};"]
    return [f"if ({condition})", f"\tgoto L{yes};", f"goto L{no};"]
