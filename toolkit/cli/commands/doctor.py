# SPDX-License-Identifier: Apache-2.0
"""`xsk doctor`: prints findings, each with its remedy."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import textwrap

import click
import cloup

from toolkit.cli import options as opt
from toolkit.cli.command import command
from toolkit.cli.spelling import spelled
from toolkit.cli.view import output
from toolkit.doctor import Finding, examine

__all__ = ["doctor", "run"]

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "red")}


@command(
    cloup.option_group("What to show", opt.JSON),
    opt.where(queues=False),
    optional=True,
    examples=(("xsk doctor", "the system, and every interface"), ("xsk doctor eth0", "the system, and this one")),
    matters=("--netns", "--json"),
)
def doctor(interface: str | None, *, netns: str | None, as_json: bool) -> int:
    """Find what keeps AF_XDP from working here, in the system and on INTERFACE (or on all), and say what to do.

    It examines kernel, privileges, libraries and BCC; of an interface its driver, native or generic XDP, zero-copy,
    queues, MTU, offloads, and the programs and sockets that are there already. It changes nothing.

    A finding is ok, a note, or a problem, with what to do about it. The exit code is 1 if there is a problem.
    """
    return run(interface, netns=netns, as_json=as_json)


def run(interface: str | None, *, netns: str | None, as_json: bool) -> int:
    """Print the findings. Return the exit code: 1 if there is a problem."""
    findings, area = [], ""
    for found in examine(interface, netns=opt.namespace(netns)):
        finding = dataclasses.replace(found, text=spelled(found.text), remedy=spelled(found.remedy))
        findings.append(finding)
        if not as_json:
            if finding.area != area:
                click.secho(("\n" if area else "") + finding.area, bold=True)
                area = finding.area
            _print(finding)
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        output.print_json({"problems": problems, "findings": [dataclasses.asdict(one) for one in findings]})
    else:
        notes = sum(finding.level == "note" for finding in findings)
        click.echo(f"\n{_number(problems, 'problem')}, {_number(notes, 'note')}")
    return 1 if problems else 0


def _number(count: int, of: str) -> str:
    return f"{count or 'no'} {of}{'' if count == 1 else 's'}"


def _print(finding: Finding) -> None:
    mark, colour = _MARKS[finding.level]
    click.echo(f"  {click.style(f'{mark:<8}', fg=colour)} {_lines(finding.text, 11)}")
    if finding.remedy:
        click.echo(f"  {'':<8} → {finding.remedy}")  # on one line, to be copied


def _lines(text: str, indent: int) -> str:
    """Wrap it to the terminal, behind `indent` columns. Elsewhere it stays one line, for grep."""
    if not sys.stdout.isatty():
        return text
    width = max(shutil.get_terminal_size().columns - indent, 40)
    return f"\n{'':<{indent}}".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))
