# SPDX-License-Identifier: Apache-2.0
"""What drivers can, by kernel; how an Interface is opened in each mode, and that it is what was asked for."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Sequence
from typing import Any

import toolkit
from tests.helpers.cable import Cable
from tests.helpers.sending import sent_frames
from tests.helpers.wire import Wire, collect, number_of

__all__ = ["MODES", "assert_whole", "delivered", "kernel", "missing", "numbered", "opened", "options"]

MODES = ("generic", "native", "zero-copy")
# The first kernel that has it, as (major, minor); absent: none has.
_SINCE = {
    "veth": {"generic": (5, 4), "native": (5, 4)},
    "virtio": {"generic": (5, 4), "native": (5, 4), "zero-copy": (6, 13)},
    "igb": {"generic": (5, 4), "native": (5, 10), "zero-copy": (6, 14)},
    "vmxnet3": {"generic": (5, 4), "native": (6, 6)},
    "e1000e": {"generic": (5, 4)},
}
BURST = 32  # frames at once: an emulated NIC's peer has room for them


def kernel() -> tuple[int, int]:
    """The running kernel, as (major, minor)."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    assert found is not None
    return int(found[1]), int(found[2])


def missing(mode: str, nic: str) -> str:
    """Why a driver has no such mode on this kernel; "" if it has."""
    since = _SINCE[nic].get(mode)
    if since is None:
        return f"the driver of {nic} has no {'zero-copy' if mode == 'zero-copy' else mode + ' XDP'}"
    if kernel() < since:
        return f"the driver of {nic} has {mode} since Linux {since[0]}.{since[1]}"
    return ""


def options(mode: str) -> dict[str, Any]:
    """Those of toolkit.open() for a mode."""
    return {"mode": "generic" if mode == "generic" else "native", "zero_copy": mode == "zero-copy"}


def opened(cable: Cable, mode: str, **more: Any) -> toolkit.Interface:
    """The near end, opened in a mode; it takes the numbered frames of the tests."""
    chosen: dict[str, Any] = {"filter": "ether proto 0x88b5", "ring_size": 256, "netns": cable.netns}
    interface = toolkit.open(cable.interface, **(chosen | options(mode) | more))
    assert (interface.mode, interface.zero_copy) == (options(mode)["mode"], mode == "zero-copy")
    return interface


def delivered(cable: Cable, interface: toolkit.Interface, packets: Sequence[bytes], burst: int = BURST) -> list[bytes]:
    """Send packets from the far end, a burst at a time, each when the one before has been received."""
    got: list[bytes] = []
    with Wire(cable) as wire:
        for some in _bursts(packets, burst):
            wire.send(some)
            got += collect(interface.receive, len(some))
    return got


def assert_whole(got: Sequence[bytes], sent: Sequence[bytes], *witnesses: object) -> None:
    """All that was sent has arrived, byte by byte, in order; else what is missing, and what those say who counted."""
    if list(got) == list(sent):
        return
    numbers = [number_of(one) for one in got]
    missing = sorted({number_of(one) for one in sent} - set(numbers))
    order = "" if numbers == sorted(set(numbers)) else ", out of order or twice"
    damage = "" if set(got) <= set(sent) else ", not as they were sent"
    raise AssertionError(
        f"{len(got)} of {len(sent)} frames arrived{order}{damage}; missing: {missing[:20]}; "
        + "; ".join(map(str, witnesses))
    )


def _bursts(packets: Sequence[bytes], burst: int) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(packets), burst):
        yield packets[at : at + burst]


def numbered(count: int) -> list[bytes]:
    """Frames of 60 to 1514 bytes."""
    return sent_frames(count, lengths=range(60, 1515, 97))
