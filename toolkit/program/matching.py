# SPDX-License-Identifier: Apache-2.0
"""matches(): which packets a filter takes, by running the real program on them, as it would be attached."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
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
ONE_BUFFER = 3072  # bytes; the kernel runs a program on a page, minus 256 B in front and about 320 B behind
LONGEST = 65535 + 14  # bytes: the largest MTU that an interface can have, and the Ethernet header
XDP_DROP = 1
BPF_LEN = (0x80, 0x81)  # loads of the length, into A and into X


class _Matcher:
    """The programs of one expression: one for each kind of packet that was tested."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._programs: dict[bool, Program] = {}
        self._instructions: list[libpcap.Instruction] | None = None

    def program(self, frags: bool) -> Program:
        """The loaded program, for packets of several buffers or of one."""
        program = self._programs.get(frags)
        if program is None or program.closed:  # closed: this is a forked child of the process that loaded it
            program = self._programs[frags] = Program.build("xdp_drop.c", filter=self._expression, frags=frags)
        return program

    def of_the_kernel(self, packets: list[bytes], frags: bool) -> npt.NDArray[np.bool_]:
        """Return the program's verdicts on packets of SHORTEST bytes and more."""
        program = self.program(frags)  # a reference: another thread may replace the one that is kept
        return np.asarray(run_many(program.fd, packets) == XDP_DROP)

    @property
    def instructions(self) -> list[libpcap.Instruction]:
        """libpcap's program; empty for "all"."""
        if self._instructions is None:
            self._instructions = [] if self._expression == "all" else instructions(self._expression)
        return self._instructions

    @property
    def asks_length(self) -> bool:
        """Whether the verdict depends on the length of a packet (`less`, `greater`, `len`)."""
        return any(code in BPF_LEN for code, *_ in self.instructions)

    def of_libpcap(self, packets: list[bytes], lengths: list[int]) -> list[bool]:
        """Return libpcap's verdicts on packets of `lengths` bytes on the wire, of which `packets` were recorded."""
        if self._expression == "all":
            return [True] * len(packets)
        if max(map(len, packets)) >= SHORTEST and jumps_back(self.instructions):
            # A shorter packet cannot lead a protochain into a loop, in which the interpreter would never end.
            raise ArgumentError(
                f"cannot ask “{self._expression}” of packets that were cut: it follows a chain of headers (protochain) "
                "and asks for the length on the wire. Next step: ask for the two apart, as in "
                "matches('ip6 protochain 6', batch) & (batch.wire_lengths > 1000)."
            )
        return libpcap.offline_filter_many(self.instructions, packets, lengths)


# The least recently used first. No lock is needed: each operation on it is atomic, and a lost entry is built again.
_kept: collections.OrderedDict[str, _Matcher] = collections.OrderedDict()


def matches(expression: str, packets: Any) -> npt.NDArray[np.bool_]:
    """Return which of the packets the filter matches: shape (n,), bool.

    expression: a tcpdump expression, or "all". packets: an iterable of bytes-like objects, one a packet, from the
    Ethernet header on; an array of shape (n, width) and dtype uint8, a row a packet; or a Batch.

    The answer comes from the program that `toolkit.open(filter=...)` would attach, compiled, verified and run by the
    kernel, in some 3 us a packet. It needs CAP_BPF and CAP_NET_ADMIN, but no interface. The kernel does not run
    programs
    on less than an Ethernet header: for packets below 14 bytes the answer is that of libpcap's interpreter. Packets
    longer than one buffer are run in several, by the program for jumbo frames (Linux 5.18).

    For packets in a Batch that were cut (snaplen), `len`, `less` and `greater` use the length on the wire, as in
    libpcap, whose interpreter then gives the answer. A filter that reads bytes that were cut off does not match.

    The programs of the last 16 expressions stay loaded until this process ends, or `toolkit.program.forget()`; until
    then, names in them are not resolved again.

    Raises FilterError, ArgumentError (not packets; longer than 65549 bytes; a filter with `protochain` and a length,
    for packets that were cut), PrivilegeError, VerifierError.
    """
    if not isinstance(expression, str):
        raise cannot_be("filter", expression, 'a tcpdump expression as text, or "all"')
    with once():  # because the expression is compiled for each kind of packet
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
        # Also without packets, so that a filter that does not compile always raises.
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
        _kept.popitem(last=False)  # another thread that uses it has a reference
    return matcher
