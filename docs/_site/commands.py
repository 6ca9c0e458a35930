# SPDX-License-Identifier: Apache-2.0
"""The directive `commands`: a section for each command of the click tree, with the help text as a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from toolkit.cli.main import cli
from toolkit.cli.topics import TOPICS

COLUMNS = 90  # what the page is wide


def help_texts(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Yield the path of a command and its help text, and those of all commands below."""
    context = command.context_class(command, parent=parent, info_name=name, terminal_width=COLUMNS)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from help_texts(found, below, context)


def sections(texts: Iterator[tuple[str, str]]) -> list[nodes.Node]:
    """Make a section of each title and its text."""
    made: list[nodes.Node] = []
    for title, text in texts:
        section = nodes.section(ids=[nodes.make_id(title)], names=[title])
        section += [nodes.title(title, title), nodes.literal_block(text, text, language="text")]
        made.append(section)
    return made


class Commands(SphinxDirective):
    """The commands."""

    def run(self) -> list[nodes.Node]:
        """Return their sections."""
        return sections(help_texts(cli, "xsk"))


class Topics(SphinxDirective):
    """The texts of `xsk help TOPIC`."""

    def run(self) -> list[nodes.Node]:
        """Return their sections."""
        return sections((topic.title, topic.wrapped(COLUMNS)) for topic in TOPICS.values())


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives."""
    app.add_directive("commands", Commands)
    app.add_directive("topics", Topics)
    return {"version": "1", "parallel_read_safe": True}
