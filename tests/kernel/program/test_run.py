# SPDX-License-Identifier: Apache-2.0
"""Programs run on bytes, without an interface."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.programs import DOORS, FRAME
from toolkit.errors import ArgumentError
from toolkit.program import Program


def test_a_packet_that_is_no_frame() -> None:
    with Program.build("xdp_pass.c") as program:
        with pytest.raises(ArgumentError, match="14 bytes or more"):
            program.test_run(bytes(13))
        with pytest.raises(ArgumentError, match="14 bytes or more"):
            program.test_run_many([FRAME, b""])


@DOORS
@pytest.mark.parametrize("repeat", [0, -1, 1_000_001, 1 << 32, 1 << 64])
def test_a_program_is_not_run_without_end(door: Any, repeat: int) -> None:
    """While the kernel runs it nobody hears a Ctrl-C, and its counter of runs has 32 bits only."""
    with door("xsk_redirect.c", filter="all") as program:
        with pytest.raises(ArgumentError, match=r"repeat cannot be .*from 1 to 1,000,000"):
            program.test_run(FRAME, repeat=repeat)
        assert program.counters()["matched"] == 0
        program.test_run(FRAME, repeat=1_000_000)
        assert program.counters()["matched"] == 1_000_000
