# SPDX-License-Identifier: Apache-2.0
"""NAPI deferral after a crash: what a process left behind is found, told, and restored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.napi import BEFORE, busy, defer
from tests.helpers.waiting import busy_polling_or_not
from tests.helpers.wire import child_environment, eventually, run_child
from toolkit._base import records
from toolkit.lab import Lab
from toolkit.net import napi
from toolkit.net.napi import DEFERRAL

pytestmark = [
    pytest.mark.usefixtures("directory"),
    busy_polling_or_not,
]


def leftovers(lab: Lab) -> list[records.Record]:
    """As seen from the lab's near host."""
    with lab.netns.entered():
        return napi.leftovers()


def repair(lab: Lab) -> list[tuple[records.Record, str]]:
    """As done on the lab's near host."""
    with lab.netns.entered():
        return napi.repair()


RESTORED, CHANGED = "restored", "changed by somebody else meanwhile, and left as it is"


OWNER = """
    import os, sys
    from pathlib import Path
    import toolkit
    from toolkit._base import records
    records.DIRECTORY = sys.argv[1]
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
    assert leftovers(lab) == []
    assert repair(lab) == []
    assert interface() == DEFERRAL  # its owner lives
    owner.kill()
    assert interface() == DEFERRAL
    (left,) = leftovers(lab)
    assert (left.interface, left.netns, left.pid) == ("veth0", lab.netns.inode, owner.process.pid)
    assert left.before == BEFORE
    assert napi.as_text(left).startswith("veth0: ")
    assert "gro_flush_timeout 200000 instead of 12345" in napi.as_text(left)
    assert interface() == DEFERRAL  # looking changes nothing
    assert repair(lab) == [(left, RESTORED)]
    assert interface() == BEFORE
    assert leftovers(lab) == repair(lab) == []


@pytest.mark.parametrize("how", ["raise", "end"])
def test_an_owner_that_ends_without_closing_restores(owner: Owner, interface: Any, lab: Lab, how: str) -> None:
    owner.tell(how)
    owner.end()
    assert interface() == BEFORE
    assert leftovers(lab) == []


def test_an_aborted_owner(owner: Owner, interface: Any, lab: Lab) -> None:
    owner.tell("abort")
    owner.end()
    assert interface() == DEFERRAL
    assert [outcome for _, outcome in repair(lab)] == [RESTORED]
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
        assert leftovers(lab) == []
        assert [record.pid for record in records.Records("napi").all()] == [os.getpid()]
        assert interface() == DEFERRAL
    assert interface() == BEFORE


def test_a_killed_owner_beside_a_living_one(owner: Owner, interface: Any, lab: Lab, directory: Path) -> None:
    with defer(lab):
        owner.kill()
        assert [outcome for _, outcome in repair(lab)] == ["held by another process"]
        assert interface() == DEFERRAL
    assert interface() == BEFORE


def test_a_leftover_that_an_administrator_dealt_with(owner: Owner, interface: Any, lab: Lab) -> None:
    owner.kill()
    interface(napi_defer_hard_irqs=0, gro_flush_timeout=0)
    assert [outcome for _, outcome in repair(lab)] == [CHANGED]
    assert interface() == {"napi_defer_hard_irqs": 0, "gro_flush_timeout": 0}


def test_a_stale_record_does_not_count_for_the_next_user(owner: Owner, interface: Any, lab: Lab) -> None:
    owner.kill()
    interface(napi_defer_hard_irqs=0, gro_flush_timeout=0)
    with defer(lab):
        assert interface() == DEFERRAL
    assert interface() == {"napi_defer_hard_irqs": 0, "gro_flush_timeout": 0}


def test_a_leftover_of_another_namespace_is_left_alone(make_lab: Callable[..., Lab], directory: Path) -> None:
    """Neither seen nor repaired from elsewhere, the machine's own namespace included; gone with its namespace."""
    mine, other = make_lab(), make_lab()
    Owner(other, directory).kill()
    assert len(leftovers(other)) == 1
    assert leftovers(mine) == repair(mine) == napi.leftovers() == napi.repair() == []
    assert len(leftovers(other)) == 1
    other.close()
    eventually(lambda: records.netns_gone(other.netns.inode), timeout=1)
    assert leftovers(mine) == repair(mine) == []
    kept = records.Records("napi").all()
    if records.netns_gone(other.netns.inode):  # else somebody has a new one with this number: it is kept for now
        assert kept == []
    for record in kept:
        records.Records("napi").remove(record)


@pytest.mark.needs("nsenter")
def test_a_leftover_of_another_pid_namespace(lab: Lab, interface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that shares /run: left alone while it lives, or where that cannot be seen; repaired afterwards."""
    held = defer(lab)
    mine = held._record
    assert mine is not None
    container = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "1000"])
    try:
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
        (inside,) = eventually(lambda: children.read_text().split())
        space, started = os.stat(f"/proc/{inside}/ns/pid").st_ino, records._started(int(inside))
        elsewhere = mine._replace(name="napi-elsewhere.json", pid=1, started=started or 0, pid_space=space)
        records.Records("napi").write(elsewhere)
        held.restore()
        assert interface() == DEFERRAL  # the container has it still
        assert leftovers(lab) == repair(lab) == []
    finally:
        container.kill()
        container.wait()
    assert eventually(lambda: not os.path.exists(f"/proc/{inside}"))
    with monkeypatch.context() as patched:
        patched.setattr(records, "_FIRST_PID_SPACE", 0)  # as in a container, which does not see its neighbours
        assert leftovers(lab) == repair(lab) == []
    if records._pid_space() == records._FIRST_PID_SPACE:
        assert [outcome for _, outcome in repair(lab)] == [RESTORED]
        assert interface() == BEFORE
    else:
        records.Records("napi").remove(elsewhere)


def test_a_leftover_of_an_interface_that_is_gone(owner: Owner, lab: Lab) -> None:
    owner.kill()
    lab.delete_interface()
    assert leftovers(lab) == []
    assert repair(lab) == []


def test_a_pid_that_came_back_is_no_owner(lab: Lab, interface: Any) -> None:
    held = defer(lab)
    mine = held._record
    assert mine is not None
    records.Records("napi").write(mine._replace(started=mine.started - 1))
    assert len(leftovers(lab)) == 1
    held.restore()
    assert interface() == BEFORE


def test_a_record_that_cannot_be_read_is_passed_over(lab: Lab, interface: Any, directory: Path) -> None:
    with defer(lab):
        broken = directory / "napi-1-1-1-0.json"
        broken.write_text('{"interface": ')
        assert leftovers(lab) == repair(lab) == []
    broken.unlink()
    assert interface() == BEFORE


def test_leftovers_without_privilege() -> None:
    """`xsk status` as an ordinary user shows nothing, and fails at nothing."""
    code = "from toolkit.net import leftovers; assert leftovers() == []"
    run_child(code, "setpriv", "--reuid=65534", "--clear-groups", cwd="/")


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
        assert not records.netns_gone(lab.netns.inode)
    finally:
        subprocess.run(["umount", place], check=True)
    assert [outcome for _, outcome in repair(lab)] == [RESTORED]
