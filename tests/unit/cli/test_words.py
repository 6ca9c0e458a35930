# SPDX-License-Identifier: Apache-2.0
"""Letters have one meaning, tcpdump's; words are dealt out to interface and filter as a user of tcpdump expects."""

from __future__ import annotations

from collections import defaultdict

import click
import pytest
from click.testing import CliRunner

from toolkit.cli.command import Command
from toolkit.cli.commands import SECTIONS
from toolkit.cli.main import cli

NAMES = [name for names in SECTIONS.values() for name in names]
FILTERED = ("receive", "capture", "top", "drop", "forward")
# Those that tcpdump has as well, with its names for what they say; -h and -a are not tcpdump's here.
TCPDUMP = {
    "-c": "count",
    "-C": "rotate_size",
    "-G": "rotate_seconds",
    "-W": "files",
    "-i": "given",
    "-n": "no_names",
    "-r": "file",
    "-s": "snaplen",
    "-w": "file",
    "-x": "dump",
}
OURS = {"-f": "expression", "-h": "h", "-a": "everything"}


def command(name: str) -> Command:
    found = cli.get_command(click.Context(cli), name)
    assert isinstance(found, Command)
    return found


def parsed(name: str, *words: str) -> dict[str, object]:
    more = ("-w", "x.pcapng") if name == "capture" else ()
    return dict(command(name).make_context(name, [*words, *more]).params)


def refused(name: str, *words: str) -> str:
    done = CliRunner().invoke(cli, [name, *words], prog_name="xsk")
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


def test_a_letter_has_one_meaning_in_every_command() -> None:
    meanings: dict[str, set[tuple[str | None, ...]]] = defaultdict(set)
    for name in NAMES:
        for param in command(name).params:
            for letter in (one for one in param.opts if len(one) == 2):
                meanings[letter].add((param.name, *(one for one in param.opts if len(one) > 2)))
    assert {letter: found for letter, found in meanings.items() if len(found) > 1} == {}
    assert {letter: next(iter(found))[0] for letter, found in meanings.items()} == TCPDUMP | OURS


# Where a long option says the same in two ways, and why that is right.
SAID_TWICE = {
    "--queue": "a command receives from several queues, and sends on one",
    "--promisc": "forward does it by itself, and can be kept from it",
}


def test_a_long_option_has_one_meaning_in_every_command() -> None:
    """One help text and one placeholder, so that who knows it from one command knows it from the others."""
    meanings: dict[str, set[tuple[str | None, ...]]] = defaultdict(set)
    for name in NAMES:
        for param in command(name).params:
            if isinstance(param, click.Option):
                said = (param.name, param.help, param.metavar, str(param.is_flag))
                for option in (one for one in param.opts if one.startswith("--")):
                    meanings[option].add(said)
    assert len(meanings) > 50
    several = {option: found for option, found in meanings.items() if len(found) > 1}
    assert several.keys() == SAID_TWICE.keys(), several


@pytest.mark.parametrize("letter", ["-q", "-p", "-B", "-b", "-z", "-N", "-S", "-m"])
def test_a_letter_of_xdpsock_is_answered_with_the_option(letter: str) -> None:
    text = refused("drop", "eth0", "udp", letter, "1")
    option = text.partition("Next step: say ")[2].partition(",")[0]
    assert option.startswith("--")
    assert option in {one for param in command("drop").params for one in param.opts}


@pytest.mark.parametrize("name", FILTERED)
@pytest.mark.parametrize(
    "words",
    [
        ["eth0", "udp", "port", "9"],
        ["eth0", "udp port 9"],
        ["eth0", "-f", "udp port 9"],
        ["eth0", "--filter", "udp port 9"],
        ["-i", "eth0", "udp", "port", "9"],
        ["udp", "port", "9", "-i", "eth0"],
        ["-i", "eth0", "-f", "udp port 9"],
        ["-nni", "eth0", "udp", "port", "9"],
        ["-n", "eth0", "udp", "--seconds", "3", "port", "9"],
    ],
    ids=" ".join,
)
def test_interface_and_filter(name: str, words: list[str]) -> None:
    found = parsed(name, *words, *(["--back"] if name == "forward" else []))
    assert found["interface"] == "eth0"
    assert found["expression"] == "udp port 9"
    assert "words" not in found
    assert "given" not in found


@pytest.mark.parametrize(
    ("words", "other", "expression"),
    [
        (["eth0", "eth1", "vlan", "42"], "eth1", "vlan 42"),
        (["-i", "eth0", "eth1", "vlan 42"], "eth1", "vlan 42"),
        (["eth0", "eth1", "-f", "all"], "eth1", "all"),
        (["eth0", "-f", "all"], None, "all"),  # back, as before there was --back
        (["eth0", "--back", "udp", "port", "7"], None, "udp port 7"),
    ],
    ids=str,
)
def test_words_of_forward(words: list[str], other: str | None, expression: str) -> None:
    found = parsed("forward", *words)
    assert (found["interface"], found["other"], found["expression"]) == ("eth0", other, expression)


@pytest.mark.parametrize("name", FILTERED)
def test_a_filter_given_twice_is_a_mistake(name: str) -> None:
    words = ["eth0", "eth1"] if name == "forward" else ["eth0"]
    text = refused(name, *words, "udp", "-f", "tcp", *(["-w", "x"] if name == "capture" else []))
    assert "'tcp'" in text
    assert "'udp'" in text
    assert "given twice" in text


@pytest.mark.parametrize("name", FILTERED)
def test_without_a_filter_it_says_what_one_looks_like(name: str) -> None:
    text = refused(name, "eth0", *(["-w", "x"] if name == "capture" else []))
    assert "`udp port 9`" in text
    assert "`all`" in text


@pytest.mark.parametrize("name", [*FILTERED, "send", "echo", "detach"])
def test_without_an_interface_it_says_so(name: str) -> None:
    text = refused(name, *(["-w", "x"] if name == "capture" else []))
    assert "no interface is named" in text


@pytest.mark.parametrize("name", ["send", "echo", "detach", "doctor"])
def test_a_word_too_many(name: str) -> None:
    assert parsed(name, "-i", "eth0")["interface"] == "eth0"
    assert "'udp port'" in refused(name, "eth0", "udp", "port")


def test_forward_to_itself_is_refused_with_the_way_to_do_it() -> None:
    for words in (["eth0", "eth0", "udp"], ["eth0", "eth0", "-f", "udp"], ["-i", "eth0", "eth0", "udp", "--both"]):
        assert "`xsk forward eth0 --back EXPRESSION`" in refused("forward", *words)
    assert "--both needs two interfaces" in refused("forward", "eth0", "--back", "udp", "--both")


def test_demo_wants_both_or_neither() -> None:
    assert parsed("demo")["interface"] is None
    assert parsed("demo", "-i", "eth0", "-f", "udp") == parsed("demo", "eth0", "udp")
    assert "needs a filter" in refused("demo", "eth0")
    assert "a filter an interface" in refused("demo", "-f", "udp")
