# SPDX-License-Identifier: Apache-2.0
"""How a Socket is bound, for every wish and every UMEM: no driver is needed to say."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from toolkit.abi.if_xdp import XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_ZEROCOPY
from toolkit.net.netdev import NETDEV_XDP_ACT_BASIC, NETDEV_XDP_ACT_XSK_ZEROCOPY, Abilities
from toolkit.xsk import registration
from toolkit.xsk.options import SocketOptions
from toolkit.xsk.registration import Registration, ways

WISHES: tuple[bool | Literal["auto"], ...] = (True, False, "auto")


def registered(sg: bool, need_wakeup: bool, zero_copy: bool) -> Registration:
    made = Registration.__new__(Registration)  # no memory is registered
    made.sg, made.need_wakeup, made.zero_copy = sg, need_wakeup, zero_copy
    return made


def umem_of(*there: Registration) -> Any:
    return SimpleNamespace(registrations=list(there))


def test_the_flags_of_every_wish() -> None:
    for sg, need_wakeup, zero_copy in itertools.product(WISHES, repeat=3):
        flags = SocketOptions.checked(sg=sg, need_wakeup=need_wakeup, zero_copy=zero_copy).bind_flags
        assert bool(flags & XDP_USE_SG) == (sg is True)
        assert bool(flags & XDP_USE_NEED_WAKEUP) == (need_wakeup is not False)
        assert flags & (XDP_COPY | XDP_ZEROCOPY) == {True: XDP_ZEROCOPY, False: XDP_COPY, "auto": 0}[zero_copy]


@pytest.mark.parametrize("theirs", list(itertools.product((True, False), repeat=3)))
def test_a_socket_joins_those_that_are_bound_as_it_asks_and_no_others(theirs: tuple[bool, bool, bool]) -> None:
    there = registered(*theirs)
    for sg, need_wakeup, zero_copy in itertools.product((True, False), (True, False), WISHES):
        asked = SocketOptions.checked(sg=sg, need_wakeup=need_wakeup, zero_copy=zero_copy)
        assert there.fits(asked) == ((sg, need_wakeup, zero_copy) == theirs)


@pytest.mark.parametrize(
    ("there", "features", "expected"),
    [
        ((), None, [None]),  # the kernel decides, and its answer is read
        ((True,), None, [True, False]),
        ((True, False), None, [True, False]),
        ((False,), None, [False]),
        ((False,), NETDEV_XDP_ACT_BASIC, [False]),
        ((False,), NETDEV_XDP_ACT_BASIC | NETDEV_XDP_ACT_XSK_ZEROCOPY, [None]),
    ],
)
def test_what_auto_tries_beside_what_is_there(
    there: tuple[bool, ...], features: int | None, expected: list[bool | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first Socket in copy mode, of a veth say, must not keep a NIC from zero-copy, nor the other way round."""
    answer = None if features is None else Abilities(features, 1)
    monkeypatch.setattr(registration, "abilities", lambda ifindex: answer)
    natively = True
    monkeypatch.setattr(registration, "runs_natively", lambda ifindex: natively)
    umem = umem_of(*(registered(False, True, zero_copy) for zero_copy in there))
    wanted = SocketOptions.checked(sg="auto", need_wakeup="auto", zero_copy="auto")
    assert [way.zero_copy for way in ways(umem, wanted, 1)] == expected
    for asked in (True, False):  # what is asked for is not replaced by anything else
        wish = SocketOptions.checked(sg="auto", need_wakeup="auto", zero_copy=asked)
        assert ways(umem, wish, 1) == [wish]
    other = SocketOptions.checked(sg=True, need_wakeup="auto", zero_copy="auto")
    assert ways(umem, other, 1) == [other], "those are bound in another way, and say nothing of this one"
    natively = False
    assert [way.zero_copy for way in ways(umem, wanted, 1)] == [False], "the driver would not send"
