# SPDX-License-Identifier: Apache-2.0
"""What docs/_site/ makes of docstrings and of the command, before Sphinx sees it. scripts/docs builds the site."""

from __future__ import annotations

import importlib.util
import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import toolkit
from tests.helpers import ROOT


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "_site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def docstrings() -> Any:
    return load("docstrings")


def function(first: int, second: int, timeout: float | None = None) -> None:
    """Do it; `first` *and* second_.

    first, second: two numbers
    that are added.
    timeout: seconds.
    ArgumentError when it cannot be. raises: nothing.

    An example:

        function(*arguments)

    The end.
    """


def test_parameters_become_definitions_and_examples_stay_as_they_are(docstrings: Any) -> None:
    lines = inspect.cleandoc(function.__doc__ or "").split("\n")
    docstrings.as_fields(None, "function", "function", function, None, lines)
    blocks = [block.strip("\n") for block in "\n".join(lines).split("\n\n")]
    assert blocks == [
        r"Do it; `first` \*and\* second\_.",
        "``first``, ``second``\n    two numbers\n    that are added.",
        "``timeout``\n    seconds.",
        "ArgumentError when it cannot be. raises: nothing.",
        "An example:",
        ".. code-block:: text",
        "    function(*arguments)",
        "The end.",
    ]


def test_a_package_leaves_out_what_toolkit_has(docstrings: Any) -> None:
    assert docstrings.skipped(None, "module", "Flows", toolkit.Flows, False, None) is True
    assert docstrings.skipped(None, "module", "Evicted", object(), False, None) is None
    assert docstrings.skipped(None, "class", "Flows", toolkit.Flows, False, None) is None


def test_a_public_name_without_a_page_is_complained_of(docstrings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[str] = []
    logger = SimpleNamespace(warning=lambda text, *values: complaints.append(text % values))
    monkeypatch.setattr(docstrings.logging, "getLogger", lambda name: logger)
    names = {f"toolkit.{name}": None for name in toolkit.__all__}
    for package in docstrings.PACKAGES:
        names |= {f"toolkit.{package}.{name}": None for name in getattr(toolkit, package).__all__}
    environment = SimpleNamespace(get_domain=lambda name: SimpleNamespace(objects=names))
    docstrings.lacking(None, environment)
    assert complaints == []
    del names["toolkit.Batch"], names["toolkit.lab.Lab"]
    docstrings.lacking(None, environment)
    assert complaints == [
        "toolkit.Batch is public, and no page documents it",
        "toolkit.lab.Lab is public, and no page documents it",
    ]


def test_every_command_and_topic_has_a_section() -> None:
    commands = load("commands")
    titles = [title for title, _ in commands.help_texts(commands.cli, "xsk")]
    assert titles[0] == "xsk"
    assert {"xsk receive", "xsk capture", "xsk doctor"} <= set(titles)
    shown = dict(commands.help_texts(commands.cli, "xsk"))["xsk receive"]
    assert shown.startswith("Usage: xsk receive ")
    assert "--tee" in shown
    made = commands.sections(iter([("A title", "a text")]))
    assert made[0].astext() == "A title\n\na text"
