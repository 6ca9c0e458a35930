# SPDX-License-Identifier: Apache-2.0
"""The command capture: options and help only; the work is in toolkit.cli.commands.capture."""

from __future__ import annotations

import sys
from typing import Any

import click

from toolkit.cli.options import COPY_LONG, Number, binding_from, options_of, says_unseen, taking

__all__ = ["COMMANDS"]

_UNITS = {"": 1_000_000, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}  # as tcpdump -C has them


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a size in millions of bytes, or with k, m or g in units of 1024; bytes."""
    if value is None:
        return None
    unit = value[-1:].lower() if value[-1:].isalpha() else ""
    try:
        size = int(float(value[: len(value) - len(unit)]) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise click.BadParameter(f"{value!r} is not a size: 10 (million bytes), 64k, 10m, 1g", ctx, param)
    return size


def _mode(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read permission bits in octal; which of them make sense, Capture knows."""
    if value is None:
        return None
    try:
        return int(value, 8)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a mode: 600, 640, 644", ctx, param) from None


@click.command(short_help="Take packets (--tee: copies of them) into a file: pcapng, pcap or Parquet.")
@click.argument("interface")
@click.argument("expression", nargs=-1)
@options_of(
    click.option("-w", "--write", "file", metavar="FILE", required=True, help="Write to this file; - for stdout."),
    click.option("-c", "--count", type=click.IntRange(min=1), help="Stop after this many packets."),
    click.option(
        "-C",
        "--rotate-size",
        metavar="SIZE",
        callback=_size,
        help="Next file after so many million bytes (or 64k, 10m, 1g).",
    ),
    click.option("-G", "--rotate-seconds", type=Number(min=0, min_open=True), help="Next file after so many seconds."),
    click.option(
        "-W", "--files", type=click.IntRange(min=1), help="With -C: so many files in turn; with -G: stop after so many."
    ),
    click.option("--pcap", is_flag=True, help="Write classic pcap (with nanoseconds), which cannot tell losses."),
    click.option("--compress", type=click.Choice(["gzip", "zstd"]), help="[what the suffix says: .gz, .zst]"),
    click.option("--force", is_flag=True, help="Replace files that exist."),
    click.option(
        "--mode",
        "file_mode",
        metavar="BITS",
        callback=_mode,
        help="Who may read the files, as chmod has it.  [600; 640 with --group]",
    ),
    click.option("--group", metavar="NAME", help="The files' group, which may read them unless --mode says otherwise."),
    click.option(
        "--buffer",
        metavar="SIZE",
        callback=_size,
        help="What may wait in memory for the disk: so many million bytes (or 512m, 1g).  "
        "[a 64th of the memory that it may have, 64m to 256m; a quarter of what is free, if that is less]",
    ),
    *taking(COPY_LONG),
)
@says_unseen
def capture(interface: str, expression: tuple[str, ...], **options: Any) -> None:
    """TAKE the packets of INTERFACE that match, so that this host does not get them, into a file; with --tee copies.

    EXPRESSION is tcpdump's, or 'all'. AF_XDP diverts what it captures; all other packets go on to the kernel
    untouched. ASKS With --tee it need not.

    UNSEEN

    FILE is pcapng, or by its suffix .pcap or .parquet; .gz or .zst behind that compresses. With a slash behind it, as
    packets/, it is a directory: a Parquet dataset, in files by date and hour. A single x.parquet can be read only once
    it is closed. Parquet needs the package pyarrow, and .zst before Python 3.14 the package zstandard.

    Times are those of arrival, in nanoseconds; a packet without one carries that of its receipt, and these are counted.
    A pcapng file tells itself whether it is whole: each second, and at its end, what was received and dropped until
    then. When the disk is too slow, packets are dropped here, and counted. Packets of several queues are in order of
    time within each queue only: `reordercap` sorts a file, `-q 0` takes one queue.

    Only their owner can read the files (0600, whatever the umask), unless --mode or --group says more. A file is never
    written through a symbolic link, nor into a block device or another user's FIFO; what has the name already is
    replaced with --force only. So a directory that others may write to, such as /tmp, is safe for what is elsewhere;
    there, others can still remove or rename what you capture.

    With -w -, stdout gets packets only: all else, the object of --json too, goes to stderr. If FILE is a FIFO, nothing
    is taken from INTERFACE until somebody reads it.

    -C, -G and -W are tcpdump's: with -C, files after the first are FILE1, FILE2, ...; with -G, FILE holds a time as in
    'eth0-%H%M%S.pcapng' (strftime, local time). While that time reads the same, the capture goes on in the same file; a
    name that comes again later is written over: with %H%M each day, and an hour when summer time ends (%s never).

    \b
    xsk capture eth0 udp port 53 --tee -w dns.pcapng
    xsk capture eth0 'tcp and host 192.0.2.7' --tee -w - | tcpdump -r - -n
    xsk capture eth0 all --tee -w all.pcapng.zst --seconds 60
    xsk capture eth0 icmp --tee -w ping.pcap -c 100 -s 128
    xsk capture eth0 all --tee --sample 1/1000 -w flows.parquet
    xsk capture eth0 udp port 9 -w taken.pcapng            nobody else gets these
    xsk capture eth0 udp --tee -w ring.pcapng -C 100 -W 10
    xsk capture eth0 udp --tee -w 'udp-%Y%m%d-%H%M.pcapng' -G 60
    """
    if not expression:
        raise click.UsageError("say what to take: an expression such as 'udp port 53', or 'all' for everything.")
    from toolkit.cli.commands.capture import FileTarget, run

    names = ("file", "rotate_size", "rotate_seconds", "files", "pcap", "compress", "force", "buffer")
    target = FileTarget(
        **{name: options.pop(name) for name in names}, mode=options.pop("file_mode"), group=options.pop("group")
    )
    sys.exit(run(interface, " ".join(expression), binding_from(options), target, **options))


COMMANDS = (capture,)
