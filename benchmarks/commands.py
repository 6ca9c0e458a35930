# SPDX-License-Identifier: Apache-2.0
"""Commands: the child's side of benchmarks.consumer: commands on standard input, answers in JSON. Standard library."""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.sampler import profile

__all__ = ["Commands"]


class Commands:
    """Answers commands on standard input, between two polls of the network."""

    def __init__(self, counts: Callable[[], dict[str, int]], **others: Callable[..., dict[str, Any]]) -> None:
        """Take functions by the name of the command; they get the words that follow it."""
        self._functions: dict[str, Callable[..., dict[str, Any]]] = {"counts": counts, "profile": profile, **others}
        self._poll = select.poll()
        self._poll.register(sys.stdin.fileno(), select.POLLIN)

    def ready(self, **about: Any) -> None:
        """Report to the parent that work begins."""
        print(json.dumps(about), flush=True)

    def answer(self, seconds: float = 0.0) -> bool:
        """Answer one command that comes within `seconds`. False: the parent wants the child to end."""
        if not self._poll.poll(seconds * 1000):
            return True
        words = sys.stdin.readline().split()
        if not words:
            return False
        print(json.dumps(self._functions[words[0]](*words[1:])), flush=True)
        return True
