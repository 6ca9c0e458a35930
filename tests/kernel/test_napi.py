# SPDX-License-Identifier: Apache-2.0
"""NAPI deferral is set while somebody busy-polls, and restored however that ends; also what a killed process left."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Wire, child_environment, collect, frame, run_child

import toolkit
from toolkit import napi, records
from toolkit.errors import PrivilegeError, SystemCallError, ToolkitError
from toolkit.lab import Lab
from toolkit.napi import DEFERRAL, Deferral
from toolkit.sysfs import InterfaceDirectory

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:busy polling does not reach the driver:RuntimeWarning"),
]

BEFORE = {"napi_defer_hard_irqs": 3, "gro_flush_timeout": 12345}
RESTORED, CHANGED = "restored", "changed by somebody else meanwhile, and left as it is"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Records of this test alone; none may be left."""
    made = tmp_path / "records"
    monkeypatch.setattr(records, "DIRECTORY", made)
    yield made
    assert not list(made.glob("*.json")), "a record was left"
    assert not list(made.glob("*.new")), "a draft was left"


@pytest.fixture
def interface(lab: Lab) -> Any:
    """The near end's settings: call it to read them, with values to set them."""

    def values(**wanted: int) -> dict[str, int]:
        with lab.netns.entered():
            found = InterfaceDirectory("veth0")
        try:
            for name, value in wanted.items():
                found.write(name, value)
            return {name: found.read(name) for name in DEFERRAL}
        finally:
            found.close()

    values(**BEFORE)
    return values


def defer(lab: Lab, name: str = "veth0") -> Deferral:
    with lab.netns.entered():
        return Deferral(name)


def busy(lab: Lab, **options: Any) -> toolkit.Interface:
    return toolkit.open("veth0", filter="all", wait="busy-poll", ring_size=64, netns=lab.netns, **options)


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
        with toolkit.open("veth0", filter="all", wait=wait, ring_size=64, netns=lab.netns):  # type: ignore[arg-type]
            assert interface() == BEFORE
    with busy(lab) as near:
        assert len(records.Records().all()) == 1
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
    with napi._locked():
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
        assert len(records.Records().all()) == 2
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
    monkeypatch.setattr(records, "_LOCK_PATIENCE", 0.05)
    with records.Records().locked(), pytest.raises(ToolkitError, match="fuser"):
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


# --- after a crash --------------------------------------------------------------------------------------------------

OWNER = """
    import os, sys
    from pathlib import Path
    import toolkit
    from toolkit import records
    records.DIRECTORY = Path(sys.argv[1])
    class Given:
        def fileno(self):
            return int(sys.argv[2])
    interface = toolkit.open("veth0", filter="all", wait="busy-poll", ring_size=64, netns=Given())
    print("ready", flush=True)
    how = sys.stdin.readline().strip()
    if how == "fork":
        child = os.fork()
        if child == 0:
            interface.close()
            sys.exit(0)  # with finalizers
        assert os.waitpid(child, 0)[1] == 0
        print("forked", flush=True)
        how = sys.stdin.readline().strip()
    if how == "abort":
        os.abort()
    if how == "raise":
        raise RuntimeError("never closed")
    if how == "wait":
        interface.receive()
"""


class Owner:
    """A process that busy-polls on the near end."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(OWNER), str(directory), str(lab.netns.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            pass_fds=[lab.netns.fileno()],
            env=child_environment(),
        )
        assert self.hear() == "ready"

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, how: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(how + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        with self.process as process:
            process.wait(10)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.end()


@pytest.fixture
def owner(lab: Lab, interface: Any, directory: Path) -> Iterator[Owner]:
    made = Owner(lab, directory)
    yield made
    made.kill()


def test_a_killed_owner_is_found_and_repaired(owner: Owner, interface: Any, lab: Lab) -> None:
    assert interface() == DEFERRAL
    assert napi.leftovers() == []
    assert napi.repair() == []
    assert interface() == DEFERRAL  # its owner lives
    owner.kill()
    assert interface() == DEFERRAL
    (left,) = napi.leftovers()
    assert (left.interface, left.netns, left.pid) == ("veth0", lab.netns.inode, owner.process.pid)
    assert left.before == BEFORE
    assert "veth0" in str(left)
    assert "gro_flush_timeout 200000 instead of 12345" in str(left)
    assert interface() == DEFERRAL  # looking changes nothing
    assert napi.repair() == [(left, RESTORED)]
    assert interface() == BEFORE
    assert napi.leftovers() == napi.repair() == []


@pytest.mark.parametrize("how", ["raise", "end"])
def test_an_owner_that_ends_without_closing_restores(owner: Owner, interface: Any, how: str) -> None:
    owner.tell(how)
    owner.end()
    assert interface() == BEFORE
    assert napi.leftovers() == []


def test_an_aborted_owner(owner: Owner, interface: Any) -> None:
    owner.tell("abort")
    owner.end()
    assert interface() == DEFERRAL
    assert [outcome for _, outcome in napi.repair()] == [RESTORED]
    assert interface() == BEFORE


def test_sigint_restores(owner: Owner, interface: Any) -> None:
    owner.tell("wait")
    owner.kill(signal.SIGINT)
    assert interface() == BEFORE


def test_a_forked_child_restores_nothing(owner: Owner, interface: Any) -> None:
    owner.tell("fork")
    assert owner.hear() == "forked"
    assert interface() == DEFERRAL
    owner.tell("end")
    owner.end()
    assert interface() == BEFORE


def test_the_next_user_takes_over_what_a_killed_one_left(owner: Owner, interface: Any, lab: Lab) -> None:
    owner.kill()
    with busy(lab):
        assert napi.leftovers() == []
        assert [record.pid for record in records.Records().all()] == [os.getpid()]
        assert interface() == DEFERRAL
    assert interface() == BEFORE


def test_a_killed_owner_beside_a_living_one(owner: Owner, interface: Any, lab: Lab, directory: Path) -> None:
    with defer(lab):
        owner.kill()
        assert [outcome for _, outcome in napi.repair()] == ["held by another process"]
        assert interface() == DEFERRAL
    assert interface() == BEFORE


def test_a_leftover_that_an_administrator_dealt_with(owner: Owner, interface: Any, lab: Lab) -> None:
    owner.kill()
    interface(napi_defer_hard_irqs=0, gro_flush_timeout=0)
    assert [outcome for _, outcome in napi.repair()] == [CHANGED]
    assert interface() == {"napi_defer_hard_irqs": 0, "gro_flush_timeout": 0}


def test_a_stale_record_does_not_count_for_the_next_user(owner: Owner, interface: Any, lab: Lab) -> None:
    owner.kill()
    interface(napi_defer_hard_irqs=0, gro_flush_timeout=0)
    with defer(lab):
        assert interface() == DEFERRAL
    assert interface() == {"napi_defer_hard_irqs": 0, "gro_flush_timeout": 0}


def test_a_leftover_of_a_namespace_that_is_gone(make_lab: Callable[..., Lab], directory: Path) -> None:
    lab = make_lab()
    owner = Owner(lab, directory)
    owner.kill()
    assert len(napi.leftovers()) == 1
    lab.close()
    assert napi.leftovers() == []
    assert len(records.Records().all()) == 1
    assert napi.repair() == []
    assert records.Records().all() == []


def test_a_leftover_of_an_interface_that_is_gone(owner: Owner, lab: Lab) -> None:
    owner.kill()
    lab.delete_interface()
    assert napi.leftovers() == []
    assert napi.repair() == []


def test_a_pid_that_came_back_is_no_owner(lab: Lab, interface: Any) -> None:
    held = defer(lab)
    mine = held._record
    assert mine is not None
    records.Records().write(mine._replace(started=mine.started - 1))
    assert len(napi.leftovers()) == 1
    held.restore()
    assert interface() == BEFORE


def test_a_record_that_cannot_be_read_is_passed_over(lab: Lab, interface: Any, directory: Path) -> None:
    with defer(lab):
        broken = directory / "napi-1-1-1-0.json"
        broken.write_text('{"interface": ')
        assert napi.leftovers() == napi.repair() == []
    broken.unlink()
    assert interface() == BEFORE


def test_leftovers_without_privilege() -> None:
    """`xsk status` as an ordinary user shows nothing, and fails at nothing."""
    run_child(
        "from toolkit import napi; assert napi.leftovers() == []", "setpriv", "--reuid=65534", "--clear-groups", cwd="/"
    )


def test_a_named_namespace_is_found(interface: Any, lab: Lab, directory: Path, tmp_path: Path) -> None:
    """One that nothing but a mount holds, as `ip netns add` makes it; here on a file of the test's own."""
    owner = Owner(lab, directory)
    place = tmp_path / "named"
    place.touch()
    netns = f"/proc/{os.getpid()}/fd/{lab.netns.fileno()}"
    try:
        subprocess.run(["mount", "--bind", netns, place], check=True)
        owner.kill()
        found = [path for path in records._netns_paths(lab.netns.inode) if path.endswith(str(place))]
        assert found
        assert os.stat(found[0]).st_ino == lab.netns.inode
    finally:
        subprocess.run(["umount", place], check=True)
    assert [outcome for _, outcome in napi.repair()] == [RESTORED]
