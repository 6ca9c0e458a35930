# SPDX-License-Identifier: Apache-2.0
"""NAPI deferral: set, shared, restored; and refused without a trace."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers.napi import BEFORE, busy, defer
from tests.helpers.waiting import busy_polling_or_not
from tests.helpers.wire import Wire, collect, frame
from toolkit._base import records
from toolkit.errors import PrivilegeError, SystemCallError, ToolkitError
from toolkit.lab import Lab
from toolkit.net import napi
from toolkit.net.napi import DEFERRAL
from toolkit.net.sysfs import InterfaceDirectory

pytestmark = [
    pytest.mark.usefixtures("directory"),
    busy_polling_or_not,
]


# --- set and restored -----------------------------------------------------------------------------------------------


def test_the_directory_is_that_of_the_threads_namespace(lab: Lab) -> None:
    with pytest.raises(SystemCallError, match=r"veth0.*ENODEV"):
        InterfaceDirectory("veth0")
    for namespace, name in ((lab.netns, "veth0"), (lab.far, "veth1")):
        with namespace.entered():
            index, found = socket.if_nametoindex(name), InterfaceDirectory(name)
        assert found.read("ifindex") == index
        found.close()
        found.close()


def test_an_interface_defers_until_it_is_closed(lab: Lab, interface: Any, wire: Wire) -> None:
    for wait in ("poll", "spin"):
        with toolkit.open("veth0", filter="all", wait=wait, ring_size=64, netns=lab.netns):
            assert interface() == BEFORE
    with busy(lab) as near:
        assert len(records.Records("napi").all()) == 1
        wire.send([frame(i) for i in range(40)])
        assert collect(near.receive, 40) == [frame(i) for i in range(40)]
        # Deferred interrupts without anybody who polls would only be late: see test_busy_polling_says_if_it_works.
        near.receive(timeout=0.4)
        assert interface() == (DEFERRAL if near.info()["busy_polling"] else BEFORE)
    assert interface() == BEFORE


def test_close_restores(lab: Lab, interface: Any) -> None:
    with busy(lab) as near:
        assert interface() == DEFERRAL
        assert near.info()["busy_polling"] is not False  # nothing has come: nobody knows yet that it has no effect here
    assert interface() == BEFORE


def test_a_forgotten_interface_restores(lab: Lab, interface: Any) -> None:
    near = busy(lab)
    assert interface() == DEFERRAL
    del near
    gc.collect()
    assert interface() == BEFORE


def test_a_finalizer_inside_the_lock_is_done_on_the_way_out(lab: Lab, interface: Any) -> None:
    held = defer(lab)
    with napi._guard.locked():
        held.finalize()
        assert interface() == DEFERRAL
    assert interface() == BEFORE


def test_an_open_that_fails_later_restores(lab: Lab, interface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        assert interface() == DEFERRAL
        raise RuntimeError("later")

    monkeypatch.setattr(toolkit.Program, "register", fail)
    with pytest.raises(RuntimeError, match="later"):
        busy(lab)
    assert interface() == BEFORE


def test_a_vanished_device_is_no_trouble(lab: Lab, interface: Any) -> None:
    with busy(lab):
        lab.delete_interface()
    with pytest.raises(SystemCallError, match="veth0"):
        defer(lab)


def test_a_new_name_is_no_trouble(lab: Lab, interface: Any) -> None:
    with defer(lab):
        lab.netns.run(["ip", "link", "set", "veth0", "down"], check=True)
        lab.netns.run(["ip", "link", "set", "veth0", "name", "other"], check=True)
    with lab.netns.entered():
        found = InterfaceDirectory("other")
    assert {name: found.read(name) for name in DEFERRAL} == BEFORE
    found.close()


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_last_of_two_holders_restores(make_lab: Callable[..., Lab], first_out: int) -> None:
    lab = make_lab(queues=2)
    with lab.netns.entered():
        found = InterfaceDirectory("veth0")
    try:
        found.write("gro_flush_timeout", 77)
        holders = [defer(lab), defer(lab)]
        holders.pop(first_out).restore()
        assert found.read("gro_flush_timeout") == DEFERRAL["gro_flush_timeout"]
        holders.pop().restore()
        assert found.read("gro_flush_timeout") == 77
        assert found.read("napi_defer_hard_irqs") == 0
    finally:
        found.close()


def test_what_somebody_else_changed_stays(lab: Lab, interface: Any) -> None:
    with defer(lab):
        interface(gro_flush_timeout=99)
    assert interface() == {"napi_defer_hard_irqs": BEFORE["napi_defer_hard_irqs"], "gro_flush_timeout": 99}


def test_two_interfaces_of_one_number_in_two_namespaces(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    other = make_lab()
    with defer(lab), lab.netns.entered():
        index = socket.if_nametoindex("veth0")
    with defer(lab), defer(other), other.netns.entered():
        assert socket.if_nametoindex("veth0") == index
        assert len(records.Records("napi").all()) == 2
        found = InterfaceDirectory("veth0")
    assert found.read("gro_flush_timeout") == 0
    found.close()


def test_restoring_twice_from_many_threads(lab: Lab, interface: Any) -> None:
    held = [defer(lab) for _ in range(8)]
    threads = [threading.Thread(target=one.restore) for one in held * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert interface() == BEFORE


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_directory_that_others_may_write_is_not_used(lab: Lab, interface: Any, directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(PrivilegeError, match="nobody else may write"):
        busy(lab)
    assert interface() == BEFORE
    directory.chmod(0o700)
    busy(lab).close()


def test_a_lock_that_is_held_too_long(lab: Lab, interface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_LOCK_TIMEOUT", 0.05)
    with records.Records("napi").locked(), pytest.raises(ToolkitError, match="fuser"):
        defer(lab)
    assert interface() == BEFORE


def test_a_refused_write_leaves_nothing(lab: Lab, interface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write = InterfaceDirectory.write

    def refuse(self: InterfaceDirectory, name: str, value: int) -> None:
        if name == "gro_flush_timeout" and value == DEFERRAL[name]:
            raise OSError(30, "Read-only file system")
        write(self, name, value)

    monkeypatch.setattr(InterfaceDirectory, "write", refuse)
    with pytest.raises(SystemCallError, match="read-only"):
        busy(lab)
    assert interface() == BEFORE
