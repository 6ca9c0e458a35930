# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the kernel tests: a network of one's own, a program through either door, the accounts after each test.

Every test here makes the anonymous namespaces that it works in; none touches an interface of the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers.accounts import Accounts
from tests.helpers.wire import Wire
from toolkit.lab import Lab
from toolkit.program import Program, directory, import_bcc, source_text

DOORS = ("build", "from_bcc")


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


@pytest.fixture(autouse=True)
def conservation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accounts]:
    """Nothing lost, nothing left: frames, attached programs, file descriptors (namespaces among them), threads."""
    accounts = Accounts(monkeypatch)
    yield accounts
    accounts.check()
