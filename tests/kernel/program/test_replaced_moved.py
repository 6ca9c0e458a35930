# SPDX-License-Identifier: Apache-2.0
"""replace=: an interface that is moved into another network namespace meanwhile has its firewall again all the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolkit
from tests.helpers.firewalls import by_netlink, own_places
from toolkit.lab import Lab
from toolkit.lab.namespace import Namespace
from toolkit.net.routes import rtnetlink
from toolkit.program import attached
from toolkit.program.replaced import left


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pins and records of this test alone."""
    with own_places(tmp_path, monkeypatch):
        yield


@pytest.mark.parametrize("taken", [False, True], ids=["number free", "number taken"])
def test_it_is_put_back_where_the_interface_is(lab: Lab, taken: bool) -> None:
    """Under its own number, or another one where that is taken; the record and the pin are gone."""
    firewall = by_netlink(lab)
    with lab.netns.entered():
        number = socket.if_nametoindex("veth0")
    with Namespace() as elsewhere:
        if taken:
            with elsewhere.entered(), rtnetlink("cannot make a bridge") as netlink:
                netlink.link("add", ifname="br0", kind="bridge", index=number)
        opened = toolkit.open("veth0", filter="udp port 9", ring_size=64, netns=lab.netns, replace=True)
        with lab.netns.entered(), rtnetlink("cannot move veth0") as netlink:
            netlink.link("set", index=number, net_ns_fd=elsewhere.fileno())
        opened.close()
        with elsewhere.entered():
            here = socket.if_nametoindex("veth0")
            assert (here != number) == taken
            found = attached(here)
            assert found is not None
            assert found.program.id == firewall
            assert found.link_ids == ()
            assert left() == []
    with lab.netns.entered():
        assert left() == []
