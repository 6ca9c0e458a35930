# SPDX-License-Identifier: Apache-2.0
"""What tests of the command share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.firewalls import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A /run and a BPF file system that commands of the test share, and nobody else."""
    made = Machine()
    yield made
    left = made.left()
    made.close()
    assert left == [], "pins or records were left"
