# SPDX-License-Identifier: Apache-2.0
"""lazily(): public names of a package that are imported at first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, places: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for `package`, whose `__all__` has every public name.

    places: a module of the package -> its public names, separated by spaces; for a public package, its name twice.
    """
    where = {name: module for module, names in places.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = import_module(f"{package}.{where[name]}")
        if where[name] != name:
            found = getattr(found, name)
        setattr(sys.modules[package], name, found)  # not looked up again
        return found

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return find, names
