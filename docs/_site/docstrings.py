# SPDX-License-Identifier: Apache-2.0
"""Docstrings as they are written here, made visible to Sphinx; a warning of public names that no page documents."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from docutils.nodes import document
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import toolkit

PACKAGES = [name for name in toolkit.__all__ if inspect.ismodule(getattr(toolkit, name))]


def as_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place: lines `name: text` about parameters as definitions, examples as literal blocks."""
    try:
        parameters = set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        parameters = set()
    done: list[str] = []
    indent, example = "", False
    for line in lines:
        begins = re.match(r"((?:\w+, )*\w+): ", line)
        if not line.strip():
            indent = ""
            done.append("")
        elif line.startswith("    ") and (example or not (done and done[-1])):
            done += [*([] if example else [".. code-block:: text", ""]), line]
            example = True
        elif begins and parameters.issuperset(begins[1].split(", ")):
            indent, example = "    ", False
            done += [
                "",
                ", ".join(f"``{each}``" for each in begins[1].split(", ")),
                indent + plain(line[begins.end() :]),
            ]
        else:
            if re.match(r"(\w+Error|Raises)\b", line) and indent:  # no longer about the parameter
                indent = ""
                done.append("")
            example = False
            done.append(indent + plain(line))
    lines[:] = done


def plain(line: str) -> str:
    """`line` with the characters escaped that mean something to reStructuredText, but for those between backquotes."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*|]|_\b)", r"\\\1", part) for part in parts)


def skipped(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """A package's page leaves out what the page of `toolkit` has."""
    if what != "module" or skip:
        return None
    return getattr(toolkit, name, None) is obj or None


def lacking(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page documents."""
    documented = set(env.get_domain("py").objects)
    for package in ["", *PACKAGES]:
        module = importlib.import_module(f"toolkit.{package}".rstrip("."))
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.ismodule(thing) or name == "__version__":
                continue
            places = {f"{module.__name__}.{name}"}
            if getattr(toolkit, name, None) is thing:
                places.add(f"toolkit.{name}")
            if not places & documented:
                logging.getLogger(__name__).warning("%s.%s is public, and no page documents it", module.__name__, name)


def exact(app: Sphinx, doctree: document) -> None:
    """Have `bytes` in a signature mean the type, not the first attribute of that name."""
    for reference in doctree.findall(pending_xref):
        if not reference.get("refspecific"):
            reference.attributes.pop("refspecific", None)  # Sphinx asks whether it is there, not whether it is true


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect what is above."""
    app.connect("doctree-read", exact)
    app.connect("autodoc-process-docstring", as_fields)
    app.connect("autodoc-skip-member", skipped)
    app.connect("env-check-consistency", lacking)
    return {"version": "1", "parallel_read_safe": True}
