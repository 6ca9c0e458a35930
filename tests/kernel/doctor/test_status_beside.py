# SPDX-License-Identifier: Apache-2.0
"""While `xsk status` looks, everybody else is as free as without it: ports, queues and links go when they are let go.

Looked at by a process of its own, again and again, which says how often it has.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

import toolkit
from tests.helpers.wire import child_environment, eventually
from toolkit.abi.libbpf import libbpf
from toolkit.errors import SystemCallError
from toolkit.lab import Lab
from toolkit.program import Program

LOOKING = """
import sys
from toolkit.doctor import status
if len(sys.argv) > 1:
    status.pids = lambda: iter([int(sys.argv[1])])
while True:
    status.collect()
    sys.stdout.write(".")
    sys.stdout.flush()
"""

OWNER = """
import sys, toolkit
class Given:
    def fileno(self):
        return int(sys.argv[1])
interface = toolkit.open("veth0", filter="all", ring_size=64, netns=Given())
print("open", flush=True)
sys.stdin.read()
"""


class Looker:
    """A process that looks at the whole machine without a pause."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.looks = 0

    def looked(self) -> int:
        """How often it has by now."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise AssertionError("the looker ended")
            self.looks += len(data)
        return self.looks


@contextlib.contextmanager
def looking(*only: str) -> Iterator[Looker]:
    """Somebody looks, for the length of the block, and has looked at least once. `only`: at this process."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOOKING, *only],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=child_environment(),
    )
    try:
        looker = Looker(process)
        assert eventually(looker.looked, timeout=20)
        yield looker
        before = looker.looked()
        assert eventually(lambda: looker.looked() > before, timeout=20)  # to the end of the block
    finally:
        process.kill()
        process.communicate()


def test_a_listener_that_closes_frees_its_port_at_once(lab: Lab) -> None:
    """Wherever the looker is stopped, no port stays taken: between two system calls it holds nothing of others.

    (The kernel itself holds a file for a microsecond while it reads its link in /proc/PID/fd, for `ls -l` as well.)
    """
    chance = random.Random(1)
    with looking(str(os.getpid())) as looker, lab.netns.entered():  # where nobody else takes a free port
        ports: list[int] = [0] * 300  # so many that most of its time goes to them
        for _ in range(40):
            # No SO_REUSEADDR: nothing was accepted, so nothing keeps a port but a descriptor.
            with contextlib.ExitStack() as listening:
                for at, port in enumerate(ports):
                    listener = listening.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                    listener.bind(("", port))  # EADDRINUSE: the looker held one when it was stopped
                    listener.listen()
                    ports[at] = listener.getsockname()[1]
                looker.process.send_signal(signal.SIGCONT)
                before = looker.looked()
                assert eventually(lambda now=before: looker.looked() > now, timeout=20)
                time.sleep(chance.random() / 50)  # anywhere in its work
                looker.process.send_signal(signal.SIGSTOP)
                _, status = os.waitpid(looker.process.pid, os.WUNTRACED)
                assert os.WIFSTOPPED(status)
        looker.process.send_signal(signal.SIGCONT)


@pytest.mark.timing("open() waits 3 s for a queue that the kernel is about to free")
def test_a_killed_owner_s_queue_and_link_are_free_at_once(lab: Lab) -> None:
    """At once: as soon as the kernel has freed them without a looker, some 30 ms, which open() itself waits for."""
    netns = lab.netns.fileno()
    with looking() as looker:
        first = looker.looked()
        for _ in range(8):
            owner = subprocess.Popen(
                [sys.executable, "-c", OWNER, str(netns)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=child_environment(),
                pass_fds=[netns],
            )
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"open\n"
            owner.send_signal(signal.SIGKILL)
            owner.communicate()
            with toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns) as mine:
                assert mine.mode == "native"
        assert looker.looked() > first


HOLDING = """
import os, sys
from toolkit.doctor import status
mine, held = set(os.listdir("/proc/self/fd")), set()

def trace(frame, event, argument):
    if "toolkit" not in frame.f_code.co_filename:
        return None
    for fd in set(os.listdir("/proc/self/fd")) - mine:
        try:
            target = os.readlink("/proc/self/fd/" + fd)
            if target == "anon_inode:bpf_link":
                info = dict(line.split(":") for line in open("/proc/self/fdinfo/" + fd) if ":" in line)
                target += " " + info["link_id"].strip()
            held.add(target)
        except OSError:
            pass
    return trace

sys.settrace(trace)
found = status.collect()
sys.settrace(None)
assert any(one.holder and one.holder.pid == int(sys.argv[1]) for one in found.sockets)
print(*held, sep=chr(10))
"""


def test_at_no_line_does_it_hold_what_it_reads(lab: Lab) -> None:
    """No foreign socket, and no link of somebody who can be seen: at every line of Python that collect() runs."""
    with (
        toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns) as opened,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
    ):
        done = subprocess.run(
            [sys.executable, "-c", HOLDING, str(os.getpid())],
            stdout=subprocess.PIPE,
            env=child_environment(),
            text=True,
            check=True,
        )
        held = set(done.stdout.split("\n"))
        mine = {os.readlink(f"/proc/self/fd/{one.fileno()}") for one in (listener, opened.sockets[0])}
        assert all(one.startswith("socket:[") for one in mine)
        assert not held & mine, "it held a socket of this process"
        assert f"anon_inode:bpf_link {opened.link.id}" not in held
        assert "anon_inode:[pidfd]" not in held


def test_a_link_that_nobody_has_open_is_asked_and_let_go(lab: Lab) -> None:
    """One whose holder cannot be seen: it is found by its number, and ends with its owner all the same."""
    from toolkit.doctor import status

    with Program.build("xdp_pass.c") as program, lab.netns.entered():
        link = program.attach("veth0")
        seen = status._Held()  # nobody was looked at
        found = status._interface("veth0", seen, status.xdp_links(known=seen.xdp_links))
        assert found.link_ids == (link.id,)
        assert found.holders == ()
        number = link.id
        link.close()
        assert eventually(lambda: _gone(number))


def _gone(link: int) -> bool:
    fd = libbpf().bpf_link_get_fd_by_id(link)
    if fd >= 0:
        os.close(fd)
    return bool(fd == -errno.ENOENT)


def open_times(lab: Lab, count: int) -> list[float]:
    """Seconds that opening and closing took, each time."""
    taken = []
    with Program.build("xsk_redirect.c", filter="all") as program:
        for _ in range(count):
            began = time.monotonic()
            with toolkit.open("veth0", program=program, ring_size=64, netns=lab.netns):
                pass
            taken.append(time.monotonic() - began)
    return taken


@pytest.mark.timing("open() waits 3 s for a queue that the kernel is about to free")
def test_opening_while_somebody_asks(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    """It never meets a queue that is busy for good. What it takes is reported: a busy machine is no failure."""
    alone = open_times(lab, 30)
    with looking():
        try:
            beside = open_times(lab, 30)
        except SystemCallError as refused:
            raise AssertionError(f"a looker kept the queue: {refused}") from refused
    for name, taken in (("alone", alone), ("beside", beside)):
        quantiles = statistics.quantiles(taken, n=20)
        text = f"{name}: median {1000 * statistics.median(taken):.1f} ms, 95 % {1000 * quantiles[18]:.1f} ms"
        record_property(name, text)
        print(text)
