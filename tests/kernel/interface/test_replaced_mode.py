# SPDX-License-Identifier: Apache-2.0
"""replace=True: the sockets are bound before a program is replaced, and again where that decided on zero-copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers.firewalls import by_netlink, own_places
from tests.helpers.wire import Wire, collect, frame
from toolkit.abi import libbpf as abi
from toolkit.interface import open_interface
from toolkit.lab import Lab

NATIVE, GENERIC = abi.XDP_FLAGS_DRV_MODE, abi.XDP_FLAGS_SKB_MODE


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with own_places(tmp_path, monkeypatch):
        yield


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool | str]:
    """What each Socket was asked for as zero_copy, in order."""
    asked: list[bool | str] = []

    def recorded(*arguments: Any, **options: Any) -> toolkit.Socket:
        asked.append(options["zero_copy"])
        return toolkit.Socket(*arguments, **options)

    monkeypatch.setattr(open_interface, "Socket", recorded)
    return asked


@pytest.mark.parametrize(
    ("there", "options", "mode", "binds"),
    [
        (NATIVE, {}, "native", ["auto"]),
        (GENERIC, {}, "native", ["auto", "auto"]),
        (GENERIC, {"zero_copy": False}, "native", [False]),
        # Frames of a socket in zero-copy mode are kept back for 5 s after it: it is not bound so for nothing.
        (NATIVE, {"mode": "generic"}, "generic", [False]),
    ],
)
def test_it_is_bound_as_the_program_that_comes_needs_it(
    lab: Lab, wire: Wire, asked: list[bool | str], there: int, options: dict[str, Any], mode: str, binds: list[Any]
) -> None:
    by_netlink(lab, there)
    with toolkit.open("veth0", filter="ether[0] = 2", replace=True, netns=lab.netns, **options) as veth0:
        assert veth0.mode == mode
        assert asked == binds
        packets = [frame(number) for number in range(20)]
        wire.send(packets)
        assert collect(veth0.receive, len(packets)) == packets
