# SPDX-License-Identifier: Apache-2.0
"""One name a meaning: what goes on counting is asked for by methods of four names, and `rules` are Rules."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import toolkit
from tests.helpers import ROOT

LIVE = ("counters", "rule_counters", "statistics", "nic_counters")
SCRIPTS = ("toolkit.cli.__main__", "toolkit.program.bcc_process", "toolkit.lab.generator_process")  # run as they come


def modules() -> Iterator[ModuleType]:
    """Every module of the package."""
    for found in pkgutil.walk_packages(toolkit.__path__, "toolkit."):
        if found.name not in SCRIPTS:
            yield importlib.import_module(found.name)


def public_classes() -> list[type]:
    """Every class of the package whose name has no underscore in front."""
    return [
        one
        for module in modules()
        for name, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and not name.startswith("_")
    ]


def test_live_figures_are_methods_of_four_names() -> None:
    """But for a record that is finished (a tuple's field), where they are plain."""
    wrong = [
        f"{one.__module__}.{one.__name__}.{name}"
        for one in public_classes()
        for name in LIVE
        if name in vars(one) and not inspect.isfunction(vars(one)[name]) and name not in getattr(one, "_fields", ())
    ]
    assert not wrong, "properties and attributes that go on counting"


def test_who_counts_says_so_by_them() -> None:
    has = {name: {one.__name__ for one in public_classes() if hasattr(one, name)} for name in LIVE}
    assert has["counters"] >= {"Interface", "Tee", "Workers", "Program", "Lab"}
    assert has["rule_counters"] >= {"Interface", "Tee", "Workers", "Program"}
    assert has["nic_counters"] >= {"Interface", "Tee", "Workers"}
    assert has["statistics"] >= {
        "Interface",
        "Tee",
        "Workers",
        "Socket",
        "Capture",
        "Recorded",
        "Forwarder",
        "Responder",
        "Replay",
    }


def test_lost_is_a_number_of_packets() -> None:
    """Why none can come any more is loss()."""
    found = {one: vars(one)["lost"] for one in public_classes() if "lost" in vars(one)}
    assert len(found) > 2
    for one, lost in found.items():
        asked = lost.fget if isinstance(lost, property) else lost
        if inspect.isfunction(asked):
            assert inspect.signature(asked).return_annotation == "int", one
        else:
            assert one.__annotations__["lost"] in ("int", "int | None"), one


def test_rules_are_rules() -> None:
    """Not numbers of them (Batch.rule_numbers), nor what they counted (rule_counters())."""
    given = [(one, vars(one)["rules"]) for one in public_classes() if "rules" in vars(one)]
    wrong = [
        one for one, rules in given if not isinstance(rules, property) and "rules" not in getattr(one, "_fields", ())
    ]
    wrong += [
        one
        for one, rules in given
        if isinstance(rules, property) and rules.fget and rules.fget.__annotations__["return"] != "tuple[Rule, ...]"
    ]
    assert not wrong


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for one in public_classes():
        places.setdefault(one.__name__, []).append(one.__module__)
    for script in SCRIPTS:
        tree = ast.parse((ROOT / script.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
        for name in (node.name for node in tree.body if isinstance(node, ast.ClassDef)):
            places.setdefault(name, []).append(script)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_what_is_exported_says_what_it_is() -> None:
    doors = [toolkit, *(getattr(toolkit, name) for name in toolkit.__all__ if inspect.ismodule(getattr(toolkit, name)))]
    exported = {getattr(door, name) for door in doors for name in door.__all__ if inspect.isclass(getattr(door, name))}
    assert len(exported) > 50
    assert not [one for one in exported if one.__repr__ is object.__repr__]
