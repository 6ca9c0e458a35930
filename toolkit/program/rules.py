# SPDX-License-Identifier: Apache-2.0
"""Rule: what an XDP program does with which packets; as text for users, and as C for the compiler."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from toolkit._base.arguments import cannot_be, whole
from toolkit.errors import ArgumentError

__all__ = ["Action", "Filtering", "Rule", "RuleCounters", "as_line", "generate", "plain"]

Action = Literal["redirect", "drop", "count", "pass"]

SHORTEST = 14  # bytes: bpf_xdp_adjust_tail leaves at least an Ethernet header
_ALL = 1 << 32  # the number of values of bpf_get_prandom_u32()


@dataclass(frozen=True)
class Rule:
    """The action for packets that `filter` matches. Of several rules the first that matches takes a packet. Immutable.

    filter: a tcpdump expression, or "all".
    action: "redirect" to the AF_XDP socket of the queue that the packet arrived on; "drop" it; "count" it and let it
    go on to the kernel; or "pass": let it go on, whatever later rules say.
    sample: act on one of N, 100 for 1 in 100 (or 1/100, the share); each packet is chosen by a random number of
    its own, so that nothing periodic in the traffic shows. The others go on to the kernel, and no later rule is asked.
    snaplen: deliver at most this many bytes (14 or more); Batch.wire_lengths has the full lengths.
    queue: only packets that arrived on this queue. No rule can move a packet to the socket of another queue: the kernel
    delivers to sockets of its own queue only. `Batch.rule_numbers` has the rule of each packet.

    ArgumentError for values that are not possible.
    """

    filter: str
    action: Action = "redirect"
    sample: float = 1
    snaplen: int | None = None
    queue: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.filter, str):
            raise cannot_be("filter", self.filter, 'a tcpdump expression as text, or "all"')
        if not isinstance(self.action, str) or self.action not in get_args(Action):
            raise ArgumentError(
                f"a rule cannot {self.action!r} packets. Next step: take one of {', '.join(get_args(Action))}."
            )
        _ = self.share  # the property checks `sample`
        if self.snaplen is not None:
            if self.action != "redirect":
                raise ArgumentError(
                    f"snaplen is for packets that are redirected: those of {self} are not. "
                    "Next step: leave snaplen out."
                )
            if not SHORTEST <= whole("snaplen", self.snaplen) < 1 << 31:
                raise ArgumentError(
                    f"a snaplen of {self.snaplen} B is not possible: an Ethernet header, {SHORTEST} B, is left."
                    " Next step: `snaplen=64` has the headers of most packets in it."
                )
        if self.queue is not None:
            whole("queue", self.queue, 0, _ALL - 1)

    @property
    def share(self) -> int:
        """How many of 2**32 matching packets are acted on, on average; 0 for all."""
        value: Any = self.sample  # whatever was given
        number = float("nan")
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                number = float(value)  # NumPy's small types do not hold 2**32, and a Fraction does not print
        if not 1 / _ALL <= number <= _ALL:
            raise cannot_be("sample", value, "N, for one of N packets, or a share such as 1/N")
        if number == 1:
            return 0
        return max(int(_ALL * number if number < 1 else _ALL / number), 1)

    def __str__(self) -> str:
        """Return the expression, with the options that are not the defaults in brackets."""
        notes: list[str] = [self.action] if self.action != "redirect" else []
        if self.share:
            number = float(self.sample)
            notes.append(f"1 of {1 / number if number < 1 else number:g}")
        if self.snaplen is not None:
            notes.append(f"first {self.snaplen} B")
        if self.queue is not None:
            notes.append(f"queue {self.queue}")
        return f"{self.filter} [{', '.join(notes)}]" if notes else self.filter


class RuleCounters(NamedTuple):
    """The counters of one rule so far, summed over the CPUs: packets, and bytes in `bytes`.

    packets = redirected + no_socket + dropped + counted + passed + sampled_out, when no packet is being processed.
    """

    rule: str  # str(Rule)
    packets: int  # that the rule took
    bytes: int  # of them, as they arrived
    redirected: int  # handed to a socket
    no_socket: int  # to be redirected, but no socket was there: on to the kernel
    dropped: int
    counted: int
    passed: int  # by a rule whose action is "pass"
    sampled_out: int  # not in the sample: on to the kernel


def plain(rules: Sequence[Rule]) -> bool:
    """Return whether match() alone is enough: one rule that redirects all packets, whole."""
    return len(rules) == 1 and rules[0] == Rule(rules[0].filter)


@dataclass(frozen=True)
class Filtering:
    """The filter options of toolkit.open(), tee(), Workers, Program.build() and the command, checked: the rules meant.

    What `of` takes is what all of them take.
    """

    rules: tuple[Rule, ...]

    @classmethod
    def of(
        cls,
        filter: str | None = None,
        rules: Iterable[Rule] | None = None,
        on_match: Action = "redirect",
        sample: float = 1,
        snaplen: int | None = None,
    ) -> Filtering:
        """Return the rules given, or the one that `filter` (by default "all") and the others make.

        ArgumentError for both, and for what Rule refuses.
        """
        one = Rule("all" if filter is None else filter, on_match, sample, snaplen)  # checks them
        if rules is None:
            return cls((one,))
        if filter is not None or one != Rule("all"):
            raise ArgumentError(
                "filter, on_match, sample and snaplen make one rule, and cannot be given beside rules=. Next step: "
                "give them to each Rule."
            )
        given = () if isinstance(rules, str | bytes) or not isinstance(rules, Iterable) else tuple(rules)
        listed = tuple(Rule(each) if isinstance(each, str) else each for each in given)
        if not listed or not all(isinstance(each, Rule) for each in listed):
            raise cannot_be("rules", rules, 'a list such as [Rule("udp"), Rule("tcp", action="drop")]')
        return cls(listed)

    def __str__(self) -> str:
        """Return the rules in a line, for people."""
        return as_line(self.rules)


def as_line(rules: Sequence[Rule]) -> str:
    """Return the rules as one line of text: only the expression for a plain filter."""
    return "; ".join(map(str, rules))


def generate(rules: Sequence[Rule], *, frags: bool = False) -> str:
    """Return the C text of decide(), and of a match_N() for each rule that has an expression. Raises FilterError.

    frags: as for translate().
    """
    from toolkit.filter.translate import translate

    matches = [
        translate(rule.filter, f"match_{i}", frags=frags) for i, rule in enumerate(rules) if rule.filter != "all"
    ]
    lines = [line for i, rule in enumerate(rules) for line in _case(i, rule)]
    if any(rule.queue is not None for rule in rules):
        # Read once: for two such loads clang computes ctx + 16 first, which the verifier refuses.
        lines = ["\tu32 queue = ctx->rx_queue_index;", '\tasm volatile("" : "+r"(queue));', *lines]
    return "\n".join(
        [
            f"#define XSK_RULES {len(rules)}",
            '#include "xsk_rules.h"',
            *matches,
            "static __always_inline struct decision decide(struct xdp_md *ctx)",
            "{",
            *lines,
            "\treturn (struct decision){ .rule = XSK_RULES, .action = RULE_PASS };",
            "}",
            "",
        ]
    )


def _case(number: int, rule: Rule) -> list[str]:
    conditions = [] if rule.queue is None else [f"queue == {int(rule.queue)}u"]
    if rule.filter != "all":
        conditions.append(f"match_{number}(ctx)")
    values = f".rule = {number}, .action = RULE_{rule.action.upper()}"
    if rule.share:
        values += f", .share = {rule.share}u"
    if rule.snaplen is not None:
        values += f", .snaplen = {int(rule.snaplen)}"
    decision = f"\treturn (struct decision){{ {values} }};"
    return [f"\tif ({' && '.join(conditions)})", "\t" + decision] if conditions else [decision]
