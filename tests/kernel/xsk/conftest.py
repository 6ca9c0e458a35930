# SPDX-License-Identifier: Apache-2.0
"""What tests of Sockets share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import toolkit
from tests.helpers.sending import plain_socket
from toolkit.lab import Lab


@pytest.fixture
def sock(lab: Lab) -> Iterator[toolkit.Socket]:
    """A Socket on the near end, with small rings."""
    with plain_socket(lab) as made:
        yield made
