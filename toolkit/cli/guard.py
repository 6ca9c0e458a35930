# SPDX-License-Identifier: Apache-2.0
"""Ask before a filter takes what this host needs: the user's own session, services, connections, ARP.

To find out, libpcap's interpreter runs the filter on frames such as other hosts send.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from toolkit._base.netns import NetNS, entered
from toolkit.cli import guard_services, guard_session
from toolkit.cli.guard_probes import Probe
from toolkit.cli.guard_services import Harm
from toolkit.cli.stop import interruptible
from toolkit.errors import ArgumentError, FilterError
from toolkit.net import sessions

__all__ = ["ask", "harms", "narrower"]

_LONGEST = 200  # characters of a filter in a message
_ROUNDS = 3  # what is left out may uncover something else: without its segments, a session still needs ARP


def ask(
    interface: str | Sequence[str],
    expression: str,
    *,
    netns: NetNS = None,
    assent: bool = False,
    answered: bool = False,
) -> None:
    """Return if this host does not need what the filter takes, or the user wants it: --yes, or yes on a terminal.

    interface: one, or all from which the same filter takes. answered: ARP, neighbour discovery and ping are
    answered in this host's place. ArgumentError if the answer is no, or there is no terminal.
    """
    if assent:
        return
    names = [interface] if isinstance(interface, str) else list(dict.fromkeys(interface))
    with entered(netns):
        found, cut_off = harms(names, expression, answered=answered)
        if not found:
            return
        instead = "" if answered else narrower(names, expression, found)
    shown = expression if len(expression) <= _LONGEST else expression[:_LONGEST] + "..."
    what = "may cut you off" if cut_off else "takes packets that this host needs"
    lines = "\n".join(f"  - {one.text}" for one in found)
    left_out = f"'{instead}' leaves all of them alone" if instead else "leave these packets out of the filter"
    subject = f"the filter {shown!r} on {' and '.join(names)}"
    way_out = f"{left_out}; or take copies (--tee of receive, capture and top)"
    if answered:  # the user did not write that filter
        subject, way_out = f"answering on {names[0]}", "echo UDP at another port (--udp-port; 0: nowhere)"
    if sys.stdin.isatty() and sys.stderr.isatty():
        click.echo(f"xsk: {subject} {what}. It takes:\n{lines}", err=True)
        if instead:
            click.echo(f"     {left_out}.", err=True)
        with interruptible():
            if click.confirm("Go on all the same?", default=False, err=True):
                return
        raise ArgumentError(f"{subject} was not confirmed, so nothing was done. Next step: {way_out}.")
    raise ArgumentError(
        f"{subject} {what}, so nothing was done. It would take:\n{lines}\n"
        f"Next step: {way_out}; or say --yes if it is meant so."
    )


def harms(interfaces: Sequence[str], expression: str, *, answered: bool = False) -> tuple[list[Harm], bool]:
    """Return whom it harms to take what `expression` matches from these interfaces, and whether it is our own session.

    In the calling thread's network namespace.
    """
    probe, ours = Probe(expression), sessions.of_ancestors()
    # Who answers takes no TCP, and no ARP that a session would miss.
    found: list[Harm] = []
    for interface in () if answered else interfaces:
        found += (one for one in guard_session.harms(interface, probe, ours) if one not in found)
    cut_off = bool(found)
    for interface in interfaces:
        for one in guard_services.harms(interface, probe, ours.found, answered=answered):
            if not any(set(one.without) <= set(other.without) for other in found):
                found.append(one)
    return found, cut_off


def narrower(interfaces: Sequence[str], expression: str, found: list[Harm]) -> str:
    """Return a filter without what this host needs, if there is one that leaves something; else ""."""
    terms: dict[str, None] = {}
    for _round in range(_ROUNDS):
        if not all(one.without for one in found):
            return ""
        terms |= dict.fromkeys(term for one in found for term in one.without)
        others = f"not ({' or '.join(terms)})" if len(terms) > 1 else f"not {next(iter(terms))}"
        proposed = others if expression == "all" else f"({expression}) and {others}"
        try:
            found, _ = harms(interfaces, proposed)
        except FilterError:  # the filter would match nothing
            return ""
        if not found:
            return proposed
    return ""
