# SPDX-License-Identifier: Apache-2.0
"""What tests of Workers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.helpers.workers import starting
from toolkit.lab import Lab
from toolkit.workers import Workers


@pytest.fixture
def wide(make_lab: Callable[..., Lab]) -> Lab:
    """A cable with two queues."""
    return make_lab(queues=2)


@pytest.fixture
def start(wide: Lab) -> Iterator[Callable[..., Workers]]:
    """Start workers on the wide cable."""
    yield from starting(wide)
