# SPDX-License-Identifier: Apache-2.0
"""Which packets a filter takes, asked of the real program: the one that would stand in the driver, run on bytes."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.warn import once
from toolkit.abi import libpcap
from toolkit.batch.batch import Batch
from toolkit.errors import ArgumentError
from toolkit.filter.classic import jumps_back
from toolkit.filter.expression import instructions
from toolkit.packets.matrix import as_bytes
from toolkit.program.program import Program
from toolkit.program.run import SHORTEST, run_many

__all__ = ["forget", "matches"]

MOST_KEPT = 16  # expressions whose programs stay loaded
ONE_BUFFER = 3072  # bytes; the kernel runs a program on a page less 256 B in front and about 320 B behind
LONGEST = 65535 + 14  # bytes: the largest MTU that an interface can have, and the Ethernet header
XDP_DROP = 1
BPF_LEN = (0x80, 0x81)  # loads of the length, into A and into X


class _Matcher:
    """One expression: a program for each kind of packet that it was asked about."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._programs: dict[bool, Program] = {}
        self._instructions: list[libpcap.Instruction] | None = None

    def program(self, frags: bool) -> Program:
        """The loaded program, for packets of several buffers or of one."""
        program = self._programs.get(frags)
        if program is None or program.closed:  # closed: this is a child of the process that loaded it
            program = self._programs[frags] = Program.build("xdp_drop.c", filter=self._expression, frags=frags)
        return program

    def of_the_kernel(self, packets: list[bytes], frags: bool) -> npt.NDArray[np.bool_]:
        """The program's verdicts on packets of SHORTEST bytes and more."""
        program = self.program(frags)  # held: another thread may have made one as well, and its own is kept
        return np.asarray(run_many(program.fd, packets) == XDP_DROP)

    @property
    def instructions(self) -> list[libpcap.Instruction]:
        """libpcap's program; none for "all"."""
        if self._instructions is None:
            self._instructions = [] if self._expression == "all" else instructions(self._expression)
        return self._instructions

    @property
    def asks_length(self) -> bool:
        """Whether the verdict depends on the length of a packet (`less`, `greater`, `len`)."""
        return any(code in BPF_LEN for code, *_ in self.instructions)

    def of_libpcap(self, packets: list[bytes], lengths: list[int]) -> list[bool]:
        """The interpreter's verdicts on packets of `lengths` bytes, of which those that are given were recorded."""
        if self._expression == "all":
            return [True] * len(packets)
        if max(map(len, packets)) >= SHORTEST and jumps_back(self.instructions):
            # No shorter one leads a protochain round in a circle, in which the interpreter would go for ever.
            raise ArgumentError(
                f"cannot ask “{self._expression}” of packets that were cut: it follows a chain of headers (protochain) "
                "and asks for the length on the wire. Next step: ask for the two apart, as in "
                "matches('ip6 protochain 6', batch) & (batch.wire_lengths > 1000)."
            )
        return libpcap.offline_filter_many(self.instructions, packets, lengths)


# The least recently used first. No lock: each step on it is one of the interpreter's, and a lost entry is built anew.
_kept: collections.OrderedDict[str, _Matcher] = collections.OrderedDict()


def matches(expression: str, packets: Any) -> npt.NDArray[np.bool_]:
    """Which of the packets the filter takes: shape (n,) bool.

    `expression` is a tcpdump expression, or "all". `packets` are an iterable of bytes-like objects, one a packet, from
    the Ethernet header on; an array of shape (n, width) and dtype uint8, a row a packet; or a Batch.

    The answer comes from the program that `toolkit.open(filter=...)` would attach, compiled, verified and run by the
    kernel, some 3 us a packet. Needs CAP_BPF and CAP_NET_ADMIN, but no interface, and none is touched. The kernel runs
    no program on less than an Ethernet header, so of packets under 14 bytes the answer is that of libpcap's own
    interpreter. Packets longer than one buffer are run in several, by the program for jumbo frames (Linux 5.18).

    Of packets in a Batch that were cut (snaplen), `len`, `less` and `greater` mean the length on the wire, as always
    in libpcap: where the filter asks for it, the interpreter answers as well. A filter that reads what was cut off
    does not match.

    The programs of the last 16 expressions stay loaded until this process ends, or `toolkit.program.forget()`; names in
    them mean until then what they meant at first.

    Raises FilterError, ArgumentError (not packets; longer than 65549 bytes; a filter with `protochain` and a length, of
    packets that were cut), PrivilegeError, VerifierError.
    """
    if not isinstance(expression, str):
        raise ArgumentError(f'the filter is a tcpdump expression or "all", not {expression!r}.')
    with once():  # the expression is compiled for each kind of packet
        return _verdicts(expression, packets)


def _verdicts(expression: str, packets: Any) -> npt.NDArray[np.bool_]:
    found = as_bytes(packets)
    verdicts = np.zeros(len(found), dtype=np.bool_)
    matcher = _matcher(expression)
    sizes = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
    if len(found) and sizes.max() > LONGEST:
        at = int(np.argmax(sizes > LONGEST))
        raise ArgumentError(
            f"packet {at} of {len(found)} has {sizes[at]} bytes, and no interface carries more than {LONGEST}. "
            "Next step: give packets one by one, as an interface carries them."
        )
    lengths = packets.wire_lengths if isinstance(packets, Batch) else sizes
    read, long = sizes < SHORTEST, sizes > ONE_BUFFER
    cut = lengths != sizes
    if cut.any() and matcher.asks_length:
        read |= cut
    if read.any():
        chosen = np.flatnonzero(read)
        verdicts[read] = matcher.of_libpcap([found[i] for i in chosen], lengths[chosen].tolist())
    for where, frags in ((~read & ~long, False), (~read & long, True)):
        # Without packets too: a filter that does not compile is refused whatever it is asked about.
        if where.any() or (not frags and not len(found)):
            verdicts[where] = matcher.of_the_kernel([found[i] for i in np.flatnonzero(where)], frags)
    return verdicts


def forget() -> None:
    """Unload the programs that matches() keeps."""
    _kept.clear()


def _matcher(expression: str) -> _Matcher:
    matcher = _kept.pop(expression, None) or _Matcher(expression)
    _kept[expression] = matcher
    while len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)  # whoever is using it in another thread keeps it until then
    return matcher
