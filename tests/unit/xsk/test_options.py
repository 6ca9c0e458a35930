# SPDX-License-Identifier: Apache-2.0
"""What a Socket on a shared UMEM comes to, for every first socket and every wish: no driver is needed to say."""

from __future__ import annotations

import itertools
from errno import EINVAL, EOPNOTSUPP
from typing import Any, Literal

import pytest

from toolkit.abi.if_xdp import XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_ZEROCOPY
from toolkit.errors import ArgumentError
from toolkit.xsk.options import Shared, SocketOptions
from toolkit.xsk.registration import Registration

WISHES: tuple[bool | Literal["auto"], ...] = (True, False, "auto")


@pytest.mark.parametrize("theirs", list(itertools.product((True, False), repeat=3)))
def test_every_wish_on_every_umem(theirs: tuple[bool, bool, bool]) -> None:
    shared = Shared(*theirs)
    for sg, need_wakeup, zero_copy in itertools.product(WISHES, repeat=3):
        asked = SocketOptions.checked(sg=sg, need_wakeup=need_wakeup, zero_copy=zero_copy)
        if all(wish in ("auto", their) for wish, their in zip((sg, need_wakeup, zero_copy), theirs, strict=True)):
            came = asked.on(shared, "a test")
            assert (came.sg, came.need_wakeup, came.zero_copy) == theirs
        else:
            with pytest.raises(ArgumentError, match="cannot bind to a test with"):
                asked.on(shared, "a test")


def test_the_first_one() -> None:
    flags = {
        ("auto", "auto", "auto"): XDP_USE_NEED_WAKEUP,
        (True, True, True): XDP_USE_NEED_WAKEUP | XDP_USE_SG | XDP_ZEROCOPY,
        (False, False, False): XDP_COPY,
    }
    for (sg, need_wakeup, zero_copy), expected in flags.items():
        wish: dict[str, Any] = {"sg": sg, "need_wakeup": need_wakeup, "zero_copy": zero_copy}
        assert SocketOptions.checked(**wish).on(None, "a test").bind_flags == expected


def test_a_driver_without_zero_copy_beside_one_that_has_it() -> None:
    """The kernel forces it upon the second one: the error says so. Other refusals stay what they are."""
    registration = Registration.__new__(Registration)  # no memory is registered
    for zero_copy, number, expected in ((True, EOPNOTSUPP, True), (False, EOPNOTSUPP, False), (True, EINVAL, False)):
        registration.shared = Shared(sg=False, need_wakeup=True, zero_copy=zero_copy)
        error = registration.not_bound(number, "queue 0 of a test")
        assert error.errno == number
        assert ("the other sockets of this UMEM are zero-copy" in str(error)) is expected
