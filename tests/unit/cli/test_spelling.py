# SPDX-License-Identifier: Apache-2.0
"""Messages name arguments as Python has them, in backquotes; the command shows its own options in their place."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import toolkit
from toolkit.cli.main import cli
from toolkit.cli.spelling import ARGUMENTS, message_of, spelled
from toolkit.errors import kernel_error

PACKAGE = Path(toolkit.__file__).parent
NAMES = {re.sub(r"^\w+\(", "", argument).partition("=")[0] for argument in ARGUMENTS}
ARGUMENT = re.compile(r'(`?)((?:\w+\()?\b([a-z_]+)=(?:True|False|\.\.\.|"[^"]*"|\d+)\)?)(`?)')


def options(command: click.Command) -> Iterator[str]:
    """All options of a command, and of those below it."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options(below)


def texts() -> Iterator[tuple[str, str]]:
    """(where, text) of every string in the package that is no docstring, but for those of the command."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and node.body
            if isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value


def test_only_the_command_knows_options() -> None:
    """Outside of toolkit.cli no text of a message, and no docstring of errors.py, names an option of the command."""
    ours = {option for option in options(cli) if option.startswith("--")}
    assert "--replace" in ours
    named = re.compile(r"(?<![\w-])(" + "|".join(sorted(ours)) + r")(?![\w-])")
    found = [f"{where}: {text!r}" for where, text in texts() if named.search(text)]
    errors = (PACKAGE / "errors.py").read_text()
    found += [f"errors.py: {one}" for one in re.findall(r"--\w[\w-]*|\bxsk [a-z]+", errors)]
    assert not found, "\n".join(found)


def test_every_argument_has_a_spelling() -> None:
    """What a message names as an argument that the command has too stands in backquotes, and in the table."""
    found = []
    for where, text in texts():
        for before, argument, name, behind in ARGUMENT.findall(text):
            known = argument in ARGUMENTS or f"{name}=..." in ARGUMENTS
            if name in NAMES and not (before and behind and known):
                found.append(f"{where}: {argument}")
    assert not found, "\n".join(found)


def test_the_table_names_options_that_exist() -> None:
    """Each option in it is one of the command."""
    named = {word for spelling in ARGUMENTS.values() for word in spelling.split() if word.startswith("-")}
    assert named <= set(options(cli)), named - set(options(cli))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("take its place: `replace=True`", "take its place: `--replace`"),
        ('`replace="link"` or `mode="generic"`', "`--replace-link` or `--generic`"),
        ("`snaplen=64` has the headers", "`-s 64` has the headers"),
        ("a smaller `Queueing(limit=...)`", "a smaller `--buffer`"),
        ("`ip link set dev x up`, `queue=3`, replace=True", "`ip link set dev x up`, `queue=3`, replace=True"),
    ],
)
def test_spelled(text: str, shown: str) -> None:
    """Arguments in backquotes change, whatever else there is does not."""
    assert spelled(text) == shown


def test_a_message_of_the_command() -> None:
    """The same exception says `replace=True` to Python, and `--replace` on the command line."""
    refused = kernel_error("attach", errno.EBUSY, "cannot attach")
    assert "`replace=True`" in str(refused)
    shown = message_of(refused)
    assert "`--replace`" in shown
    assert "replace=True" not in shown
    assert not shown.startswith("[Errno")
