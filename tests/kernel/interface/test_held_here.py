# SPDX-License-Identifier: Apache-2.0
"""What this process holds already: the error says so, and advises to close it; never what fails next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import what_runs
from toolkit.errors import SystemCallError
from toolkit.lab import Lab

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("replace", [False, True, "link"])
@pytest.mark.parametrize("entrance", [toolkit.open, toolkit.tee])
def test_an_interface_that_one_holds(lab: Lab, entrance: Callable[..., Any], replace: Any) -> None:
    """A tee may take the place of another for good: it needs no queue, and that is what "link" says."""
    with toolkit.open("veth0", filter="udp", netns=lab.netns) as first:
        runs = what_runs(lab)
        if entrance is toolkit.tee and replace == "link":
            entrance("veth0", filter="tcp", replace=replace, netns=lab.netns).close()
            return
        with pytest.raises(SystemCallError, match=r"this process.*close\(\) the") as caught:
            entrance("veth0", filter="tcp", replace=replace, netns=lab.netns)
        assert "replace" not in str(caught.value)
        assert what_runs(lab) == runs
        assert first.loss() is None
    entrance("veth0", filter="tcp", replace=replace, netns=lab.netns).close()  # what the advice leads to


@pytest.mark.parametrize("queues", [(0, 0), (1, 0, 0), (0, 1, 1)])
@pytest.mark.parametrize("rings", [({}, {}), ({"tx": False}, {"rx": False}), ({"rx": False}, {"tx": False})])
@pytest.mark.parametrize("shared", [True, False], ids=["one UMEM", "two UMEMs"])
def test_a_second_socket_on_a_queue(
    make_lab: Callable[..., Lab], queues: tuple[int, ...], rings: tuple[dict[str, bool], ...], shared: bool
) -> None:
    """Also as the third on a UMEM, where libxdp says "invalid argument"."""
    lab = make_lab(queues=2)
    with toolkit.UMEM(4096) as umem:
        held = [toolkit.Socket("veth0", queue, umem, netns=lab.netns) for queue in queues[:-2]]
        held.append(toolkit.Socket("veth0", queues[-2], umem, netns=lab.netns, **rings[0]))
        with pytest.raises(SystemCallError, match=rf"queue {queues[-1]} of.*this process.*close\(\)") as caught:
            toolkit.Socket("veth0", queues[-1], umem if shared else None, netns=lab.netns, **rings[1])
        assert caught.value.errno == 16
        held.pop().close()
        toolkit.Socket("veth0", queues[-1], umem if shared else None, netns=lab.netns, **rings[1]).close()
        for sock in held:
            sock.close()


def test_the_same_queue_elsewhere_is_another_one(make_lab: Callable[..., Lab]) -> None:
    """Of an interface of the same name and number, in another network namespace."""
    one, other = make_lab(), make_lab()
    with toolkit.Socket("veth0", netns=one.netns), toolkit.Socket("veth0", netns=other.netns):
        pass


def test_a_socket_that_nobody_holds_any_more_is_none(lab: Lab) -> None:
    for _ in range(3):
        toolkit.Socket("veth0", netns=lab.netns)
