# SPDX-License-Identifier: Apache-2.0
"""The frame of every subcommand: words that become interface and filter, `-h` on one screen, `--help` in sections.

cloup puts the options into named sections. It is click otherwise, and typed. Unlike other libraries for this, it draws
no boxes and needs no terminal, so that a help text is the same in a pipe.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import click
import cloup

from toolkit.cli.commands import SECTIONS, short_help

__all__ = ["COLUMNS", "LINES", "SETTINGS", "Command", "Example", "Group", "brief_option", "command"]

LINES, COLUMNS = 24, 80  # of `-h`, at most: it is read without scrolling
SETTINGS = {"help_option_names": ["--help"], "max_content_width": 100}

# xdpsock's letters, and our long names for them. tcpdump uses all of these letters for other things, so we use none.
_XDPSOCK = {
    "-q": "--queue",
    "-p": "--poll",
    "-B": "--busy-poll",
    "-b": "--batch-size",
    "-z": "--zero-copy",
    "-N": "--native",
    "-S": "--generic",
    "-m": "--no-need-wakeup",
}
_WORDS = "words"  # the parameter that holds all positional words until they are assigned


class Refused(click.UsageError):
    """A command line that makes no sense: shown in the form of every error of this command, with the usage line."""

    def __init__(self, error: click.UsageError) -> None:
        """Take over what click, or a subcommand, says is wrong."""
        super().__init__(error.format_message(), error.ctx)

    def format_message(self) -> str:
        """Return what is wrong, and the next step."""
        text = f"{self.message[:1].lower()}{self.message[1:]}".rstrip(".")
        if "Next step: " in text:
            return f"{text}."
        path = "xsk" if self.ctx is None else self.ctx.command_path
        return f"{text}. Next step: `{path} --help` lists what there is."

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        click.echo(f"xsk: {self.format_message()}", file=file, err=True)
        if self.ctx is not None:
            click.echo(self.ctx.get_usage(), file=file, err=True)


@contextlib.contextmanager
def _in_our_form() -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except click.UsageError as error:
        raise Refused(error) from error


class Example(NamedTuple):
    """A command line, and what it is for."""

    line: str
    what: str = ""


class _WithExamples(click.Command, ABC):
    """A command with examples: all at the end of `--help`, two of them on the one screen of `-h`."""

    examples: Sequence[Example] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples behind the options, where a terminal shows them last."""
        if self.examples:
            formatter.write("\n")
            with formatter.section("Examples"):
                _write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse them; a usage error knows which command it is about."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def brief(self, ctx: click.Context) -> str:
        """Return the text of `-h`: usage, what it does, two examples, the options that matter, where to find all."""
        formatter = cloup.HelpFormatter(width=COLUMNS, max_width=COLUMNS)
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)))
        formatter.write("\n")
        formatter.write_text(inspect.cleandoc(self.help or "").split("\n\n")[0])
        if self.examples:
            formatter.write("\n")
            _write_examples(formatter, self.examples[:2])
        if rows := self.brief_rows(ctx):
            formatter.write("\n")
            formatter.write_dl(rows)
        formatter.write("\n" + self.brief_end(ctx) + "\n")
        return formatter.getvalue().rstrip("\n")

    @abstractmethod
    def brief_rows(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Return what `-h` lists: names, and what they do."""

    def brief_end(self, ctx: click.Context) -> str:
        """Return the last line of `-h`."""
        return f"`{ctx.command_path} --help` shows all; `xsk help` lists texts: filters, output, JSON."


class Group(_WithExamples, cloup.Group):
    """The command itself."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **options: Any) -> None:
        """examples: command lines, each with what it is for."""
        super().__init__(*args, **options)
        self.examples = [Example(*one) for one in examples]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show one screen where nothing is asked for."""
        if not args and not ctx.resilient_parsing:
            click.echo(self.brief(ctx), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the options of the command itself."""
        with _in_our_form():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Parse what belongs to the subcommand, and run it."""
        with _in_our_form():
            return super().invoke(ctx)

    def brief_rows(self, ctx: click.Context) -> list[tuple[str, str]]:
        """List the subcommands."""
        return [(name, text) for names in SECTIONS.values() for name, text in names.items()]


class Command(_WithExamples, cloup.Command):
    """A subcommand. Its positional words are assigned by `places`: interface, other, and the words of the filter.

    `-i` stands for the first word, so that `xsk receive -i eth0 udp port 9` means what a user of tcpdump expects.
    """

    def __init__(
        self,
        *args: Any,
        places: Sequence[str] = (),
        optional: bool = False,
        filtered: bool = False,
        examples: Sequence[Example] = (),
        matters: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """places: what the first words are. optional: they may be missing. filtered: the others are a filter.

        examples: for `--help`; the first two are for `-h` as well. matters: the options that `-h` shows, by name.
        """
        super().__init__(*args, **options)
        self.places = tuple(places)
        self.optional = optional
        self.filtered = filtered
        self.examples = tuple(examples)
        self.matters = tuple(matters)

    # --- words ------------------------------------------------------------------------------------------------------

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Assign the words, if the command takes any."""
        try:
            left = super().parse_args(ctx, args)
        except click.NoSuchOption as unknown:
            if (long := _XDPSOCK.get(unknown.option_name)) is None:
                raise
            raise click.UsageError(
                f"there is no {unknown.option_name} here, but with xdpsock. Next step: say {long}, which is the same.",
                ctx,
            ) from None
        if _WORDS in ctx.params and not ctx.resilient_parsing:
            self._deal(ctx)
        return left

    def _deal(self, ctx: click.Context) -> None:
        words = list(ctx.params.pop(_WORDS))
        given = ctx.params.pop("given", None)
        if given is not None:
            words.insert(0, given)
        places = self.places[:1] if ctx.params.get("back") else self.places
        for place in self.places:
            ctx.params[place] = words.pop(0) if words and place in places else None
        if self.filtered:
            self._deal_filter(ctx, words)
        elif words:
            raise click.UsageError(f"{' '.join(words)!r} is too much here. Next step: leave it out.", ctx)
        if ctx.params[self.places[0]] is None and not self.optional:
            raise click.UsageError("no interface is named. Next step: name one; `ip link` lists them.", ctx)

    def _deal_filter(self, ctx: click.Context, words: list[str]) -> None:
        option = ctx.params.get("expression")
        if words and option is not None:
            raise click.UsageError(
                f"the filter is given twice: {option!r} with --filter, and {' '.join(words)!r} behind the interface. "
                "Next step: give it once.",
                ctx,
            )
        if words:
            ctx.params["expression"] = option = " ".join(words)
        if option is None and not self.optional and ctx.params[self.places[0]] is not None:
            raise click.UsageError(
                "no filter says what to take. Next step: put one behind the interface, such as `udp port 9`; or `all` "
                "for everything, an SSH session through this interface too.",
                ctx,
            )

    # --- help -------------------------------------------------------------------------------------------------------

    def brief_rows(self, ctx: click.Context) -> list[tuple[str, str]]:
        """List the options that matter, each with the first clause of its help."""
        records = [record for param in self._mattering(ctx) if (record := param.get_help_record(ctx)) is not None]
        return [(names, _first_clause(text)) for names, text in records]

    def _mattering(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options that `-h` shows. KeyError for one that the command does not have."""
        by_name = {name: param for param in self.get_params(ctx) for name in param.opts}
        return [by_name[name] for name in self.matters]


def _write_examples(formatter: click.HelpFormatter, examples: Sequence[Example]) -> None:
    """Write two columns: the command line, and what it is for. A long line has no second column."""
    width = min(max((len(one.line) for one in examples if one.what), default=0), 50)
    for line, what in examples:
        indent = " " * max(formatter.current_indent, 2)
        formatter.write(f"{indent}{line:<{width}}  {what}".rstrip() + "\n")


def _first_clause(text: str) -> str:
    """Return the text before the first full stop, semicolon or colon, without the default."""
    for end in (".  ", ". ", "; ", ": ", "  ["):
        text = text.partition(end)[0]
    return text.rstrip(".") + "."


def _show_brief(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        assert isinstance(ctx.command, _WithExamples)
        click.echo(ctx.command.brief(ctx))
        ctx.exit()


def brief_option() -> Callable[[Any], Any]:
    """Return the option `-h`."""
    return cloup.option(
        "-h",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_brief,
        help="Show the options that matter, on one screen.",
    )


def command(
    *options: Callable[[Any], Any],
    places: Sequence[str] = ("interface",),
    filtered: bool = False,
    optional: bool = False,
    examples: Sequence[tuple[str, str]] = (),
    matters: Sequence[str] = (),
) -> Callable[[Callable[..., int]], Command]:
    """Make a subcommand of a function that returns the exit code. Its docstring is the help text.

    options: sections of options, in the order of `--help`. The others as for Command.
    """

    def decorate(function: Callable[..., int]) -> Command:
        def run(**given: Any) -> None:
            sys.exit(function(**given))

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        decorated: Any = brief_option()(run)
        for option in reversed(options):
            decorated = option(decorated)
        if places:
            metavar = _metavar(places, optional=optional, filtered=filtered)
            decorated = cloup.argument(_WORDS, nargs=-1, metavar=metavar)(decorated)
        made: Command = cloup.command(
            function.__name__,
            cls=Command,
            context_settings=SETTINGS,
            short_help=short_help(function.__name__),
            places=places,
            optional=optional,
            filtered=filtered,
            examples=[Example(*one) for one in examples],
            matters=matters,
        )(decorated)
        return made

    return decorate


def _metavar(places: Sequence[str], *, optional: bool, filtered: bool) -> str:
    first, *others = [place.upper() for place in places]
    words = " ".join([first, *(f"[{other}]" for other in others), *(["EXPRESSION"] if filtered else [])])
    return f"[{words}]" if optional else words
