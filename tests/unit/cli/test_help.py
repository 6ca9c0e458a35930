# SPDX-License-Identifier: Apache-2.0
"""Whoever follows the first example of a help text, or of the README, harms nobody; what takes says so first."""

from __future__ import annotations

import re

import click
import pytest

from tests.helpers import ROOT
from toolkit.cli.main import cli

TAKING = ("receive", "capture", "top", "drop", "forward", "echo")
# Copies, ports that nobody misses (discard, echo), questions to an address; and a network of its own.
HARMLESS = re.compile(r"--tee|--on-match count|port [79]\b|xsk (demo|echo|send|status|doctor|detach)\b")


def help_of(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, max_content_width=100)
    return command.get_help(context)


@pytest.mark.parametrize("name", TAKING)
def test_what_takes_says_so_in_its_first_line_and_asks(name: str) -> None:
    text = help_of(cli.commands[name], name)
    first = text.split("\n\n")[1]
    assert "TAKE" in first
    assert "this host" in first
    assert "--yes" in text
    assert cli.commands[name].get_short_help_str(200).startswith("Take ")


@pytest.mark.parametrize("name", TAKING)
def test_its_first_example_harms_nobody(name: str) -> None:
    examples = [line for line in help_of(cli.commands[name], name).splitlines() if line.startswith(f"  xsk {name} ")]
    assert len(examples) > 2
    assert HARMLESS.search(examples[0]), examples[0]


def test_the_first_examples_of_all_harm_nobody() -> None:
    readme = (ROOT / "README.md").read_text()
    for text in (help_of(cli, "xsk"), readme[readme.index("## The command") :]):
        examples = [line.strip() for line in text.splitlines() if line.strip().startswith("xsk ")]
        taking = [line for line in examples if not HARMLESS.search(line)]
        assert len(examples) > 8
        assert all(HARMLESS.search(line) for line in examples[:5]), examples[:5]
        assert all("forward" in line for line in taking), taking


def test_the_first_program_takes_a_port_that_nobody_misses() -> None:
    for path in ("README.md", "docs/filters.md", "toolkit/__init__.py", "toolkit/workers/__init__.py"):
        opened = re.findall(r'(?:toolkit\.open|Workers)\("eth0"(.*)', (ROOT / path).read_text())
        assert opened
        assert '"udp port 9' in opened[0], path
    said = (ROOT / "toolkit/interface/open_interface.py").read_text()
    assert '"""TAKE packets' in said
    assert "does NOT reach" in said
