# SPDX-License-Identifier: Apache-2.0
"""What tests of NAPI deferral share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.napi import own_records, settings
from toolkit.lab import Lab


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Records of this test alone."""
    yield from own_records(tmp_path, monkeypatch)


@pytest.fixture
def interface(lab: Lab) -> Callable[..., dict[str, int]]:
    """The near end's settings: call it to read them, with values to set them."""
    return settings(lab)
