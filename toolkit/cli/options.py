# SPDX-License-Identifier: Apache-2.0
"""Options that mean the same in every command. The letters are xdpsock's where they coincide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from toolkit.cli.binding import Binding

__all__ = [
    "ASKS",
    "BATCH",
    "COPY",
    "COPYING",
    "COPY_LONG",
    "EXTRA",
    "FILTER",
    "FILTERING",
    "INTERVAL",
    "JSON",
    "LEAVE_CHECKSUMS",
    "ON_MATCH",
    "RECEIVING",
    "SAMPLING",
    "SECONDS",
    "TEE",
    "UNSEEN",
    "YES",
    "Number",
    "binding_from",
    "namespace",
    "options_of",
    "says_unseen",
    "taking",
]

ASKS = (
    "Before a filter takes what this host needs, the command asks (without a terminal it wants --yes): packets to a "
    "listening TCP or bound UDP socket or of a connection, the SSH session that you are typing in first of all, ARP, "
    "neighbour discovery, DNS answers. The question names them, and a filter that leaves them alone."
)
UNSEEN = (
    "The filter runs in the driver. It sees packets that arrive, not those that this host sends; VLAN tags that the "
    "NIC strips are invisible to it, and later fragments of a datagram carry no ports (docs/filters.md has all of it)."
)

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number within bounds: "nan" is in none, and "inf" is no number of seconds or packets."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it as a float, or refuse it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


FILTER = click.option(
    "-f", "--filter", "expression", help="What to take: a tcpdump expression, or 'all' for everything."
)
ON_MATCH = click.option(
    "--on-match",
    type=click.Choice(["redirect", "drop", "count"]),
    default="redirect",
    show_default=True,
    help="What becomes of what the filter matches: it comes here; the driver drops it; it is counted and goes on.",
)


def _sample(context: click.Context, option: click.Parameter, value: str) -> float:
    """How many of the matching packets: "100" and "1/100" both mean one of a hundred, so does "0.01"."""
    try:
        above, _, below = value.partition("/")
        number = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        number = 0.0
    if not 2**-32 <= number <= 2**32:
        raise click.BadParameter(f"{value!r} is neither N, for one packet of N, nor a share such as 1/N.")
    return number


def _snaplen(context: click.Context, option: click.Parameter, value: int | None) -> int | None:
    """How many bytes; None for all, which is 0 in tcpdump."""
    if value is not None and 0 < value < 14:
        raise click.BadParameter(f"{value} is less than an Ethernet header, 14 bytes.")
    return value or None


SAMPLING = (
    click.option(
        "--sample",
        metavar="N",
        default="1",
        callback=_sample,
        help="Of what matches, act on one packet of N (100, or 1/100), at random; the rest goes on to the kernel.",
    ),
    click.option(
        "-s",
        "--snaplen",
        type=click.IntRange(0),
        callback=_snaplen,
        help="Deliver the first so many bytes of each packet, 14 or more; 0: all of them.",
    ),
)
YES = click.option(
    "--yes", is_flag=True, help="Take it even if this host needs it: do not ask (see above); for scripts."
)
TEE = click.option(
    "--tee",
    is_flag=True,
    help="Look at copies: the kernel gets the packets as well, at some cost of speed. Copies that find no room are "
    "lost and counted. Not with -z, -B, --spin or --workers.",
)
FILTERING = (ON_MATCH, *SAMPLING, YES)  # for commands whose filter may do more than take
BATCH = click.option("-b", "--batch-size", type=click.IntRange(1, 1 << 16), help="Packets to take at a time, at most.")
SECONDS = click.option("--seconds", type=Number(min=0, min_open=True), help="Stop after this many seconds.")
INTERVAL = click.option(
    "-n", "--interval", type=Number(min=0.05), default=1.0, show_default=True, help="Seconds between live lines."
)
EXTRA = click.option("-x", "--extra", is_flag=True, help="With each live line: the kernel's six drop counters.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing else.")
LEAVE_CHECKSUMS = click.option(
    "--leave-checksums",
    is_flag=True,
    help="Do not finish checksums that the sender left to its device; send every byte as it came.",
)
COPY = click.option("-c", "--copy", "zero_copy", flag_value="no", help="Force copy mode.")
COPY_LONG = click.option("--copy", "zero_copy", flag_value="no", help="Force copy mode.")  # where -c is --count

# For commands that take packets, and for all that open a socket.
RECEIVING = (
    click.option(
        "-q", "--queue", "queues", type=click.IntRange(min=0), multiple=True, help="Only this queue (repeatable)."
    ),
    click.option("-N", "--native", "mode", flag_value="native", help="Insist on native XDP (in the driver)."),
    click.option("-S", "--generic", "mode", flag_value="generic", help="Use generic XDP (after the driver, slower)."),
    click.option(
        "--replace",
        is_flag=True,
        help="Take the place of an XDP program that is attached already, a firewall say; it is put back at the end.",
    ),
    click.option(
        "--replace-link",
        is_flag=True,
        help="The same with a program that somebody's link holds, which cannot be put back.",
    ),
    click.option("-p", "--poll", "wait", flag_value="poll", help="Sleep until packets come (this is the default)."),
    click.option(
        "-B", "--busy-poll", "wait", flag_value="busy-poll", help="Have the driver look for packets; takes a core."
    ),
    click.option("--spin", "wait", flag_value="spin", help="Look at the rings without a pause; takes a core."),
)
COPYING = (
    click.option("-z", "--zero-copy", "zero_copy", flag_value="yes", help="Insist on zero-copy."),
    click.option(
        "-m",
        "--no-need-wakeup",
        is_flag=True,
        help="Bind without need_wakeup: wake the kernel each time, asked for or not (slower).",
    ),
    click.option(
        "--ring-size",
        type=click.IntRange(min=1),
        help="Entries of each ring, a power of two; with --tee, of slots for copies.",
    ),
    click.option("--netns", help="Network namespace of the interface: a name of `ip netns`, a path, or a pid."),
)


def taking(copy: Callable[[Any], Any] = COPY) -> tuple[Callable[[Any], Any], ...]:
    """Return the options of a command that takes packets, or copies of them, to look at; as --help shows them.

    copy: COPY_LONG where -c is something else.
    """
    return (TEE, *SAMPLING, YES, *RECEIVING, copy, *COPYING, SECONDS, INTERVAL, JSON)


def options_of(*options: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    """Apply options so that --help shows them in this order."""

    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def namespace(given: str | None) -> int | str | None:
    """Return what --netns names: digits are a pid, anything else a name or a path."""
    return int(given) if given is not None and given.isascii() and given.isdigit() else given


def says_unseen(command: Decorated) -> Decorated:
    """Put UNSEEN and ASKS where the help text has those lines. Below click's decorator, which reads the text."""
    command.__doc__ = (command.__doc__ or "").replace("UNSEEN", UNSEEN).replace("ASKS", ASKS)
    return command


_ZERO_COPY: dict[str | None, bool | Literal["auto"]] = {None: "auto", "yes": True, "no": False}


def binding_from(options: dict[str, Any]) -> Binding:
    """Take out of `options` what says how to bind."""
    from toolkit.cli.binding import Binding

    replace, replace_link = options.pop("replace", False), options.pop("replace_link", False)
    tee = options.pop("tee", False)
    if tee and (options["zero_copy"] == "yes" or options.get("wait") not in (None, "poll")):
        raise click.UsageError("--tee copies packets and sleeps in between: no --zero-copy, --busy-poll or --spin.")
    return Binding(
        tee=tee,
        queues=options.pop("queues", ()),
        mode=options.pop("mode", None) or "auto",
        zero_copy=_ZERO_COPY[options.pop("zero_copy")],
        wait=options.pop("wait", None) or "poll",
        need_wakeup=not options.pop("no_need_wakeup"),
        ring_size=options.pop("ring_size"),
        replace="link" if replace_link else replace,
        netns=namespace(options.pop("netns")),
        on_match=options.pop("on_match", "redirect"),
        sample=options.pop("sample", 1),
        snaplen=options.pop("snaplen", None),
        yes=options.pop("yes", False),
    )
