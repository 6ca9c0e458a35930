# SPDX-License-Identifier: Apache-2.0
"""One record of options behind every entrance: what one of them refuses, all refuse with the same words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import toolkit
from toolkit.cli.binding import Binding
from toolkit.errors import ArgumentError, SystemCallError, ToolkitError
from toolkit.interface.opening import Opening
from toolkit.program.rules import Filtering

FILTERING = list(inspect.signature(Filtering.of).parameters)
OPTIONS = [*FILTERING, *(one.name for one in fields(Opening) if one.name != "filtering")]
SAYS_WHAT = ("filter", "rules", "program")  # one of them has to be given
WRONG: list[Any] = ["x", b"x", -7, 2.5, float("nan"), [], ["x", 1], object, np.zeros(3), {"a": 1}]
READS = "cannot read the program"  # what Program.build() is given here: said once its options are right


def nothing(interface: object) -> None:
    """Do nothing: work for Workers."""


def build(name: str, **options: Any) -> object:
    return toolkit.Program.build("nosuch.c", **options)


def command(name: str, filter: str, **options: Any) -> object:
    return Binding(**options, yes=True).watch(name, filter)


ENTRANCES: dict[str, tuple[Callable[..., Any], set[str], set[str]]] = {  # how to call it, its options, those of its own
    "open": (toolkit.open, set(inspect.signature(toolkit.open).parameters), {"interface"}),
    "tee": (toolkit.tee, set(inspect.signature(toolkit.tee).parameters), {"interface"}),
    "Workers": (
        lambda name, **options: toolkit.Workers(name, nothing, **options),
        set(inspect.signature(toolkit.Workers).parameters),
        {"interface", "work", "workers", "cpus"},
    ),
    "build": (
        build,
        set(inspect.signature(toolkit.Program.build).parameters),
        {"source", "function", "defines", "map_entries", "cache", "frags"},  # frags: without "auto"
    ),
    "command": (command, {one.name for one in fields(Binding)} | {"filter"}, {"yes", "tee"}),
}


def refusal(entrance: str, option: str, value: object) -> str | None:
    """The words of an ArgumentError; None where the option is taken (there is no such interface)."""
    others = {} if option in SAYS_WHAT else {"filter": "all"}
    try:
        ENTRANCES[entrance][0]("nosuch0", **others, **{option: value})
    except (ArgumentError, SystemCallError) as error:
        return str(error) if isinstance(error, ArgumentError) and READS not in str(error) else None
    raise AssertionError(f"{entrance} opened an interface that is not there")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_wrong_value_is_refused_alike_by_every_entrance(option: str) -> None:
    asked = [name for name, (_, options, own) in ENTRANCES.items() if option in options - own]
    assert asked, "nobody can give it"
    refused = 0
    for value in WRONG:
        says = {name: refusal(name, option, value) for name in asked}
        assert len(set(says.values())) == 1, (value, says)
        refused += None not in says.values()
    assert refused >= 5, "hardly anything is wrong for it?"


@pytest.mark.parametrize("entrance", list(ENTRANCES))
def test_an_entrance_has_no_options_but_those_of_the_record(entrance: str) -> None:
    _, options, own = ENTRANCES[entrance]
    assert options - own <= set(OPTIONS)
    assert not {name for name in options if name in ("options", "kwargs")}, "help() says what there is"


@pytest.mark.parametrize("entrance", [toolkit.open, toolkit.tee, toolkit.Workers, toolkit.Program.build])
def test_an_option_has_one_default(entrance: Callable[..., Any]) -> None:
    record = {one.name: one.default for one in fields(Opening)}
    record |= {name: one.default for name, one in inspect.signature(Filtering.of).parameters.items()}
    for name, one in inspect.signature(entrance).parameters.items():
        if name in record and (name, entrance) != ("frags", toolkit.Program.build):
            assert one.default == record[name], name


def test_open_takes_all_of_them_but_the_slots_of_a_tee() -> None:
    everything = ENTRANCES["open"][1] | ENTRANCES["tee"][1]
    assert everything - {"interface"} == set(OPTIONS)
    assert set(OPTIONS) - ENTRANCES["open"][1] == {"slots"}
    assert set(OPTIONS) - ENTRANCES["Workers"][1] == {"slots", "umem"}


@pytest.mark.parametrize("entrance", ["open", "Workers", "command"])
def test_generic_mode_has_no_zero_copy(entrance: str) -> None:
    """The Socket would be bound so, and say so, but the kernel would copy every packet, and some drivers send none."""
    with pytest.raises(ArgumentError, match="contradict each other"):
        ENTRANCES[entrance][0]("nosuch0", filter="all", mode="generic", zero_copy=True)


@pytest.mark.parametrize("entrance", ["open", "tee", "Workers"])
@pytest.mark.parametrize("given", [{}, {"snaplen": 64}])
def test_which_packets_are_meant_has_to_be_said(entrance: str, given: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"nothing says which packets to take, or two arguments do"):
        ENTRANCES[entrance][0]("nosuch0", **given)


@pytest.mark.parametrize("entrance", ["open", "tee", "Workers"])
def test_which_packets_are_meant_is_not_said_twice(entrance: str) -> None:
    with pytest.raises(ArgumentError, match=r"filter, .* cannot be given beside rules=.*give them to each Rule"):
        ENTRANCES[entrance][0]("nosuch0", filter="all", rules=[toolkit.Rule("udp")])


@pytest.mark.parametrize("entrance", ["open", "tee", "Workers", "build"])
def test_what_belongs_to_one_rule_is_not_given_beside_several(entrance: str) -> None:
    for extra in ({"filter": "all"}, {"on_match": "drop"}, {"sample": 2}, {"snaplen": 64}):
        with pytest.raises(ArgumentError, match="cannot be given beside rules="):
            ENTRANCES[entrance][0]("nosuch0", rules=[toolkit.Rule("udp")], **extra)


def test_numbers_of_numpy_are_numbers_and_an_iterator_is_asked_once() -> None:
    made = Opening.of("eth0", filter="udp", queues=iter(np.array([2, 0])), tx=np.bool_(False), frames=np.int64(8))
    assert (made.queues, made.tx, made.frames, made.frags) == ((0, 2), False, 8, "auto")
    assert made.frags is not True
    assert Opening.of("eth0", rules=iter([toolkit.Rule("udp")])).rules == (toolkit.Rule("udp"),)


def test_the_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Opening.of("eth0", filter="udp").tx = False


def test_other_errors_are_not_taken_for_refusals() -> None:
    with pytest.raises(ToolkitError, match="nosuch0"):
        toolkit.open("nosuch0", filter="all")
