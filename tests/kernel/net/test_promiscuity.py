# SPDX-License-Identifier: Apache-2.0
"""Promiscuous mode: as the kernel counts it, for as long as somebody wants it, and gone with the process in any way."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import toolkit
from tests.helpers.cli import xsk
from tests.helpers.promiscuity import seen
from tests.helpers.wire import eventually, run_child
from toolkit.doctor.status import collect
from toolkit.errors import SystemCallError
from toolkit.lab import Lab
from toolkit.net.links import link_state
from toolkit.net.promiscuity import promiscuous
from toolkit.net.routes import rtnetlink
from toolkit.program import Program


def work(interface: toolkit.Interface) -> dict[str, Any]:
    """Wait for the end."""
    interface.receive()
    return interface.info()


@contextlib.contextmanager
def workers(name: str, **options: Any) -> Iterator[toolkit.Workers]:
    with toolkit.Workers(name, work, **options) as pool:
        yield pool


OPENERS: dict[str, Callable[..., Any]] = {"open": toolkit.open, "tee": toolkit.tee, "Workers": workers}


@pytest.mark.parametrize("how", OPENERS)
def test_for_as_long_as_it_is_open_and_by_no_flag_that_stays(lab: Lab, how: str) -> None:
    for wanted in (False, True):
        with OPENERS[how]("veth0", filter="all", promisc=wanted, netns=lab.netns) as opened:
            assert seen(lab) == (int(wanted), False)
            assert opened.info()["promisc"] is wanted
        assert seen(lab) == (0, False)


def test_the_kernel_counts_those_who_want_it(lab: Lab) -> None:
    with lab.netns.entered():
        index = socket.if_nametoindex("veth0")
        first, second = (promiscuous("veth0", index) for _ in range(2))
    assert seen(lab) == (2, False)
    first.close()
    first.close()
    assert seen(lab) == (1, False)
    del second
    gc.collect()
    assert seen(lab) == (0, False)


def test_status_counts_them_too(lab: Lab) -> None:
    def shown() -> int | None:
        with lab.netns.entered():
            (found,) = (one for one in collect().interfaces if one.interface == "veth0")
        return found.promiscuity

    assert shown() == 0
    with toolkit.open("veth0", filter="all", promisc=True, netns=lab.netns):
        assert shown() == 1
        with lab.netns.entered():
            index = socket.if_nametoindex("veth0")
            second = promiscuous("veth0", index)
        assert shown() == 2 == seen(lab)[0]
        told = xsk(lab, "status")
        assert "veth0 is promiscuous (2 times)" in told.stdout
        second.close()
    assert "promiscuous" not in xsk(lab, "status").stdout
    with lab.netns.entered():
        assert link_state(1 << 30) == (None, None)


def test_an_interface_on_top_of_another_passes_it_down(lab: Lab) -> None:
    """As a NIC's filter is opened by it: a macvlan has one, in the interface below."""

    def add() -> None:
        with rtnetlink("cannot add a macvlan") as netlink:
            netlink.link(
                "add", ifname="mac0", kind="macvlan", link=socket.if_nametoindex("veth0"), macvlan_mode="bridge"
            )
            netlink.link("set", index=socket.if_nametoindex("mac0"), state="up")

    lab.netns.call(add)
    before, _ = seen(lab)
    with toolkit.open("mac0", filter="all", promisc=True, netns=lab.netns):
        assert seen(lab, "mac0") == (1, False)
        assert seen(lab)[0] == before + 1
    assert seen(lab)[0] == before


def test_an_open_that_fails_leaves_nothing(lab: Lab) -> None:
    with Program.build("xdp_pass.c") as other, other.attach("veth0", netns=lab.netns):
        for opener in (toolkit.open, toolkit.tee):
            with pytest.raises(SystemCallError, match="EBUSY"):
                opener("veth0", filter="all", promisc=True, netns=lab.netns)
        assert seen(lab) == (0, False)


def test_no_such_interface_is_said() -> None:
    with pytest.raises(SystemCallError, match=r"eth77 receive packets to all addresses.*No such device"):
        promiscuous("eth77", 1 << 30)


CHILD = """
    import os, signal, sys, toolkit
    opened = toolkit.open("veth0", filter="all", promisc=True)
    if sys.argv[1:] == ["fork"]:
        ready, told = os.pipe()
        if os.fork() == 0:
            os.write(told, b"1")
            for fd in range(3):
                os.close(fd)
            signal.alarm(60)
            signal.pause()
        os.read(ready, 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_killed_process_leaves_nothing_nor_does_its_child_hold_it(lab: Lab, how: str) -> None:
    with lab.netns.entered():
        run_child(CHILD.replace("sys.argv[1:]", f"[{how!r}]"), status=-signal.SIGKILL)
    assert eventually(lambda: seen(lab) == (0, False))


def test_a_missing_privilege_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run_child(
        """
        from toolkit.errors import PrivilegeError
        from toolkit.net.promiscuity import promiscuous
        try:
            promiscuous("lo", 1)
        except PrivilegeError as refused:
            print(refused.errno, refused)
        """,
        "setpriv",
        "--bounding-set=-net_raw",
        "--inh-caps=-net_raw",
    )
    assert out.startswith("1 ")
    assert "CAP_NET_RAW" in out
