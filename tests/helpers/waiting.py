# SPDX-License-Identifier: Apache-2.0
"""Receiving in each way of waiting, and what must have arrived."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import pytest

import toolkit
from toolkit.lab import Lab
from toolkit.wait.waiter import WaitMode

MODES: tuple[Any, ...] = get_args(WaitMode)

# Whether the kernel knows a NAPI to poll for a socket depends on driver, mode and kernel: a veth in copy mode has none
# on newer ones. Where it knows none, an Interface warns; what the tests with this mark check holds either way. When it
# warns: test_busy_polling_says_if_it_works in tests/kernel/wait, test_busy_polling_is_what_it_says in tests/guest.
busy_polling_or_not = pytest.mark.filterwarnings("ignore:busy polling does not reach the driver:RuntimeWarning")


def near(lab: Lab, wait: WaitMode, **options: Any) -> toolkit.Interface:
    """Open the near end for everything."""
    return toolkit.open("veth0", filter="all", wait=wait, netns=lab.netns, **options)


# Ring entries: on a shared machine a process may have to wait for its turn, and nothing may be lost by it.
ROOMY = 65536


def check_whole(numbers: np.ndarray[Any, Any], redirected: int, sent: int) -> None:
    """Everything that the program redirected arrived, once. A busy veth may lose a few before the program sees them."""
    assert len(numbers) == redirected
    assert len(np.unique(numbers)) == len(numbers)
    assert int(numbers.max()) < sent
    assert redirected > 0.95 * sent


# Every way in which an Interface waits, and a Tee.
MODES_AND_TEE: tuple[Any, ...] = (*get_args(WaitMode), "tee")


def near_or_tee(lab: Lab, mode: WaitMode | Literal["tee"] = "poll", **options: Any) -> Any:
    """An Interface that waits in one of its ways, or a Tee."""
    if mode == "tee":
        return toolkit.tee("veth0", filter="all", netns=lab.netns)
    return toolkit.open("veth0", filter="all", wait=mode, netns=lab.netns, **options)
