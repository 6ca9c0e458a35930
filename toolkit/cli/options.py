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
    "COUNT",
    "EXTRA",
    "FILTER",
    "HEX",
    "INTERVAL",
    "JSON",
    "LEAVE_CHECKSUMS",
    "NETNS",
    "NO_NAMES",
    "ON_MATCH",
    "SAMPLING",
    "SECONDS",
    "TEE",
    "YES",
    "Number",
    "batch_size",
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
            self.fail(f"{value!r} is not a finite number. Next step: give one such as 10.", param, ctx)
        return number


# --- what to take -----------------------------------------------------------------------------------------------------

FILTER = cloup.option(
    "-f",
    "--filter",
    "expression",
    metavar="EXPRESSION",
    help="The filter, in place of words behind the interface.",
)
ON_MATCH = cloup.option(
    "--on-match",
    type=click.Choice(["redirect", "drop", "count"]),
    default="redirect",
    show_default=True,
    help="What becomes of packets that match. redirect: they come here; drop: the driver drops them; count: they are "
    "counted, and the kernel gets them.",
)


def _sample(context: click.Context, option: click.Parameter, value: str) -> float:
    """How many of the matching packets: "100" and "1/100" both mean one of a hundred, so does "0.01"."""
    try:
        above, _, below = value.partition("/")
        number = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        number = 0.0
    if not 2**-32 <= number <= 2**32:
        raise click.BadParameter(
            f"{value!r} is not a sample. Next step: give N, for one packet of N, or a share such as 1/N."
        )
    return number


def _snaplen(context: click.Context, option: click.Parameter, value: int | None) -> int | None:
    """How many bytes; None for all, which is 0 in tcpdump."""
    if value is not None and 0 < value < 14:
        raise click.BadParameter(
            f"{value} is less than an Ethernet header. Next step: give 14 bytes or more, or 0 for all."
        )
    return value or None


SAMPLING = (
    cloup.option(
        "--sample",
        metavar="N",
        default="1",
        callback=_sample,
        help="Act on one of N matching packets, at random (100, or 1/100). The others go on to the kernel.",
    ),
    cloup.option(
        "-s",
        "--snaplen",
        metavar="BYTES",
        type=click.IntRange(0),
        callback=_snaplen,
        help="Cut packets to this length, 14 or more. 0 does not cut.",
    ),
)
TEE = cloup.option(
    "--tee",
    is_flag=True,
    help="Get copies, so that the kernel gets the packets as well; this costs some speed. Copies for which there is no "
    "room are lost, and counted. Not with --zero-copy, --busy-poll, --spin or --workers.",
)
YES = cloup.option(
    "--yes", is_flag=True, help="Do not ask before taking what this host needs, in a script say (`xsk help taking`)."
)

# --- what to show, and when to stop -----------------------------------------------------------------------------------

HEX = cloup.option(
    "-x",
    "--hex",
    "dump",
    is_flag=True,
    help="Show each packet: time, decoded headers, bytes in hex; with --json as JSON.",
)
COUNT = cloup.option("-c", "--count", metavar="N", type=click.IntRange(min=1), help="Stop after this many packets.")
SECONDS = cloup.option(
    "--seconds", metavar="S", type=Number(min=0, min_open=True), help="Stop after this many seconds."
)
INTERVAL = cloup.option(
    "--interval", metavar="S", type=Number(min=0.05), default=1.0, show_default=True, help="Seconds between two lines."
)
EXTRA = cloup.option("--extra", is_flag=True, help="Show what the kernel dropped since the last line, and why.")
JSON = cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of text.")
NO_NAMES = cloup.option(
    "-n",
    "no_names",
    count=True,
    expose_value=False,
    help="Accepted, as in tcpdump -n and -nn: addresses are never turned into names here.",
)

# --- where, and how ---------------------------------------------------------------------------------------------------

GIVEN = cloup.option(
    "-i",
    "--interface",
    "given",
    metavar="INTERFACE",
    help="The interface, in place of the first word.",
)
NETNS = cloup.option(
    "--netns", metavar="NAME", help="Network namespace of the interface: a name of `ip netns`, a path, or a pid."
)
LEAVE_CHECKSUMS = cloup.option(
    "--leave-checksums",
    is_flag=True,
    help="Leave every byte as it came. Without this, checksums that the sender left to its device are finished.",
)
_QUEUES = cloup.option(
    "--queue", "queues", metavar="N", type=click.IntRange(min=0), multiple=True, help="Only this queue (repeatable)."
)
_ATTACHING = (
    cloup.option("--native", "mode", flag_value="native", help="Insist on native XDP, in the driver."),
    cloup.option("--generic", "mode", flag_value="generic", help="Use generic XDP, after the driver: slower."),
    cloup.option(
        "--replace",
        is_flag=True,
        help="Take the place of an XDP program that is attached already, a firewall say. It is put back at the end.",
    ),
    cloup.option(
        "--replace-link",
        is_flag=True,
        help="As --replace, also of a program that a link holds, which cannot be put back.",
    ),
)
_PROMISC = cloup.option(
    "--promisc",
    is_flag=True,
    help="Make the NIC let in packets to all addresses, until the command ends. Without this it lets in those to its "
    "own address and to groups.",
)
_WAITING = (
    cloup.option("--poll", "wait", flag_value="poll", help="Sleep until packets come; this is the default."),
    cloup.option(
        "--busy-poll", "wait", flag_value="busy-poll", help="Make the driver poll for packets; takes a whole core."
    ),
    cloup.option("--spin", "wait", flag_value="spin", help="Poll the rings without a pause; takes a whole core."),
)
_BINDING = (
    cloup.option("--zero-copy", "zero_copy", flag_value="yes", help="Insist on zero-copy."),
    cloup.option("--copy", "zero_copy", flag_value="no", help="Use copy mode."),
    cloup.option(
        "--no-need-wakeup",
        is_flag=True,
        help="Wake the kernel at each batch, not only when it asks for that; slower.",
    ),
    cloup.option(
        "--ring-size",
        metavar="N",
        type=click.IntRange(min=1),
        help="Entries of each ring, a power of two; with --tee, the number of slots for copies.",
    ),
)


def batch_size(default: int | None = None) -> Option:
    """Return the option --batch-size, shown with its default if there is one."""
    return cloup.option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(1, 1 << 16),
        default=default,
        show_default=default is not None,
        help="Packets of one batch, at most.",
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
        raise click.UsageError(
            "--tee copies packets and sleeps in between, so it cannot have --zero-copy, --busy-poll or --spin. Next "
            "step: leave them out."
        )
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
