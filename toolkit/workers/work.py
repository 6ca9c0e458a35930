# SPDX-License-Identifier: Apache-2.0
"""Work: the function that workers run, pickled for another process."""

from __future__ import annotations

import pickle
import runpy
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit.errors import ArgumentError, ToolkitError

__all__ = ["Work", "packed", "refuse_inside_worker", "unpacked"]

_MAIN = "__toolkit_main__"  # the name of the user's script in a worker, where `if __name__ == "__main__"` is false

_importing_main = False  # written by unpacked() only


@dataclass(frozen=True)
class Work:
    """A pickled function, and the path of its script, if it is from one."""

    pickled: bytes
    main_module: str | None = None
    main_path: str | None = None


def packed(work: Callable[[Any], Any]) -> Work:
    """Pickle a function of the top level of a module or script. ArgumentError for others."""
    try:
        pickled = pickle.dumps(work)
    except Exception as refused:
        raise ArgumentError(
            f"cannot hand {work!r} to another process: {refused}. Likely cause: it is a lambda, or a function inside "
            "another. Next step: define it at the top level of a module; give it arguments by functools.partial."
        ) from refused
    if b"__main__" not in pickled:
        return Work(pickled)
    main = sys.modules["__main__"]
    spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m
        return Work(pickled, main_module=spec.name)
    if path is None:
        raise ArgumentError(
            f"cannot hand {work!r} to another process: it was defined in an interactive session or notebook, where "
            "another process cannot find it. Next step: write it to a file, and import it from there."
        )
    return Work(pickled, main_path=path)


def unpacked(work: Work) -> Any:
    """Import what the function needs, and return it. For the worker."""
    if work.main_module or work.main_path:
        _import_main(work)
    return pickle.loads(work.pickled)


def _import_main(work: Work) -> None:
    """Run the parent's script, under another name, so that pickle finds its functions in `__main__`."""
    global _importing_main
    _importing_main = True
    try:
        if work.main_module:
            names = runpy.run_module(work.main_module, run_name=_MAIN, alter_sys=True)
        else:
            names = runpy.run_path(work.main_path or "", run_name=_MAIN)
    finally:
        _importing_main = False
    module = types.ModuleType(_MAIN)
    module.__dict__.update(names)
    sys.modules[_MAIN] = sys.modules["__main__"] = module


def refuse_inside_worker() -> None:
    """Raise ToolkitError when a script starts workers while a worker imports it, since each would start more."""
    if _importing_main:
        raise ToolkitError(
            "this script starts workers whenever it is imported, and every worker imports it. "
            'Next step: put the part that starts them under `if __name__ == "__main__":`.'
        )
