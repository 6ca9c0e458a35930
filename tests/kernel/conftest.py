# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the kernel tests: a network of one's own, a program through either door, the accounts after each test.

Every test here makes the anonymous namespaces that it works in; none touches an interface of the machine.
"""

from __future__ import annotations

import collections
import functools
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import Wire
from toolkit.abi.libbpf import libbpf
from toolkit.lab import Lab
from toolkit.program import Program, directory, import_bcc, source_text
from toolkit.umem.ledger import Ledger
from toolkit.umem.umem import UMEM

_SETTLED = 3.0  # seconds that what the kernel frees asynchronously may take

DOORS = ("build", "from_bcc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this directory needs root and AF_XDP."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.needs_root)
            item.add_marker(pytest.mark.needs("af_xdp", "libxdp"))


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two private hosts on a cable: veth0 (near, one queue) and veth1 (far)."""
    with Lab() as made:
        yield made


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """A maker of Labs of other shapes; they go with the test."""
    made: list[Lab] = []

    def make(**shape: Any) -> Lab:
        made.append(Lab(**shape))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def wire(lab: Lab) -> Iterator[Wire]:
    """The far end of the lab's cable, to send and to see frames."""
    with Wire(lab) as opened:
        yield opened


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Both ways to a program: compiled by the toolkit, or by BCC in this process. Call it with filter=..."""
    made: list[Any] = []

    def build(filter: str = "all") -> Program:
        program = Program.build("xsk_redirect.c", filter=filter)
        made.append(program.close)
        return program

    def from_bcc(filter: str = "all") -> Program:
        bpf = import_bcc().BPF(text=source_text(filter=filter).encode(), cflags=[f"-I{directory()}"])
        made.append(bpf.cleanup)
        program = Program.from_bcc(bpf, bpf.load_func(b"xsk_redirect", 6))  # BPF_PROG_TYPE_XDP
        made.append(program.close)
        return program

    yield {"build": build, "from_bcc": from_bcc}[request.param]
    for undo in reversed(made):
        undo()


@pytest.fixture
def program(door: Callable[..., Program]) -> Program:
    """The redirecting program that takes everything, through both doors."""
    return door()


# --- after each test ------------------------------------------------------------------------------------------------


def _descriptors() -> collections.Counter[str]:
    """What the open file descriptors of this process stand for, without numbers that change."""
    kinds: collections.Counter[str] = collections.Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # that of the listing itself
        kinds[target.split(":")[0] if target.startswith(("socket:", "pipe:", "net:")) else target] += 1
    return kinds


def _threads() -> set[threading.Thread]:
    # The lab starts programs from one thread that lives as long as the process.
    return {thread for thread in threading.enumerate() if not thread.name.startswith("toolkit-lab")}


class Accounts:
    """The UMEMs and links that were made during a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.umems: list[tuple[weakref.ref[UMEM], Ledger]] = []
        self.links: list[int] = []
        self.may_retire = 0  # frames that a test has the kernel keep
        make_umem, make_link = UMEM.__init__, toolkit.Link.__init__

        def note_umem(umem: UMEM, *args: Any, **options: Any) -> None:
            make_umem(umem, *args, **options)
            self.umems.append((weakref.ref(umem), umem.ledger))

        def note_link(link: toolkit.Link, *args: Any, **options: Any) -> None:
            make_link(link, *args, **options)
            self.links.append(link.id)

        monkeypatch.setattr(UMEM, "__init__", note_umem)
        monkeypatch.setattr(toolkit.Link, "__init__", note_link)

    def check_frames(self) -> None:
        """Every frame is somewhere; and free, unless a Socket still holds the UMEM (which no test should leave)."""
        for reference, ledger in self.umems:
            umem = reference()
            counts = ledger.audit()
            where = {kind: n for kind, n in counts.items() if kind != "frames" and n}
            assert sum(where.values()) == counts["frames"], f"frames were lost: {counts}"
            assert umem is None or umem.registration is None, f"a Socket is still open on {umem}"
            assert counts["retired"] <= self.may_retire, where
            assert counts["free"] + counts["retired"] == counts["frames"], (
                f"after every Socket was closed, frames are not free: {where}"
            )


def _link_gone(number: int) -> bool:
    fd = libbpf().bpf_link_get_fd_by_id(number)
    if fd >= 0:
        os.close(fd)
    return bool(fd < 0)


def _settle(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _SETTLED
    while not condition():
        if time.monotonic() > deadline:
            return False
        gc.collect()
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def conservation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accounts]:
    """Nothing lost, nothing left: frames, attached programs, file descriptors (namespaces among them), threads."""
    accounts = Accounts(monkeypatch)
    gc.collect()
    descriptors, threads = _descriptors(), _threads()
    yield accounts
    gc.collect()
    accounts.check_frames()
    for number in accounts.links:
        assert _settle(functools.partial(_link_gone, number)), f"the XDP link {number} is still there"
    assert _settle(lambda: not _descriptors() - descriptors), f"left open: {_descriptors() - descriptors}"
    assert _settle(lambda: _threads() <= threads), f"left running: {_threads() - threads}"
