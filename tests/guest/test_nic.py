# SPDX-License-Identifier: Apache-2.0
"""What is a NIC's own: its filter of addresses, its link, what it can busy-poll, its MTU in zero-copy mode."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable

import pytest

from tests.helpers.cable import Cable
from tests.helpers.drivers import delivered, missing, numbered, opened
from tests.helpers.promiscuity import seen as promiscuity
from tests.helpers.wire import Wire, collect
from toolkit.doctor import examine
from toolkit.errors import SystemCallError
from toolkit.net.links import link_state
from toolkit.net.netdev import abilities
from toolkit.umem.umem import zero_copy_mtu

Seen = Callable[[str], None]
FOREIGN = bytes.fromhex("0200000000f7")  # nobody's address


def to(address: bytes, frames: list[bytes]) -> list[bytes]:
    return [address + one[6:] for one in frames]


def test_packets_to_other_addresses_come_with_promisc_only(cable: Cable, mode: str, seen: Seen) -> None:
    """A veth has no filter; NICs do."""
    foreign, own = to(FOREIGN, numbered(8)), numbered(8)
    came = {}
    for promisc in (False, True):
        with opened(cable, mode, promisc=promisc) as near, Wire(cable) as wire:
            assert promiscuity(cable, cable.interface) == (int(promisc), False)
            wire.send(foreign)
            wire.send(own)
            got = collect(near.receive, 16, timeout=20.0, idle=2.0)
            came[promisc] = sum(one[:6] == FOREIGN for one in got)
            assert [one for one in got if one[:6] != FOREIGN] == own
        assert promiscuity(cable, cable.interface) == (0, False)
    assert came == {False: 8 if cable.kind == "veth" else 0, True: 8}
    seen(f"of 8 frames to a foreign address {came[False]} came, {came[True]} with promisc; afterwards it is off again")


def test_the_link_is_there_when_it_was_opened_again(cable: Cable, mode: str, seen: Seen) -> None:
    """Some drivers restart it when a program goes, and when one comes."""
    with opened(cable, mode):
        pass
    with opened(cable, mode) as near, cable.netns.entered():
        assert link_state(near.device.ifindex).carrier
    seen("a carrier, at once")


def test_zero_copy_and_the_mtu(cable: Cable, seen: Seen) -> None:
    """The largest MTU binds; with the next one the error and the doctor name the MTU, and what they propose helps."""
    if reason := missing("zero-copy", cable.kind):
        pytest.skip(reason)
    with cable.netns.entered():
        able = abilities(socket.if_nametoindex(cable.interface))
    most = zero_copy_mtu(4096, buffers=1)
    assert able is not None
    try:
        cable.set_mtu(9000)
        with pytest.raises(SystemCallError, match=rf"MTU of 9000.*zero-copy.*mtu {most}") as caught:
            opened(cable, "zero-copy")
        with cable.netns.entered():
            found = {one.check: one for one in examine(cable.interface)}
        if able.zc_max_segs == 1:
            assert "not with MTU 9000" in found["zero-copy"].text
            assert found["zero-copy"].remedy in str(caught.value)
    finally:
        cable.set_mtu(1500)
    seen(str(caught.value))


@pytest.mark.parametrize("zero_copy", [False, True])
def test_busy_polling_is_what_it_says(cable: Cable, zero_copy: bool, seen: Seen) -> None:
    """It warns where the kernel knows no NAPI for a socket that has received, and there only."""
    mode = "zero-copy" if zero_copy else "native"
    if reason := missing(mode, cable.kind):
        pytest.skip(reason)
    with warnings.catch_warnings(record=True) as said, opened(cable, mode, wait="busy-poll") as near:
        warnings.simplefilter("always")
        assert delivered(cable, near, numbered(4)) == numbered(4)
        near.receive(timeout=0.5)
        reaches = near.info()["busy_polling"]
    warned = [one for one in said if "busy polling does not reach" in str(one.message)]
    assert reaches is not None
    assert bool(warned) is not reaches
    seen("the driver is polled" if reaches else f"warned: {str(warned[0].message)[:60]}…")
