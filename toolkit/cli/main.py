# SPDX-License-Identifier: Apache-2.0
"""`xsk`: the commands, their options, and how errors reach a person. What they do is in modules of their own."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from typing import Any

import click

from toolkit.cli.commands import capture_options as capturing
from toolkit.cli.commands import moving_options as moving
from toolkit.cli.commands import top_options as watching
from toolkit.cli.options import (
    COPY_LONG,
    COPYING,
    FILTER,
    FILTERING,
    INTERVAL,
    JSON,
    RECEIVING,
    SECONDS,
    TEE,
    Number,
    binding_from,
    options_of,
    says_unseen,
)
from toolkit.cli.spelling import message_of, spelled
from toolkit.cli.stop import forget_inherited
from toolkit.errors import ToolkitError

__all__ = ["main"]

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_HELP = """AF_XDP from the command line: packets from the network driver straight to this program.

An XDP program, compiled for your filter, runs in the driver. Packets that match are redirected to an AF_XDP socket,
into memory that the kernel and this process share; all others go on to the kernel as if nothing were there. Redirected
packets do NOT reach the kernel: whatever you take from an interface, its usual receiver does not get. With --tee,
`receive`, `capture` and `top` look at copies instead, and the kernel gets everything.

Look, which harms nobody:

\b
  xsk demo                                       see it work, on a private network made for the purpose
  xsk receive eth0 --filter 'udp' --tee          count copies of packets: packets/s, bits/s, drops
  xsk receive eth0 --filter 'icmp' --tee -x -c 3 show three pings, decoded and in hex
  xsk capture eth0 udp port 53 --tee -w dns.pcapng    write copies to a file
  xsk top eth0 -f 'udp' --tee                    watch who has that traffic: flows, hosts, ports

Take, so that this host does not get it (port 9 is that of "discard", which nobody misses):

\b
  xsk receive eth0 --filter 'udp port 9'         as above, without --tee: nothing is copied, at the highest rates
  xsk drop eth0 -f 'udp port 9'                  take packets and let them go: how fast is it?
  xsk forward eth0 eth1 -f all --both            a bridge of two interfaces, in the place of this host
  xsk echo eth0                                  answer ARP, ping and UDP echo from Python, in this host's place

Others:

\b
  xsk send eth0 --ip-dst 192.0.2.7 --rate 1000   send UDP packets at a rate, or as fast as it goes
  xsk status                                     which XDP programs and AF_XDP sockets are there, and whose
  xsk doctor eth0                                what could keep it from working, and what to do
  xsk detach eth0                                put right what a killed process left, or take a program off

Everything is undone when a command ends, however it ends. All need root, or CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF,
CAP_PERFMON and CAP_IPC_LOCK.
"""


@click.group(context_settings=_CONTEXT, help=_HELP)
@click.version_option(package_name="afxdp-toolkit", prog_name="xsk")
@click.pass_context
def cli(context: click.Context) -> None:
    """Put back what a killed one of us could not, before any command that does more than look."""
    if context.invoked_subcommand not in ("status", "doctor", "detach", "demo"):
        from toolkit._base import records

        if records.DIRECTORY.is_dir():  # hardly ever
            from toolkit.cli.commands.detach import put_back

            put_back()


@cli.command(short_help="Take packets (--tee: copies of them) and show their rate, or their bytes.")
@click.argument("interface")
@options_of(
    FILTER,
    click.option("-c", "--count", type=click.IntRange(min=1), help="Stop after this many packets."),
    click.option("-x", "--hex", "dump", is_flag=True, help="Show each packet: time, decoded line, bytes in hex."),
    TEE,
    *FILTERING,
    *RECEIVING,
    COPY_LONG,
    *COPYING,
    click.option("--workers", type=click.IntRange(min=1), help="Share the queues out to this many processes."),
    SECONDS,
    INTERVAL,
    JSON,
)
@says_unseen
def receive(interface: str, **options: Any) -> None:
    """TAKE packets from INTERFACE, so that this host does not get them, and count them; with --tee look at copies.

    Each queue has an AF_XDP socket. Prints a line each second: packets and bits per second, totals, and what the kernel
    had to drop. At the end the program is detached, the rings are drained and the counters reconciled:
    received + dropped = redirected.

    UNSEEN

    'all' takes everything. ASKS With --tee it need not, unless packets are dropped (--on-match drop).

    \b
    xsk receive eth0 --filter 'tcp port 443' --tee -x -c 5
    xsk receive eth0 --filter 'arp' --tee -x -c 5
    xsk receive eth0 --filter 'udp port 123' --on-match count      counted in the driver; the kernel gets them
    xsk receive eth0 --filter 'udp port 9'                         taken: nobody else gets them
    xsk receive eth0 --filter 'udp port 9' --seconds 10 --json
    xsk receive eth0 --filter 'udp port 4789' --workers 4
    xsk receive eth0 --filter 'udp port 4789' --sample 1/100 --snaplen 64
    """
    if options["on_match"] != "redirect" and (options["count"] or options["dump"] or options["workers"]):
        raise click.UsageError(
            f"--on-match {options['on_match']} leaves the packets in the driver: no --count, --hex or --workers."
        )
    if options["workers"] and options["tee"]:
        raise click.UsageError("--tee has one ring of copies for all queues: no --workers.")
    if options["workers"] and options["dump"]:
        raise click.UsageError("--hex shows packets in order, and several --workers have none: take one of them.")
    from toolkit.cli.commands.receive import run

    sys.exit(run(interface, binding_from(options), **options))


@cli.command(short_help="Show XDP programs, links and AF_XDP sockets, ours and foreign.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-a", "--all", "everything", is_flag=True, help="Show interfaces without a program too.")
def status(as_json: bool, everything: bool) -> None:
    """Show the XDP program on every interface, which process holds it, and every AF_XDP socket with its drops.

    A program held by a link goes when its process ends; one attached by netlink (ip link, bpftool, older tools) stays
    until somebody detaches it: `ip link set dev NAME xdp off`. Looking changes nothing, and holds nothing of anybody's.
    """
    from toolkit.cli.commands.status import run

    sys.exit(run(as_json=as_json, everything=everything))


@cli.command(short_help="Look for what keeps AF_XDP from working, and say what to do.")
@click.argument("interface", required=False)
@click.option("--netns", help="Network namespace of the interface: a name of `ip netns`, a path, or a pid.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(interface: str | None, netns: str | None, as_json: bool) -> None:
    """Look at the system (kernel, privileges, libraries, BCC) and at INTERFACE, or at all: driver, native or generic
    XDP, zero-copy, queues, MTU, offloads in the way, who is there already. Changes nothing.

    Each finding is ok, a note, or a problem, with what to do about it. Exit code 1 if there is a problem.
    """
    from toolkit.cli.commands.doctor import run

    sys.exit(run(interface, netns=netns, as_json=as_json))


@cli.command(short_help="Take an XDP program off an interface.")
@click.argument("interface")
@click.option("--program", help="Take off this one, by its id or name, which nobody has open.")
@click.option("--force", is_flag=True, help="Take off whatever it is, also when somebody uses it still.")
@click.option("--netns", help="Network namespace of the interface: a name of `ip netns`, a path, or a pid.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def detach(interface: str, program: str | None, force: bool, netns: str | None, as_json: bool) -> None:
    """Put right what a killed process left, and take the XDP program off INTERFACE, whoever attached it.

    Put right: a program whose place another took with --replace comes back, and interrupts that a busy-polling process
    deferred are restored.

    What is attached is named, and stays without --program or --force: one that was attached by netlink may be a
    firewall at work. One that a process or a link holds (this toolkit's are, and go with their process by themselves),
    or that xdp-tools keeps, goes with --force only.
    """
    from toolkit.cli.commands.detach import run

    sys.exit(run(interface, program=program, force=force, netns=netns, as_json=as_json))


@cli.command(short_help="Show AF_XDP at work, on a private network or on a real interface.")
@click.option("-i", "--interface", help="TAKE packets from a real interface; needs --filter. Sends none.")
@click.option("-f", "--filter", "expression", help="With --interface: a tcpdump expression, or 'all'.")
@click.option("--yes", is_flag=True, help="Take it even if this host needs it: do not ask.")
@click.option("--seconds", type=Number(min=2), default=8.0, show_default=True, help="How long it runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing else.")
def demo(interface: str | None, expression: str | None, yes: bool, seconds: float, as_json: bool) -> None:
    """Make two hosts out of nothing (network namespaces joined by a virtual cable), send real traffic from one, and
    receive it on the other through AF_XDP: pings and UDP from the kernel first, then a flood.

    Without --interface nothing on this machine's own network is touched. With it, packets that match --filter do NOT
    reach this host while the demo runs; it asks before it takes what this host needs (without a terminal: it wants
    --yes). Nothing is left behind.
    """
    if (interface is None) != (expression is None):
        raise click.UsageError("--interface and --filter go together")
    from toolkit.cli.commands.demo import run

    sys.exit(run(interface, expression, seconds, as_json=as_json, yes=yes))


for _command in (*moving.COMMANDS, *capturing.COMMANDS, *watching.COMMANDS):
    cli.add_command(_command)


def _note(message: Warning | str, *where: object, **more: object) -> str:
    """Format a warning for people, to whom a line of our source says nothing."""
    return f"xsk: note: {spelled(str(message))}\n"


def main() -> None:
    """Run `xsk`; errors are one message on stderr and exit code 1."""
    warnings.formatwarning = _note
    try:
        forget_inherited()
        _fill_holes()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows ? rather than an error
                stream.reconfigure(errors="replace")
        handler = logging.StreamHandler()  # once there is a stderr
        handler.setFormatter(logging.Formatter("xsk: %(message)s"))
        logging.getLogger("toolkit.replaced").addHandler(handler)
        cli(prog_name="xsk")
    except ToolkitError as error:
        click.echo(f"xsk: {message_of(error)}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output went away
        _give_up_stdout()
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        _give_up_stdout()
        click.echo(f"xsk: cannot write {error.filename or 'to standard output'}: {error.strerror}", err=True)
        sys.exit(1)


def _fill_holes() -> None:
    """Put /dev/null where a standard stream was closed.

    print() to no stream at all prints to the other one, and what is opened next would be the children's input.
    """
    for name, flags, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


def _give_up_stdout() -> None:
    """Python would complain once more when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
