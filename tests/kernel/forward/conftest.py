# SPDX-License-Identifier: Apache-2.0
"""What tests of forwarding and answering share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

import toolkit
from tests.helpers.forwarding import Middle
from toolkit.lab import Lab


@pytest.fixture
def near(lab: Lab) -> Iterator[toolkit.Interface]:
    """The near end, which receives everything."""
    with toolkit.open("veth0", filter="all", ring_size=64, frames=256, netns=lab.netns) as interface:
        yield interface


@pytest.fixture
def middle() -> Iterator[Middle]:
    with contextlib.ExitStack() as stack:
        yield Middle(stack)


@pytest.fixture
def asking(make_lab: Callable[..., Lab]) -> Lab:
    """A Lab whose far end asks by ARP and neighbour discovery."""
    return make_lab(neighbours=False)
