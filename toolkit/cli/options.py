# SPDX-License-Identifier: Apache-2.0
"""Options that mean the same in every command. A letter has tcpdump's meaning, or is not used; -f is the filter.

`-h` of a command shows the first clause of an option's help, so that clause says what matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import click
import cloup

if TYPE_CHECKING:
    from toolkit.cli.binding import Binding

__all__ = [
    "BATCH",
    "COUNT",
    "EXTRA",
    "FILTER",
    "HEX",
    "INTERVAL",
    "JSON",
    "JSON_REPORT",
    "LEAVE_CHECKSUMS",
    "NETNS",
    "NO_NAMES",
    "ON_MATCH",
    "SAMPLING",
    "SECONDS",
    "TEE",
    "YES",
    "Number",
    "binding_from",
    "how_to_bind",
    "how_to_receive",
    "namespace",
    "where",
]

Option = Callable[[Any], Any]


class Number(click.FloatRange):
    """A number within bounds: "nan" is in none, and "inf" is no number of seconds or packets."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return it as a float, or refuse it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


# --- what to take -----------------------------------------------------------------------------------------------------

FILTER = cloup.option(
    "-f",
    "--filter",
    "expression",
    metavar="EXPRESSION",
    help="The filter, where it does not stand behind the interface.",
)
ON_MATCH = cloup.option(
    "--on-match",
    type=click.Choice(["redirect", "drop", "count"]),
    default="redirect",
    show_default=True,
    help="What becomes of packets that match: they come here; the driver drops them; they are counted and go on.",
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
    cloup.option(
        "--sample",
        metavar="N",
        default="1",
        callback=_sample,
        help="Act on one of N matching packets, at random (100, or 1/100); the others go on to the kernel.",
    ),
    cloup.option(
        "-s",
        "--snaplen",
        metavar="BYTES",
        type=click.IntRange(0),
        callback=_snaplen,
        help="Cut packets to this length, 14 or more; 0: do not cut.",
    ),
)
TEE = cloup.option(
    "--tee",
    is_flag=True,
    help="Get copies, so that the kernel gets the packets as well; this costs some speed. Copies that find no room "
    "are lost, and counted. Not with --zero-copy, --busy-poll, --spin or --workers.",
)
YES = cloup.option(
    "--yes", is_flag=True, help="Do not ask before taking what this host needs; for scripts (`xsk help taking`)."
)

# --- what to show, and when to stop -----------------------------------------------------------------------------------

HEX = cloup.option(
    "-x",
    "--hex",
    "dump",
    is_flag=True,
    help="Show each packet with its time, decoded, and its bytes in hex; with --json as JSON.",
)
COUNT = cloup.option("-c", "--count", metavar="N", type=click.IntRange(min=1), help="Stop after this many packets.")
SECONDS = cloup.option(
    "--seconds", metavar="S", type=Number(min=0, min_open=True), help="Stop after this many seconds."
)
INTERVAL = cloup.option(
    "--interval", metavar="S", type=Number(min=0.05), default=1.0, show_default=True, help="Seconds between two lines."
)
EXTRA = cloup.option("--extra", is_flag=True, help="With each line: what the kernel dropped since the last, and why.")
JSON_REPORT = cloup.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object at the end, in place of text."
)
JSON = cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of text.")
NO_NAMES = cloup.option(
    "-n",
    "no_names",
    count=True,
    expose_value=False,
    help="Do not turn addresses into names; never done here, but -n and -nn are understood.",
)

# --- where, and how ---------------------------------------------------------------------------------------------------

GIVEN = cloup.option(
    "-i",
    "--interface",
    "given",
    metavar="INTERFACE",
    help="The interface, as tcpdump has it: in place of the first word.",
)
NETNS = cloup.option(
    "--netns", metavar="NAME", help="Network namespace of the interface: a name of `ip netns`, a path, or a pid."
)
LEAVE_CHECKSUMS = cloup.option(
    "--leave-checksums",
    is_flag=True,
    help="Send every byte as it came: do not finish checksums that the sender left to its device.",
)
BATCH = cloup.option(
    "--batch-size", metavar="N", type=click.IntRange(1, 1 << 16), help="Packets to take at a time, at most."
)
_QUEUES = cloup.option(
    "--queue", "queues", metavar="N", type=click.IntRange(min=0), multiple=True, help="Only this queue (repeatable)."
)
_ATTACHING = (
    cloup.option("--native", "mode", flag_value="native", help="Insist on native XDP (in the driver)."),
    cloup.option("--generic", "mode", flag_value="generic", help="Use generic XDP (after the driver, slower)."),
    cloup.option(
        "--replace",
        is_flag=True,
        help="Take the place of an XDP program that is attached already, a firewall say; it is put back at the end.",
    ),
    cloup.option(
        "--replace-link",
        is_flag=True,
        help="The same with a program that a link holds, which cannot be put back.",
    ),
)
_PROMISC = cloup.option(
    "--promisc",
    is_flag=True,
    help="Have the NIC bring packets to all addresses, not to its own and to groups only; ends with the command.",
)
_WAITING = (
    cloup.option("--poll", "wait", flag_value="poll", help="Sleep until packets come (this is the default)."),
    cloup.option("--busy-poll", "wait", flag_value="busy-poll", help="Have the driver poll for packets; takes a core."),
    cloup.option("--spin", "wait", flag_value="spin", help="Poll the rings without a pause; takes a core."),
)
_BINDING = (
    cloup.option("--zero-copy", "zero_copy", flag_value="yes", help="Insist on zero-copy."),
    cloup.option("--copy", "zero_copy", flag_value="no", help="Use copy mode."),
    cloup.option(
        "--no-need-wakeup",
        is_flag=True,
        help="Bind without need_wakeup: wake the kernel each time, asked for or not (slower).",
    ),
    cloup.option(
        "--ring-size",
        metavar="N",
        type=click.IntRange(min=1),
        help="Entries of each ring, a power of two; with --tee, of slots for copies.",
    ),
)


def where(*, queues: bool = True) -> Option:
    """Return the section that says on which interface."""
    options = [GIVEN, *([_QUEUES] if queues else []), NETNS]
    return cloup.option_group("Which interface", *options)


def how_to_receive(*more: Option, promisc: Option = _PROMISC) -> Option:
    """Return the section of commands that take packets, or copies of them. promisc: the option of that name."""
    return cloup.option_group("How to receive", *_ATTACHING, promisc, *_WAITING, *_BINDING, *more)


def how_to_bind(*more: Option) -> Option:
    """Return the section of commands that open a socket to send only."""
    return cloup.option_group("How to send", *more, *_BINDING)


def namespace(given: str | None) -> int | str | None:
    """Return what --netns names: digits are a pid, anything else a name or a path."""
    return int(given) if given is not None and given.isascii() and given.isdigit() else given


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
        queues=options.pop("queues", ()) or "all",
        mode=options.pop("mode", None) or "auto",
        zero_copy=_ZERO_COPY[options.pop("zero_copy")],
        wait=options.pop("wait", None) or "poll",
        need_wakeup=not options.pop("no_need_wakeup"),
        ring_size=options.pop("ring_size"),
        replace="link" if replace_link else replace,
        promisc=bool(options.pop("promisc", False)),
        netns=namespace(options.pop("netns")),
        on_match=options.pop("on_match", "redirect"),
        sample=options.pop("sample", 1),
        snaplen=options.pop("snaplen", None),
        yes=options.pop("yes", False),
    )
