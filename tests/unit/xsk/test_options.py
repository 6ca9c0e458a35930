# SPDX-License-Identifier: Apache-2.0
"""How a Socket is bound, for every wish and every UMEM: no driver is needed to say."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from toolkit.abi.if_xdp import XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_ZEROCOPY
from toolkit.errors import NotSupportedError
from toolkit.net.device import Device
from toolkit.net.netdev import NETDEV_XDP_ACT_BASIC, NETDEV_XDP_ACT_XSK_ZEROCOPY, Abilities
from toolkit.xsk import registration
from toolkit.xsk.options import SocketOptions
from toolkit.xsk.registration import Registration, ways

WISHES: tuple[bool | Literal["auto"], ...] = (True, False, "auto")


def registered(sg: bool, need_wakeup: bool, zero_copy: bool) -> Registration:
    made = Registration.__new__(Registration)  # no memory is registered
    made.sg, made.need_wakeup, made.zero_copy = sg, need_wakeup, zero_copy
    return made


def umem_of(*there: Registration, capacity: int = 3840) -> Any:
    return SimpleNamespace(registrations=list(there), packet_capacity=capacity)


def device(driver: str = "veth", mtu: int = 1500) -> Device:
    return Device("a test", 1, True, True, mtu, bytes(6), 1, driver, False)


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
    assert [way.zero_copy for way in ways(umem, wanted, device())] == expected
    for asked in (True, False):  # what is asked for is not replaced by anything else
        wish = SocketOptions.checked(sg="auto", need_wakeup="auto", zero_copy=asked)
        assert ways(umem, wish, device()) == [wish]
    other = SocketOptions.checked(sg=True, need_wakeup="auto", zero_copy="auto")
    assert ways(umem, other, device()) == [other], "those are bound in another way, and say nothing of this one"
    natively = False
    assert [way.zero_copy for way in ways(umem, wanted, device())] == [False], "the driver would not send"


@pytest.mark.parametrize("driver", ["igb", "ice"])
@pytest.mark.parametrize(
    ("capacity", "mtu", "splits"),
    [(1792, 1500, True), (3840, 1500, False), (1792, 900, False), (3840, 3000, False), (3840, 9000, True)],
)
def test_a_nic_that_would_split_packets_is_not_bound_zero_copy(
    driver: str, capacity: int, mtu: int, splits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In guests of igb, each packet of more than 1024 bytes came as two from frames of 2048."""
    monkeypatch.setattr(registration, "runs_natively", lambda ifindex: True)
    umem, nic, splits = umem_of(capacity=capacity), device(driver, mtu), splits and driver == "igb"
    auto = SocketOptions.checked(sg="auto", need_wakeup="auto", zero_copy="auto")
    assert [way.zero_copy for way in ways(umem, auto, nic)] == [False if splits else None]
    asked = auto._replace(zero_copy=True)
    assert ways(umem, asked._replace(rx=False), nic), "what is sent is not split"
    if splits:
        with pytest.raises(NotSupportedError, match=f"an MTU of {mtu} allows"):
            ways(umem, asked, nic)
    else:
        assert ways(umem, asked, nic) == [asked]
    assert (nic.room > 1792) == (mtu > 1700 or (driver == "igb" and mtu > 1002)), "by this open() chooses its frames"
