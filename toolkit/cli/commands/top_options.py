# SPDX-License-Identifier: Apache-2.0
"""The command top: options and help only; the work is in toolkit.cli.commands.top."""

from __future__ import annotations

import sys
from typing import Any

import click

from toolkit.cli.options import FILTER, binding_from, options_of, says_unseen, taking

__all__ = ["COMMANDS"]


@click.command(short_help="Take packets (--tee: copies of them) and show whose they are: flows, hosts, ports.")
@click.argument("interface")
@options_of(
    FILTER,
    click.option(
        "--group",
        type=click.Choice(["flow", "source", "destination", "port", "protocol"]),
        default="flow",
        show_default=True,
        help="What to count by; a port is the lower of the two.",
    ),
    click.option(
        "--by", type=click.Choice(["bytes", "packets"]), default="bytes", show_default=True, help="What to sort by."
    ),
    click.option("--rows", type=click.IntRange(min=1), help="How many to show. [what fits the terminal; else 5]"),
    click.option(
        "--max-flows",
        type=click.IntRange(16, 1 << 24),
        default=1 << 16,
        show_default=True,
        help="How many to remember; then those that were idle longest make room.",
    ),
    *taking(),
)
@says_unseen
def top(interface: str, **options: Any) -> None:
    """TAKE packets from INTERFACE, so that this host does not get them, and show whose they are; with --tee copies.

    Rate and share of the last interval, and totals. --sample 1/100 leaves most packets alone; figures and shares are
    then those of the sample. ASKS With --tee it need not.

    UNSEEN

    On a terminal: a table, and keys: q quits; p and b sort by packets and by bytes; f, s, d, o and r group by flow,
    source, destination, port and protocol (counted from then on). Elsewhere: lines. At the end the counters are
    reconciled: received + dropped = redirected.

    \b
    xsk top eth0 -f all --tee
    xsk top eth0 -f 'not port 22' --tee --group source --by packets
    xsk top eth0 -f 'udp' --tee --seconds 10 --json
    xsk top eth0 -f 'udp port 4789'                        taken: nobody else gets them
    xsk top eth0 -f 'tcp' --sample 1/100 --group port      one of a hundred is taken
    """
    from toolkit.cli.commands.top import run

    sys.exit(run(interface, binding_from(options), **options))


COMMANDS = (top,)
