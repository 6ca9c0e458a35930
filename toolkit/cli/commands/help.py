# SPDX-License-Identifier: Apache-2.0
"""`xsk help`: the long texts, by topic."""

from __future__ import annotations

import click

from toolkit.cli.command import COLUMNS, command
from toolkit.cli.topics import TOPICS

__all__ = ["help"]


@command(
    places=("topic",),
    optional=True,
    examples=(("xsk help", "the topics"), ("xsk help filters", "one of them")),
)
def help(topic: str | None) -> int:
    """Show the text on TOPIC, or list the topics. The name of a command shows all of its options."""
    context = click.get_current_context().find_root()
    if topic is None:
        width = max(map(len, TOPICS))
        lines = [f"  {name:<{width}}  {text.title}" for name, text in TOPICS.items()]
        click.echo(
            "\n".join(["Topics:", *lines, "", "`xsk help TOPIC` shows one of them, `xsk COMMAND --help` a command."])
        )
        return 0
    if (text := TOPICS.get(topic)) is not None:
        click.echo(f"{text.title}\n\n{text.wrapped(context.make_formatter().width or COLUMNS)}")
        return 0
    assert isinstance(context.command, click.Group)
    other = context.command.get_command(context, topic)
    if other is None:
        raise click.UsageError(
            f"there is no topic {topic!r}. Next step: name one of {', '.join(TOPICS)}; or a command."
        )
    other.make_context(topic, ["--help"], parent=context)  # shows it, and ends
    return 0
