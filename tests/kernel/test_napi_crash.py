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
from napi_support import BEFORE, busy, defer, own_records, settings
from support import child_environment, run_child

from toolkit import napi, records
from toolkit.lab import Lab
from toolkit.napi import DEFERRAL

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:busy polling does not reach the driver:RuntimeWarning"),
]


RESTORED, CHANGED = "restored", "changed by somebody else meanwhile, and left as it is"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Records of this test alone."""
    yield from own_records(tmp_path, monkeypatch)


@pytest.fixture
def interface(lab: Lab) -> Callable[..., dict[str, int]]:
    """The near end's settings: call it to read them, with values to set them."""
    return settings(lab)


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
