# SPDX-License-Identifier: Apache-2.0
"""Warnings that name the line of the user's code which led to them, and come once for each of the user's calls."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

from toolkit._base.uninterrupted import afterwards

__all__ = ["once", "warn"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_given: ContextVar[set[str] | None] = ContextVar("given", default=None)


def warn(text: str, category: type[Warning]) -> None:
    """Warn, at the line outside of the toolkit from where it was called; within once(), of each text once.

    What is noticed within uninterrupted work, in a thread of its own, is said by the thread that waits for it.
    """
    afterwards(lambda: _warn(text, category))


def _warn(text: str, category: type[Warning]) -> None:
    given = _given.get()
    if given is not None:
        if text in given:
            return
        given.add(text)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Let a call that comes to the same thing several times warn of it once. Within another such block that one counts.

    By context, so that other threads and tasks are not silenced.
    """
    if _given.get() is not None:
        yield
        return
    token = _given.set(set())
    try:
        yield
    finally:
        _given.reset(token)
