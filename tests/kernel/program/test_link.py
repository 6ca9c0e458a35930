# SPDX-License-Identifier: Apache-2.0
"""Attaching: the mode that came about, what is there already, and that nothing stays behind."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.helpers.firewalls import own_places
from tests.helpers.interrupts import Interrupt, every_line
from toolkit.abi import libbpf as abi
from toolkit.errors import ArgumentError, NotSupportedError, SystemCallError
from toolkit.lab import Lab
from toolkit.program import Attached, Link, Program, attached, xdp_links
from toolkit.program import link as links
from toolkit.program.query import runs_natively


@pytest.fixture
def program() -> Iterator[Program]:
    """The redirecting program, loaded."""
    with Program.build() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Program]:
    """Somebody else's program."""
    with Program.build("xdp_pass.c") as made:
        yield made


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A BPF file system and records of this test alone."""
    with own_places(tmp_path, monkeypatch):
        yield


def present(lab: Lab) -> Attached | None:
    """What runs on the receiving end."""
    with lab.netns.entered():
        return attached(socket.if_nametoindex(lab.interface))


def by_netlink(program: Program, lab: Lab, flags: int = 0) -> None:
    """Attach as `ip link set dev veth0 xdp` or BCC's attach_xdp do."""
    with lab.netns.entered():
        result = abi.libbpf().bpf_xdp_attach(socket.if_nametoindex(lab.interface), program.fd, flags, None)
    assert result == 0


def test_native_first(program: Program, lab: Lab) -> None:
    assert present(lab) is None
    with program.attach(lab.interface, netns=lab.netns) as link:
        assert (link.interface, link.mode, link.fallback_reason) == (lab.interface, "native", None)
        found = present(lab)
        assert found is not None
        assert (found.program.id, found.program.name, found.mode) == (program.id, "xsk_redirect", "native")
        assert found.link_ids == (link.id,)
        assert link.id in [one.id for one in xdp_links()]
        assert program.links == (link,)
        assert "veth0 (native)" in repr(program)
    assert present(lab) is None
    assert program.links == ()
    link.close()


def test_generic_where_asked(program: Program, lab: Lab) -> None:
    with program.attach(lab.interface, mode="generic", netns=lab.netns) as link:
        assert (link.mode, link.fallback_reason) == ("generic", None)
        found = present(lab)
        assert found is not None
        assert found.mode == "generic"


def test_generic_where_the_driver_has_no_native_and_said_so(program: Program, lab: Lab) -> None:
    link = program.attach("lo", netns=lab.netns)  # the loopback of a namespace of its own
    assert link.mode == "generic"
    assert link.fallback_reason is not None
    assert "native" in link.fallback_reason
    link.close()
    with pytest.raises(NotSupportedError, match=r'to lo \(native\).*`mode="generic"`'):
        program.attach("lo", mode="native", netns=lab.netns)


def test_whether_the_driver_runs_one(program: Program, other: Program, lab: Lab) -> None:
    """By link or netlink, whoever attached it: it decides whether a Socket is bound zero-copy."""
    with lab.netns.entered():
        ifindex = socket.if_nametoindex(lab.interface)
        assert not runs_natively(ifindex)
        natively: dict[links.Mode, bool] = {"generic": False, "native": True}
        for mode, expected in natively.items():
            with program.attach(lab.interface, mode=mode) as link:
                assert runs_natively(ifindex) is expected
                assert link.location.runs_natively() is expected
        for flags, expected in ((abi.XDP_FLAGS_SKB_MODE, False), (abi.XDP_FLAGS_DRV_MODE, True)):
            by_netlink(other, lab, flags)
            assert runs_natively(ifindex) is expected
            assert abi.libbpf().bpf_xdp_detach(ifindex, flags, None) == 0
        assert not runs_natively(ifindex)


def test_wrong_arguments(program: Program, lab: Lab) -> None:
    with pytest.raises(SystemCallError, match=r"xsk_redirect to 'no-such'.*no such interface") as error:
        program.attach("no-such", netns=lab.netns)
    assert error.value.errno == 19
    with pytest.raises(ArgumentError, match="offload"):
        program.attach(lab.interface, mode="offload", netns=lab.netns)


def test_a_foreign_link_is_named_and_kept(program: Program, other: Program, lab: Lab) -> None:
    theirs = other.attach(lab.interface, netns=lab.netns)
    for mode in ("auto", "native", "generic"):
        with pytest.raises(SystemCallError) as refused:
            program.attach(lab.interface, mode=mode, netns=lab.netns)
        text = str(refused.value)
        assert f"program {other.id} (xdp_pass), native, held by link {theirs.id}" in text
        assert "which this process holds" in text
    found = present(lab)
    assert found is not None
    assert found.program.id == other.id


def test_a_foreign_netlink_program_is_named_and_kept(program: Program, other: Program, lab: Lab) -> None:
    by_netlink(other, lab)
    with pytest.raises(SystemCallError, match=rf"program {other.id} \(xdp_pass\), native, held by netlink"):
        program.attach(lab.interface, netns=lab.netns)
    found = present(lab)
    assert found is not None
    assert (found.program.id, found.link_ids) == (other.id, ())


def test_replace_takes_a_foreign_link_off(program: Program, other: Program, lab: Lab) -> None:
    theirs = other.attach(lab.interface, netns=lab.netns)
    with program.attach(lab.interface, replace="link", netns=lab.netns):
        found = present(lab)
        assert found is not None
        assert found.program.id == program.id
    theirs.close()
    assert present(lab) is None


@pytest.mark.parametrize("flags", [abi.XDP_FLAGS_DRV_MODE, abi.XDP_FLAGS_SKB_MODE])
@pytest.mark.usefixtures("pins")
def test_replace_takes_a_foreign_netlink_program_off(program: Program, other: Program, lab: Lab, flags: int) -> None:
    by_netlink(other, lab, flags)
    with program.attach(lab.interface, replace=True, netns=lab.netns) as link:
        assert link.mode == "native"
        found = present(lab)
        assert found is not None
        assert found.program.id == program.id
    found = present(lab)
    assert found is not None
    assert found.program.id == other.id


@pytest.mark.usefixtures("pins")
def test_a_replacement_that_fails_puts_the_foreign_program_back(program: Program, other: Program, lab: Lab) -> None:
    with lab.netns.entered():
        index = socket.if_nametoindex("lo")
        assert abi.libbpf().bpf_xdp_attach(index, other.fd, abi.XDP_FLAGS_SKB_MODE, None) == 0
    with pytest.raises(NotSupportedError):
        program.attach("lo", mode="native", replace=True, netns=lab.netns)
    found = attached(index, netns=lab.netns)
    assert found is not None
    assert (found.program.id, found.mode) == (other.id, "generic")


def test_replace_on_a_free_interface(program: Program, lab: Lab) -> None:
    with program.attach(lab.interface, replace=True, netns=lab.netns) as link:
        assert link.mode == "native"


def test_links_of_the_same_number_elsewhere_are_not_taken_for_this_one(program: Program, other: Program) -> None:
    """Two namespaces, the same ifindex, the same program: the kernel does not tell which link is which."""
    with Lab() as here, Lab() as there:
        other.attach(here.interface, netns=here.netns)
        foreign = other.attach(there.interface, netns=there.netns)
        assert other.links[0].ifindex == foreign.ifindex
        with pytest.raises(ArgumentError, match="does not say which"):
            program.attach(here.interface, replace="link", netns=here.netns)
        for lab in (here, there):
            found = present(lab)
            assert found is not None
            assert found.program.id == other.id


def test_one_program_on_several_interfaces(program: Program, lab: Lab) -> None:
    program.attach(lab.interface, netns=lab.netns)
    program.attach("lo", netns=lab.netns)
    program.attach(lab.peer, netns=lab.far)
    assert [link.interface for link in program.links] == [lab.interface, "lo", lab.peer]
    program.close()
    assert present(lab) is None
    assert attached(1, netns=lab.netns) is None


@pytest.mark.parametrize("moment", ["before", "after"])
def test_sigint_while_attaching_leaves_nothing_attached(
    program: Program, lab: Lab, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before the kernel makes the link, and just after, when its descriptor is a mere number."""

    def interrupted(*arguments: Any) -> int:
        if moment == "before":
            os.kill(os.getpid(), signal.SIGINT)
        fd = create(*arguments)
        if moment == "after":
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)  # it reaches the main thread meanwhile
        return fd

    create = links._create
    monkeypatch.setattr(links, "_create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.attach(lab.interface, netns=lab.netns)
    assert present(lab) is None
    assert not [link for link in program.links if not link.closed]


def test_an_interrupt_at_every_line_of_attach(program: Program, lab: Lab) -> None:
    """Nothing is attached that the Program does not know of; and it knows of something only where all was done."""

    def one_line(k: int) -> bool:
        interrupt = Interrupt(k)
        attaching: list[Link] = []
        struck = interrupt.run(lambda: attaching.append(program.attach(lab.interface, netns=lab.netns)))
        known = [link.id for link in program.links if not link.closed]
        found = present(lab)
        assert known == list(found.link_ids or () if found else ()), f"line {k}, {interrupt.where}"
        for link in program.links:
            link.close()
        assert present(lab) is None, f"line {k}, {interrupt.where}"
        return struck

    assert every_line(one_line) > 10


def test_closing_after_the_interface_vanished(program: Program, lab: Lab) -> None:
    link = program.attach(lab.interface, netns=lab.netns)
    lab.delete_interface()
    link.close()
    link.close()
    program.close()


SCRIPT = """
import sys, time
from toolkit.program import Program
program = Program.build()
program.attach({interface!r}, netns={netns!r})
print("attached", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_killed_leaves_nothing_attached(lab: Lab, number: int) -> None:
    netns = f"/proc/{os.getpid()}/fd/{lab.netns.fileno()}"
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(interface=lab.interface, netns=netns)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "attached\n"
        assert present(lab) is not None
    finally:
        child.send_signal(number)
        child.wait()
        if child.stdout:
            child.stdout.close()
    assert present(lab) is None


def test_the_thread_stays_in_its_own_namespace(program: Program, lab: Lab) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    program.attach(lab.interface, netns=lab.netns)
    with pytest.raises(SystemCallError):
        program.attach("no-such", netns=lab.netns)
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_the_size_of_the_kernel_s_structures() -> None:
    """What this file's helpers and the toolkit lean on: offsets in struct bpf_link_info."""
    assert abi.LinkInfo.ifindex.offset == 16
    assert ctypes.sizeof(abi.LinkInfo) == 48
