# SPDX-License-Identifier: Apache-2.0
"""Compile a tcpdump expression to classic BPF: in this process if that is quick, else in a child that can be killed.

libpcap's optimiser takes a minute for a list of a thousand hosts (its time grows with the cube of the length), and a
name in an expression makes it ask the DNS. Python can interrupt neither. Results of long expressions are cached on
disk; those of names are not, because their addresses may change.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any

from toolkit._base.cache import Cache, sha256
from toolkit._base.children import run_helper
from toolkit._base.warn import warn
from toolkit.abi import libpcap as abi
from toolkit.abi.libpcap import Instruction
from toolkit.abi.shared_library import not_loaded
from toolkit.errors import FilterError, ToolkitError, explained
from toolkit.filter.classic import reads_unwritten
from toolkit.filter.explain import explain

__all__ = ["FilterWarning", "instructions"]

FEW_WORDS = 60  # up to here the optimiser takes about a millisecond
OPTIMISER_TIME = 60.0  # seconds of processor time, enough for a thousand hosts
PLAIN_TIME = 30.0  # seconds of processor time without the optimiser: 20,000 instructions take three
NAMES_TIME = 45.0  # seconds for names that the DNS may not answer for, in each of the two ways
MOST_UNOPTIMISED = 20_000  # instructions: 600 hosts, which clang compiles in about a minute
ASKING_TIME = 5.0  # seconds to find the place of an error

# These test data that libpcap gets beside a packet, which neither pcap_offline_filter() nor an XDP program has.
_BESIDE = re.compile(r"(?<![\w.-])(inbound|outbound|ifindex)(?![\w.-])")

# The keywords of libpcap. Any other word may be a host, a port or a protocol that it looks up.
_KEYWORDS = frozenset(
    word
    for line in (
        "and or not host net mask port portrange src dst gateway proto protochain ether wlan ip ip6 arp rarp",
        "tcp udp sctp icmp icmp6 igmp igrp pim vrrp carp ah esp broadcast multicast less greater byte inbound",
        "outbound vlan mpls pppoed pppoes geneve len atalk aarp decnet lat sca moprc mopdl iso stp ipx",
        "netbeui link fddi tr ppp slip tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr",
        "tcpflags icmptype icmpcode icmp6type icmp6code",
    )
    for word in line.split()
)
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*|::[0-9A-Fa-f:.]*")
_PLAIN = re.compile(r"(0[xX][0-9A-Fa-f]+|[0-9]+(\.[0-9]+){0,3}|[0-9]+-[0-9]+|(icmp6?-[a-z6-]+))\Z")
_COLONS = re.compile(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*\Z")


class FilterWarning(UserWarning):
    """A filter is valid, but cannot have the meaning of its words here; the text says why."""


def _kind(expression: str) -> str:
    """Return "names" if libpcap may look a word up, else "long" or "short"."""
    words = _WORD.findall(expression)
    if not all(word in _KEYWORDS or _PLAIN.match(word) or _COLONS.match(word) for word in words):
        return "names"
    return "short" if len(words) <= FEW_WORDS else "long"


def _in_child(limit: float | None, **job: Any) -> Any:
    """Return the child's answer, or None if it was killed: after `limit` seconds, or job["processor_time"] of work."""
    import subprocess

    request, asked = json.dumps(job), _short(job.get("expression", job.get("texts")))
    try:
        with explained(f"cannot start the process that compiles the filter {asked}"):
            done = run_helper([sys.executable or "/usr/bin/python3", "-I", abi.__file__], request.encode(), limit)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == -signal.SIGPROF:
        return None
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise FilterError(
            f"cannot compile the filter {asked}: libpcap ended with status {done.returncode} "
            f"{done.stderr.decode(errors='replace').strip()}. Likely cause: it was killed, or memory is short. Next "
            "step: try again; then report the expression."
        ) from None


def _refused(expression: str, message: str) -> FilterError:
    return FilterError(explain(expression, message, _messages))


def _messages(texts: Sequence[str]) -> list[str | None] | None:
    """Return libpcap's message for each text, None where it accepts it; None if that took too long or failed."""
    with contextlib.suppress(FilterError):
        answer = _in_child(ASKING_TIME, texts=list(texts))
        if answer is not None and "messages" in answer:
            return list(answer["messages"])
    return None


def _absent(detail: object) -> ToolkitError:
    return not_loaded("libpcap, which compiles filters", "libpcap0.8", detail)


def _short(expression: object) -> str:
    """Return the expression, or its beginning, in quotes."""
    text = expression if isinstance(expression, str) else json.dumps(expression)
    return repr(text if len(text) < 200 else text[:200] + "...")


def instructions(expression: str) -> list[Instruction]:
    """Return classic BPF for a tcpdump expression: (code, jt, jf, k), optimised unless that takes too long.

    FilterError with libpcap's message, LibraryError without libpcap. Warns (FilterWarning) of words that test data that
    no XDP program has.
    """
    found = _instructions(expression)
    if reads_unwritten(found):  # perhaps only because of a fault of the optimiser, in long arithmetic
        found, _ = _with_time_limits(expression, (False,))
        if reads_unwritten(found):
            raise FilterError(
                f"the filter {_short(expression)} cannot be had: for some packets libpcap's program reads memory that "
                "nothing has written, so that its verdict is left to chance. Likely cause: what stands behind `geneve` "
                "or `vxlan` is asked of the packet inside the tunnel, also to the right of an `or`, and not every "
                "packet has one. Next step: put the tunnel last (`ip or geneve`), or make it a rule of its own "
                "(rules=[Rule(...), Rule(...)])."
            )
    beside = _BESIDE.search(expression)
    if beside and any(code & 0xE7 == 0x20 and k >= abi.SKF_AD_OFF for code, _, _, k in found):
        warn(
            f"in the filter {_short(expression)}, `{beside[1]}` asks for what is not in a packet's bytes: a packet on "
            "which it is asked never matches. All that an XDP program sees is inbound, on the interface that it is "
            "attached to. Next step: leave the word out.",
            FilterWarning,
        )
    return found


def _instructions(expression: str) -> list[Instruction]:
    if not expression.strip():
        raise FilterError('the filter is empty. Next step: `filter="all"` takes everything; a tcpdump expression less.')
    if "\0" in expression:
        raise FilterError(
            f"the filter {expression!r} has a zero byte in it. Next step: take it out: no expression needs one."
        )
    kind = _kind(expression)
    if kind == "names":
        return _with_time_limits(expression)[0]
    try:
        if kind == "short":
            return abi.compile_expression(expression)
        version: bytes = abi.libpcap().pcap_lib_version()
    except ValueError as refused:
        raise _refused(expression, str(refused)) from None
    except OSError as missing:
        raise _absent(missing) from missing
    return _kept(expression, version)


def _kept(expression: str, version: bytes) -> list[Instruction]:
    """Return the instructions from the cache, else compile the expression and store them there."""
    text = expression.encode(errors="surrogateescape")
    key = "filter-" + sha256(b"%d:%s:" % (len(version), version) + text).hexdigest()[:40]
    with Cache() as cache:
        found = _checked((cache.load(key) or {}).get("instructions"))
        if found is None:
            found, optimised = _with_time_limits(expression)
            if optimised:
                cache.store(key, {"instructions": found})
    return found


def _checked(stored: Any) -> list[Instruction] | None:
    """Return instructions that were read from JSON; None if they are not valid."""
    try:
        found = [(int(code), int(jt), int(jf), int(k)) for code, jt, jf, k in stored]
    except (TypeError, ValueError, OverflowError):
        return None
    fit = all(0 <= c < 1 << 16 and 0 <= jt < 256 and 0 <= jf < 256 and 0 <= k < 1 << 32 for c, jt, jf, k in found)
    return found if found and fit else None


def _with_time_limits(expression: str, ways: Sequence[bool] = (True, False)) -> tuple[list[Instruction], bool]:
    """Compile in a child, optimised or not: the first of `ways` that ends in time. FilterError, LibraryError.

    Its work is limited in processor time, which a busy machine does not change; only where names may be looked up is
    the time that it waits. Returns the instructions, and whether they are optimised.
    """
    limit = NAMES_TIME if _kind(expression) == "names" else None
    for optimise in ways:
        work = OPTIMISER_TIME if optimise else PLAIN_TIME
        answer = _in_child(limit, expression=expression, optimise=optimise, processor_time=work)
        if answer is None:
            continue
        if "refused" in answer:
            raise _refused(expression, answer["refused"])
        if "absent" in answer:
            raise _absent(answer["absent"])
        found = [(int(code), int(jt), int(jf), int(k)) for code, jt, jf, k in answer["instructions"]]
        if not optimise and len(found) > MOST_UNOPTIMISED:
            raise FilterError(
                f"the filter {_short(expression)} is too long: libpcap does not optimise it (not rightly, or not in "
                f"{OPTIMISER_TIME:.0f} s), and as they are, its {len(found)} instructions would take clang minutes. "
                "Next step: `net` and `portrange` instead of lists of hosts and ports; or a broader filter here, and "
                "the rest in Python (`Batch.decode()`)."
            )
        return found, optimise
    if limit is None:
        raise FilterError(
            f"libpcap did not finish the filter {_short(expression)} in {PLAIN_TIME:.0f} s of processor time, even "
            "without its optimiser. Likely cause: the filter is very long. Next step: `net` and `portrange` instead of "
            "lists of hosts and ports."
        )
    raise FilterError(
        f"libpcap did not finish the filter {_short(expression)} in {len(ways) * limit:.0f} s. Likely cause: a name in "
        "it that the DNS does not answer for. Next step: use addresses and port numbers."
    )
