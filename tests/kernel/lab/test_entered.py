# SPDX-License-Identifier: Apache-2.0
"""A thread enters a namespace, a coroutine does not: other tasks of its event loop would come along."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from toolkit.errors import ToolkitError
from toolkit.lab import Lab
from toolkit.net import entered

HERE = "/proc/thread-self/ns/net"


def test_a_coroutine_cannot_enter(lab: Lab) -> None:
    """At its first await the other tasks of the event loop would run in that namespace too."""

    home = os.readlink(HERE)
    seen: list[str] = []

    async def other() -> None:
        for _ in range(3):
            seen.append(os.readlink(HERE))
            await asyncio.sleep(0)

    async def by_method() -> None:
        with lab.far.entered():
            await asyncio.sleep(0.01)

    async def by_function() -> None:
        with entered(lab.far):
            await asyncio.sleep(0.01)

    async def by_stack() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(entered(lab.far))
            await asyncio.sleep(0.01)

    async def as_generator() -> AsyncIterator[int]:
        with lab.far.entered():
            yield 1

    async def by_generator() -> None:
        async for _ in as_generator():
            await asyncio.sleep(0.01)

    def inside() -> str:
        with lab.far.entered():
            return os.readlink(HERE)

    async def right() -> tuple[str, str]:
        with entered(None):  # which moves nothing
            await asyncio.sleep(0)
        return inside(), lab.far.call(lambda: os.readlink(HERE))

    async def run(enter: Callable[[], Coroutine[Any, Any, object]]) -> object:
        beside = asyncio.ensure_future(other())
        try:
            return await enter()
        finally:
            await beside

    for enter in (by_method, by_function, by_stack, by_generator):
        with pytest.raises(ToolkitError, match=rf"{'as' if enter is by_generator else 'by'}_.*every other task"):
            asyncio.run(run(enter))
    assert asyncio.run(run(right)) == (f"net:[{lab.far.inode}]",) * 2
    assert set(seen) == {home}
