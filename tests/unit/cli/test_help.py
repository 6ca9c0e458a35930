# SPDX-License-Identifier: Apache-2.0
"""The help texts: one screen for -h, named sections for --help, long texts by topic; the first examples harm nobody."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import click
import cloup
import pytest
from click.testing import CliRunner

from tests.helpers import ROOT
from toolkit.cli.command import COLUMNS, LINES, Command
from toolkit.cli.commands import SECTIONS
from toolkit.cli.main import cli
from toolkit.cli.topics import TOPICS

NAMES = [name for names in SECTIONS.values() for name in names]
TAKING = ("receive", "capture", "top", "drop", "forward", "echo")
# Copies, ports that nobody misses (discard, echo), questions to an address; and a network of its own.
HARMLESS = re.compile(r"--tee|--on-match count|port [79]\b|xsk (demo|echo|send|status|doctor|detach|help)\b")


def command(name: str) -> Command:
    found = cli.get_command(click.Context(cli), name)
    assert isinstance(found, Command)
    return found


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments, prog_name="xsk")
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", ["", *NAMES])
def test_h_is_one_screen(name: str) -> None:
    text = shown(*name.split(), "-h")
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= LINES == 24
    assert max(map(len, lines)) <= COLUMNS == 80
    assert lines[0].startswith(f"Usage: xsk {name}".rstrip())
    assert f"`xsk {name} --help` shows all".replace("xsk  ", "xsk ") in lines[-1]
    assert text.count(f"\n  xsk {name}".rstrip()) == 2, "two examples"
    if name:
        assert all(option in text for option in command(name).matters)


@pytest.mark.parametrize("name", NAMES)
def test_what_h_says_of_an_option_is_a_sentence(name: str) -> None:
    """It is the first clause of the help text: that must say what the option does."""
    for option, text in command(name).brief_rows(click.Context(command(name), info_name=name)):
        assert len(text.split()) >= 3, f"{option}: {text}"
        assert not re.match(r"(With|Without|Not|As) (?!-r, |-[CG], )", text), f"{option}: {text}"


@pytest.mark.parametrize("name", NAMES)
def test_help_has_every_option_in_a_named_section(name: str) -> None:
    found, text = command(name), shown(name, "--help")
    options = [param for param in found.params if isinstance(param, click.Option) and param.opts != ["-h"]]
    assert all(isinstance(option.group, cloup.OptionGroup) for option in options if isinstance(option, cloup.Option))
    for option in options:
        assert any(re.search(rf"^  .*{re.escape(spelled)}\b", text, re.MULTILINE) for spelled in option.opts), option
    assert all(f"\n{group.title}:\n" in text for group in found.option_groups)
    assert "\n\n\n\n" not in text


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_command_lines_that_the_command_understands(name: str) -> None:
    found = command(name)
    for line, _ in found.examples:
        first, second, *words = shlex.split(line.partition("|")[0])
        assert (first, second) == ("xsk", name)
        context = found.make_context(name, words)
        if found.filtered and context.params["interface"]:
            assert context.params["expression"]


def test_the_list_of_commands_is_shown_without_importing_one() -> None:
    code = (
        "import sys\n"
        "from toolkit.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('toolkit.cli.commands.') or name == 'rich'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.rstrip().endswith("[]")
    for name in NAMES:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", TAKING)
def test_what_takes_says_so_in_its_first_line_and_asks(name: str) -> None:
    text = shown(name, "--help")
    first = text.split("\n\n")[1]
    assert "TAKE" in first
    assert "this host" in first
    assert "--yes" in text
    assert "`xsk help taking`" in " ".join(text.split())
    assert command(name).get_short_help_str(200).startswith("Take ")


@pytest.mark.parametrize("name", TAKING)
def test_its_first_examples_harm_nobody(name: str) -> None:
    examples = [one.line for one in command(name).examples]
    assert len(examples) > 2
    assert HARMLESS.search(examples[0]), examples[0]


def test_the_first_examples_of_all_harm_nobody() -> None:
    readme = (ROOT / "README.md").read_text()
    for text in (shown("--help"), readme[readme.index("## The command") :]):
        examples = [line.strip() for line in text.splitlines() if line.strip().startswith("xsk ")]
        taking = [line for line in examples if not HARMLESS.search(line)]
        assert len(examples) >= 5
        assert all(HARMLESS.search(line) for line in examples[:5]), examples[:5]
        assert all("forward" in line for line in taking), taking


def test_the_first_program_takes_a_port_that_nobody_misses() -> None:
    for path in ("README.md", "docs/filters.md", "toolkit/__init__.py", "toolkit/workers/__init__.py"):
        opened = re.findall(r'(?:toolkit\.open|Workers)\("eth0"(.*)', (ROOT / path).read_text())
        assert opened
        assert '"udp port 9' in opened[0], path
    said = (ROOT / "toolkit/interface/open_interface.py").read_text()
    assert '"""TAKE packets' in said
    assert "do NOT reach" in said


# --- topics ---------------------------------------------------------------------------------------------------------


def test_help_lists_the_topics() -> None:
    listed = shown("help")
    for name, topic in TOPICS.items():
        assert re.search(rf"^  {name} +{re.escape(topic.title)}$", listed, re.MULTILINE)


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_is_as_wide_as_the_terminal(name: str) -> None:
    """Nothing gets lost when it is wrapped. Command lines and JSON stay whole."""
    topic = TOPICS[name]
    whole = {line.strip() for line in topic.text.splitlines() if line.lstrip().startswith(("xsk ", "{", '"'))}
    texts = {columns: topic.wrapped(columns) for columns in (50, 78, 98)}
    for columns, text in texts.items():
        lines = text.splitlines()
        assert max(len(line) for line in lines if line.strip() not in whole) <= columns
        assert text.split() == topic.text.split()
        assert whole <= {line.strip() for line in lines}
    assert max(map(len, texts[78].splitlines())) <= 80
    assert len(texts[50].splitlines()) > len(texts[98].splitlines())
    assert shown("help", name).startswith(f"{topic.title}\n\n{topic.wrapped(80)[:40]}")


def test_in_a_pipe_a_text_is_as_wide_as_that_of_man() -> None:
    """80 columns, or what COLUMNS says."""
    for columns, least, most in ((None, 60, 80), ("60", 40, 60), ("100", 81, 100)):
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        environment |= {} if columns is None else {"COLUMNS": columns}
        run = [sys.executable, "-m", "toolkit.cli", "help", "interfaces"]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert least < max(map(len, done.stdout.splitlines())) <= most


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_fits_a_terminal_of_80_columns(name: str) -> None:
    assert max(map(len, shown(*name.split(), "--help").splitlines())) <= 80


def test_topics_speak_of_options_and_topics_that_there_are() -> None:
    known = {spelled for name in NAMES for param in command(name).params for spelled in param.opts} | {
        "--help",
        "--tables",
    }
    for topic in TOPICS.values():
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", topic.text)) <= known
        assert set(re.findall(r"`xsk help ([a-z-]+)`", topic.text)) <= set(TOPICS)
    for name in NAMES:
        assert set(re.findall(r"`xsk help ([a-z-]+)`", " ".join(shown(name, "--help").split()))) <= set(TOPICS), name


def test_help_of_a_command_is_its_help() -> None:
    assert shown("help", "receive") == shown("receive", "--help")


def test_an_unknown_topic_lists_those_that_there_are() -> None:
    done = CliRunner().invoke(cli, ["help", "filtres"], prog_name="xsk")
    assert done.exit_code == 2
    assert "'filtres'" in done.output
    assert "filters" in done.output


def test_without_a_command_there_is_one_screen() -> None:
    done = CliRunner().invoke(cli, [], prog_name="xsk")
    assert done.exit_code == 2
    assert done.output == shown("-h")
