# SPDX-License-Identifier: Apache-2.0
"""`xsk status`: programs, links and sockets as they are, with who holds them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import toolkit
from tests.helpers.cli import XSK, xsk
from tests.helpers.wire import Wire, child_environment, eventually, frame
from toolkit.doctor.status import collect
from toolkit.doctor.system import older_than
from toolkit.lab import Lab
from toolkit.program import Program

HOLDER = """
import sys
from toolkit.program import Program
with Program.build("xdp_pass.c") as program, program.attach("veth0"):
    print("attached", flush=True)
    sys.stdin.read()
"""


def test_a_socket_is_shown_with_what_it_dropped(lab: Lab, wire: Wire) -> None:
    with toolkit.open("veth0", filter="all", ring_size=16, netns=lab.netns) as near:
        wire.send([frame(i) for i in range(100)])
        assert eventually(lambda: near.statistics().dropped > 50)
        near.detach()  # from here on nothing more comes
        with lab.netns.entered():
            (sock,) = [one for one in collect().sockets if one.holder and one.holder.pid == os.getpid()]
        out = xsk(lab, "status").stdout
        (line,) = [line for line in out.splitlines() if f"AF_XDP socket of pid {os.getpid()} " in line]
        if sock.statistics is None:  # no CONFIG_XDP_SOCKETS_DIAG: unknown, rather than asked of a borrowed socket
            assert (sock.interface, sock.queue, sock.zero_copy) == (None, None, None)
            assert line.endswith("not said by this kernel on which queue")
            return
        assert (sock.interface, sock.queue, sock.zero_copy) == ("veth0", 0, False)
        assert sock.statistics == near.sockets[0].statistics()._asdict()
        assert "queue 0 of veth0, copy mode" in line
        dropped = {
            name: value for name, value in sock.statistics.items() if value and name in ("rx_dropped", "rx_ring_full")
        }
        assert dropped
        for name, value in dropped.items():
            assert f"{name} {value:,}" in line


@pytest.mark.skipif(older_than(6, 15), reason="Linux 6.15 and later say which queues are taken")
def test_taken_queues_are_shown_without_sock_diag(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=3)
    with toolkit.open("veth0", filter="all", queues=[0, 2], ring_size=64, netns=lab.netns):
        reported = json.loads(xsk(lab, "status", "--json").stdout)
        (interface,) = [one for one in reported["interfaces"] if one["interface"] == "veth0"]
        assert interface["taken_queues"] == [0, 2]
        if not any(one["interface"] == "veth0" for one in reported["sockets"]):
            assert "queues 0, 2 of veth0: taken by an AF_XDP socket\n" in xsk(lab, "status").stdout
    assert "veth0: taken by" not in xsk(lab, "status").stdout


def test_all_shows_interfaces_without_a_program_too(lab: Lab) -> None:
    def rows(*options: str) -> list[list[str]]:
        """Of the table: further down stand the commands of whoever has such sockets, with any name in them."""
        lines = xsk(lab, "status", *options).stdout.splitlines()
        return [line.split()[:3] for line in lines if line.startswith("veth0 ")]

    assert rows() == []
    assert rows("--all") == [["veth0", "veth", "1"]]


def test_a_link_of_another_namespace_is_reported(lab: Lab) -> None:
    with Program.build("xdp_pass.c") as program, program.attach("veth0", netns=lab.netns) as link:
        assert f"link {link.id} " not in xsk(lab, "status").stdout  # it is this one's: in the table
        reported = lab.far.run([*XSK, "status"], env=child_environment(), capture_output=True, text=True, timeout=60)
        (line,) = [line for line in reported.stdout.splitlines() if line.startswith(f"link {link.id} ")]
        assert f"(program {program.id}) in another network namespace, held by pid {os.getpid()} (" in line
        found = lab.far.run([*XSK, "status", "--json"], env=child_environment(), stdout=subprocess.PIPE, timeout=60)
        (elsewhere,) = [one for one in json.loads(found.stdout)["elsewhere"] if one["link_id"] == link.id]
        assert [holder["pid"] for holder in elsewhere["holders"]] == [os.getpid()]
    assert f"link {link.id} " not in xsk(lab, "status").stdout


def test_a_name_does_not_command_the_terminal(lab: Lab) -> None:
    child = lab.netns.popen(
        [sys.executable, "-c", f"# \x1b[2Jpainted\n{HOLDER}"],
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "attached\n"
        reported = json.loads(xsk(lab, "status", "--json").stdout)
    finally:
        child.communicate("", timeout=20)
    (interface,) = [one for one in reported["interfaces"] if one["interface"] == "veth0"]
    (holder,) = interface["holders"]
    assert holder["pid"] == child.pid
    assert "#  [2Jpainted " in holder["command"]
    assert holder["command"].isprintable()


@pytest.mark.needs("setpriv")
def test_without_privilege_it_says_what_it_cannot_see(lab: Lab) -> None:
    with Program.build("xdp_pass.c") as program, program.attach("veth0", netns=lab.netns):
        done = lab.netns.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", *XSK, "status"],
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "not root" in done.stderr
    assert "cannot be seen without root" in " ".join(done.stdout.split())
    assert "not root" not in xsk(lab, "status").stderr
