# SPDX-License-Identifier: Apache-2.0
"""`xsk`: the subcommands, each imported when it is asked for, and how errors are shown."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import sys
import warnings

import click
import cloup
from cloup.formatting import HelpSection

from toolkit.cli.command import SETTINGS, Group, brief_option
from toolkit.cli.commands import SECTIONS
from toolkit.cli.spelling import message_of, spelled
from toolkit.cli.stop import forget_inherited
from toolkit.errors import ToolkitError

__all__ = ["cli", "main"]

_HARMLESS = ("status", "doctor", "detach", "demo", "help")  # they change no interface, or put things right themselves


class Commands(Group):
    """The subcommands, imported when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names, in the order of the help text."""
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one; None where there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        found: click.Command = getattr(importlib.import_module(f"toolkit.cli.commands.{cmd_name}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them by section, without importing any."""
        assert isinstance(formatter, cloup.HelpFormatter)
        sections = [HelpSection(title, list(names.items())) for title, names in SECTIONS.items()]
        formatter.write_many_sections(sections)


@cloup.group(
    "xsk",
    cls=Commands,
    context_settings=SETTINGS,
    examples=(
        ("xsk demo", "see it work"),
        ("xsk receive eth0 icmp --tee -x -c 3", "three pings, decoded"),
        ("xsk capture eth0 udp port 53 --tee -w dns.pcapng", "copies into a file"),
        ("xsk top eth0 all --tee", "who sends what arrives"),
        ("xsk receive eth0 udp port 9", "taken, at the highest rates"),
    ),
)
@click.version_option(package_name="afxdp-toolkit", prog_name="xsk")
@brief_option()
@click.pass_context
def cli(context: click.Context) -> None:
    """AF_XDP from the command line: packets from the network driver straight to this program.

    An XDP program, compiled for your filter, runs in the driver. Packets that match are redirected to an AF_XDP socket,
    into memory that the kernel and this process share. All other packets go on to the kernel, unchanged.

    Redirected packets do NOT reach the kernel: what you take from an interface, its usual receiver does not get. With
    --tee, `receive`, `capture` and `top` get copies instead, and the kernel gets every packet.

    When a command ends, even by kill -9, its program is off the interface. Every command needs root, or the
    capabilities that `xsk help permissions` lists. `xsk COMMAND -h` shows the options of a command on one screen;
    `xsk help` lists longer texts.
    """
    if context.invoked_subcommand not in _HARMLESS:
        from toolkit._base import records

        if os.path.isdir(records.DIRECTORY):  # hardly ever: what a killed one of us could not put back
            from toolkit.cli.commands.detach import put_back

            put_back()


def _note(message: Warning | str, *where: object, **more: object) -> str:
    """Format a warning for people, without the line of our source."""
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
    """Open /dev/null in place of standard streams that were closed.

    Otherwise the next file that we open would be the standard input of our children.
    """
    for name, flags, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


def _give_up_stdout() -> None:
    """Python would complain once more when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
