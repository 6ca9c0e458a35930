# SPDX-License-Identifier: Apache-2.0
"""libpcap: compile tcpdump expressions to classic BPF, and interpret that. Names and numbers as in pcap/bpf.h.

This file imports nothing of the toolkit, because it is also a script: it then compiles the expression that it reads
from stdin, so that a compilation that takes minutes can be killed.
"""

from __future__ import annotations

import ctypes as ct
import functools
import json
import signal
import sys
from collections.abc import Sequence
from typing import Protocol

__all__ = [
    "BPF_A",
    "BPF_X",
    "DLT_EN10MB",
    "MAXIMUM_SNAPLEN",
    "PCAP_ERRBUF_SIZE",
    "PCAP_NETMASK_UNKNOWN",
    "SKF_AD_OFF",
    "BpfInsn",
    "BpfProgram",
    "Instruction",
    "PcapPkthdr",
    "compile_expression",
    "libpcap",
    "offline_filter",
    "offline_filter_many",
    "prepared",
    "refusal",
]

DLT_EN10MB = 1
MAXIMUM_SNAPLEN = 262144
PCAP_NETMASK_UNKNOWN = 0xFFFFFFFF
PCAP_ERRBUF_SIZE = 256
SKF_AD_OFF = 0xFFFFF000  # loads from here on are Linux's ancillary loads

# Bits of instruction codes, in addition to class, size and mode.
BPF_X = 0x08
BPF_A = 0x10

Instruction = tuple[int, int, int, int]
"""struct bpf_insn: code, jt, jf, k. All unsigned."""


class Verdicts(Protocol):
    """Runs a filter on packets."""

    def __call__(self, packets: Sequence[bytes], lengths: Sequence[int] | None = None) -> list[bool]:
        """Return whether each packet matches. lengths: bytes on the wire."""


_SONAMES = ("libpcap.so.0.8", "libpcap.so.1")  # Debian's name, and that of other distributions


class BpfInsn(ct.Structure):
    """struct bpf_insn of classic BPF."""

    _fields_ = [("code", ct.c_ushort), ("jt", ct.c_ubyte), ("jf", ct.c_ubyte), ("k", ct.c_uint32)]


class BpfProgram(ct.Structure):
    """struct bpf_program."""

    _fields_ = [("bf_len", ct.c_uint), ("bf_insns", ct.POINTER(BpfInsn))]


class PcapPkthdr(ct.Structure):
    """struct pcap_pkthdr."""

    _fields_ = [("tv_sec", ct.c_long), ("tv_usec", ct.c_long), ("caplen", ct.c_uint32), ("len", ct.c_uint32)]


@functools.cache
def libpcap() -> ct.CDLL:
    """Return the library, loaded at first use. OSError if there is none."""
    for soname in _SONAMES:
        try:
            library = ct.CDLL(soname)
            break
        except OSError as refused:
            missing = refused
    else:
        raise missing
    p, i, u32 = ct.c_void_p, ct.c_int, ct.c_uint32
    for name, restype, argtypes in (
        ("pcap_open_dead", p, (i, i)),
        ("pcap_compile", i, (p, ct.POINTER(BpfProgram), ct.c_char_p, i, u32)),
        ("pcap_freecode", None, (ct.POINTER(BpfProgram),)),
        ("pcap_geterr", ct.c_char_p, (p,)),
        ("pcap_close", None, (p,)),
        ("pcap_lib_version", ct.c_char_p, ()),
        ("pcap_offline_filter", i, (ct.POINTER(BpfProgram), ct.POINTER(PcapPkthdr), ct.c_char_p)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = restype, argtypes
    return library


def compile_expression(expression: str, optimise: bool = True) -> list[Instruction]:
    """Return classic BPF for Ethernet frames. ValueError with libpcap's message, OSError without libpcap."""
    library = libpcap()
    handle = library.pcap_open_dead(DLT_EN10MB, MAXIMUM_SNAPLEN)
    if not handle:
        raise MemoryError("pcap_open_dead")
    try:
        program = BpfProgram()
        # libpcap reads bytes; its message quotes those that it does not understand.
        text = expression.encode(errors="surrogateescape")
        if library.pcap_compile(handle, ct.byref(program), text, int(optimise), PCAP_NETMASK_UNKNOWN) != 0:
            raise ValueError(library.pcap_geterr(handle).decode(errors="replace"))
        try:
            raw = program.bf_insns
            return [(raw[i].code, raw[i].jt, raw[i].jf, raw[i].k) for i in range(program.bf_len)]
        finally:
            library.pcap_freecode(ct.byref(program))
    finally:
        library.pcap_close(handle)


def refusal(expression: str) -> str | None:
    """Return libpcap's message for an expression, None if it accepts it. OSError without libpcap."""
    try:
        compile_expression(expression, optimise=False)
    except ValueError as refused:
        return str(refused)
    return None


def offline_filter(instructions: Sequence[Instruction], packet: bytes, length: int | None = None) -> bool:
    """Return whether libpcap matches a packet of `length` bytes, of which `packet` was captured.

    With a program that jumps backwards (`protochain`) it may never return: a crafted AH header chain is a loop.
    """
    code = (BpfInsn * len(instructions))(*(BpfInsn(*insn) for insn in instructions))
    program = BpfProgram(len(instructions), ct.cast(code, ct.POINTER(BpfInsn)))
    header = PcapPkthdr(0, 0, len(packet), len(packet) if length is None else length)
    return bool(libpcap().pcap_offline_filter(ct.byref(program), ct.byref(header), packet))


def offline_filter_many(
    instructions: Sequence[Instruction], packets: Sequence[bytes], lengths: Sequence[int] | None = None
) -> list[bool]:
    """Do offline_filter() for many packets. lengths: bytes on the wire; None: nothing was cut off."""
    return prepared(instructions)(packets, lengths)


def prepared(instructions: Sequence[Instruction]) -> Verdicts:
    """Return offline_filter_many() for these instructions, for repeated calls: a microsecond a packet."""
    code = (BpfInsn * len(instructions))(*(BpfInsn(*insn) for insn in instructions))
    program = BpfProgram(len(instructions), ct.cast(code, ct.POINTER(BpfInsn)))
    header = PcapPkthdr()
    call, reference, filter_reference = libpcap().pcap_offline_filter, ct.byref(header), ct.byref(program)

    def verdicts(packets: Sequence[bytes], lengths: Sequence[int] | None = None) -> list[bool]:
        found = []
        for packet, length in zip(packets, map(len, packets) if lengths is None else lengths, strict=True):
            header.caplen, header.len = len(packet), length
            found.append(bool(call(filter_reference, reference, packet)))
        return found

    return verdicts


def main() -> None:
    """Read {"expression", "optimise"} from stdin; write {"instructions"}, {"refused"} or {"absent"} to stdout.

    Or read {"texts"} and write {"messages"}: libpcap's message for each, or null. "processor_time": seconds of work
    after which SIGPROF kills the process.
    """
    request = json.load(sys.stdin)
    if "processor_time" in request:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
        signal.setitimer(signal.ITIMER_PROF, request["processor_time"])
    answer: dict[str, object]
    try:
        if "texts" in request:
            answer = {"messages": [refusal(text) for text in request["texts"]]}
        else:
            answer = {"instructions": compile_expression(request["expression"], request["optimise"])}
    except ValueError as refused:
        answer = {"refused": str(refused)}
    except OSError as missing:
        answer = {"absent": str(missing)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
