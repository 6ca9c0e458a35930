# SPDX-License-Identifier: Apache-2.0
"""explain(): the error text of a filter that libpcap refuses: its message, a caret under the word at fault, a next
step.

libpcap does not report where an error is. So it compiles beginnings of the expression:

- A syntax error is at the first word after which no continuation is possible. Each beginning gets a further word (half
a
  MAC address), whose lexer error libpcap reports only if the parser gets that far: if another error is reported, the
  parser stopped before. If every beginning can be continued, the expression ends too early, and the caret is at the
  end.
- Any other error is at the word that the message names, else at the end of the shortest beginning that is refused
  with the same message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["explain"]

MOST_WORDS = 1000  # words of an expression that is searched for the error
WIDTH = 100  # characters of a long expression that are shown
HALF_ADDRESS = "1:2:"  # "bogus ethernet address", says the lexer

Ask = Callable[[Sequence[str]], "Sequence[str | None] | None"]
"""Returns libpcap's message for each text (None: accepted); None if libpcap cannot be asked."""

# Coarser than libpcap's own tokens, never finer: no beginning may end within one of them.
_WORD = re.compile(r"\\?[\w.:-]+|<<|>>|[<>=!]=|&&|\|\||\S")
_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"")
_NAMED = re.compile(r"[\w.:/-]+")
# Words of messages that expressions have as well, in another sense.
_EVERYWHERE = frozenset(["a", "and", "for", "greater", "host", "in", "is", "net", "not", "on", "only", "or", "port"])

_FRAMES = "an XDP program sees Ethernet frames"
# (pattern of libpcap's message, words of the expression that it is about, likely cause, next step).
_CANNOT: tuple[tuple[str, str, str, str], ...] = (
    (
        "PF linktype|PFLOG",  # here and below: up to libpcap 1.10, and since
        "ifname on rnr rulenum srnr subrulenum reason rset ruleset action",
        f"this asks for what the packet filter of OpenBSD notes about a packet (DLT_PFLOG), and {_FRAMES} without it",
        "leave it out; the interface is the one that the filter is opened on",
    ),
    (
        r"802\.11|'(type/subtype|dir)' not supported",
        "type subtype dir direction addr1 addr2 addr3 addr4 address1 address2 address3 address4 ra ta",
        f"this asks for headers of IEEE 802.11 (monitor mode, DLT_IEEE802_11), and {_FRAMES}, of Wi-Fi devices too",
        "leave it out, or capture in monitor mode with tcpdump",
    ),
    (
        "radio information",
        "radio",
        f"this asks for a radio header (DLT_IEEE802_11_RADIO), and {_FRAMES}",
        "leave it out, or capture in monitor mode with tcpdump",
    ),
    (
        "raw ATM|SUNATM",
        "lane metac bcc sc ilmic oam oamf4 oamf4sc oamf4ec oamf4s oamf4e connectmsg vpi vci callref",
        f"this asks for ATM cells (DLT_SUNATM), and {_FRAMES}",
        "leave it out",
    ),
    (
        "MTP2|SS7",
        "fisu lssu lsu msu hfisu hlssu hmsu sio opc dpc sls hsio hopc hdpc hsls",
        f"this asks for SS7 signalling (DLT_MTP2), and {_FRAMES}",
        "leave it out; of SIGTRAN `sctp` and its ports can be matched",
    ),
    (
        "not a live capture",  # libpcap 1.11; before, such an expression compiled, and expression.py warns of it
        "inbound outbound ifindex",
        "this asks for what is not in a packet's bytes. All that an XDP program sees is inbound, on the interface that "
        "it is attached to",
        "leave the word out",
    ),
    (
        "netmask not known",
        "broadcast",
        "the program belongs to no network in particular, so it knows no netmask",
        "`ether broadcast`, or `dst host` with the broadcast address of the network (10.1.2.255)",
    ),
    (
        "'gateway'",
        "gateway",
        "it needs a host name that stands both in /etc/ethers and in the DNS, and libpcap leaves it out with IPv6",
        "say what it means: `ether host MAC and not host ADDRESS`",
    ),
    (
        "wrong context|used as an abbreviation",
        "ether fddi tr wlan ppp slip link radio",
        "the name of a link layer alone is no condition",
        'say what of it: `ether host`, `ether proto`, `ether[0]`; for everything, `filter="all"`',
    ),
    (
        "rejects all packets",
        "",
        "no packet can be all of that at once (`tcp and udp`, `ip and ip6`)",
        "`or` instead of `and`, or leave one side out",
    ),
)


def explain(expression: str, message: str, ask: Ask) -> str:
    """Return the text of the exception for an `expression` that libpcap refuses with `message`."""
    words = list(_WORD.finditer(expression))
    cause, remedy = "", "`man pcap-filter` describes the language; `tcpdump -d EXPRESSION` tries one"
    place = None
    for pattern, about, why, instead in _CANNOT:
        if re.search(pattern, message):
            cause, remedy = f"Likely cause: {why}. ", instead
            place = next((w.span() for w in words if w[0] in about.split()), None)
            break
    else:
        place = _place(expression, message, words, ask)
        word = expression[slice(*place)] if place else ""
        if re.fullmatch(r"[A-Za-z]\w*-\d+", word):
            remedy = "a minus sign after a word needs a space before it, because names may have one in them"
        elif word.lower() == "all":
            remedy = '`filter="all"` stands alone, in small letters; "everything but" is `not (...)`, without it'
    shown, caret = _window(expression, place)
    if place:
        return f"libpcap refuses the filter: {message}\n  {shown}\n  {caret}\n{cause}Next step: {remedy}."
    return f"libpcap refuses the filter {shown!r}: {message}. {cause}Next step: {remedy}."


def _place(expression: str, message: str, words: Sequence[re.Match[str]], ask: Ask) -> tuple[int, int] | None:
    """Return where the error is: (start, end) in the expression, both its length where it ends too early."""
    if not words or len(words) > MOST_WORDS:
        return None
    syntax = "syntax error" in message
    named = None if syntax else _named(message, words)
    if named:
        return named
    beginnings = [expression[: word.end()] for word in words]
    # The first answer shows whether this method works with this libpcap.
    texts = [HALF_ADDRESS, *(f"{b} {HALF_ADDRESS}" for b in beginnings)] if syntax else ["", *beginnings]
    answers = ask(texts)
    if answers is None or answers[0] == message:
        return None
    for word, answer in zip(words, answers[1:], strict=True):
        if answer == message:
            return word.span()
    return (len(expression.rstrip()),) * 2 if syntax else None


def _named(message: str, words: Sequence[re.Match[str]]) -> tuple[int, int] | None:
    """Return the place of the first word of the expression that the message names."""
    for found in reversed(list(_QUOTED.finditer(message))):  # "unknown 'ip proto' value 'x'": the last is at fault
        quoted = found[1] or found[2]
        for word in words:
            if quoted == word[0] or (quoted.startswith(f"{word[0]}/") and word.string.startswith(quoted, word.start())):
                return word.start(), word.start() + len(quoted)
    if "must be" in message:  # it names the words that would be right
        return None
    named = {word.strip(".:-/") for word in _NAMED.findall(message)} - _EVERYWHERE
    return next((word.span() for word in words if word[0].strip(".:-/") in named), None)


def _window(expression: str, place: tuple[int, int] | None) -> tuple[str, str]:
    """Return one line of the expression around the place, and a line with the caret under it."""
    line = "".join(c if c.isprintable() else " " for c in expression)
    start, end = place or (0, 0)
    first = 0 if len(line) <= WIDTH else max(0, min(start - WIDTH // 2, len(line) - WIDTH))
    shown = line[first : first + WIDTH]
    before, after = "..." if first else "", "..." if first + WIDTH < len(line) else ""
    under = "^" + "~" * (min(end, first + WIDTH) - start - 1)
    hint = " (it ends too early)" if place and start == end else ""
    return f"{before}{shown}{after}", " " * (start - first + len(before)) + under + hint
