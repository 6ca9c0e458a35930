# SPDX-License-Identifier: Apache-2.0
"""The lab's network itself: what it is made of, and that nothing of it outlives its owner."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.forks import in_child
from tests.helpers.wire import eventually
from toolkit._base.netns import entered
from toolkit.errors import ArgumentError, ClosedError, SystemCallError
from toolkit.lab import Lab, Namespace
from toolkit.lab.veth import connect
from toolkit.net import ethtool


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(queues=2, mtu=2000) as lab:
        yield lab


def has_interface(fd: int, name: str) -> bool:
    with os.fdopen(os.dup(fd)) as holder, entered(holder):
        return name in [name for _, name in socket.if_nameindex()]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


@contextlib.contextmanager
def owner_process(body: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Another Python that owns a Lab, runs `body`, prints numbers, and waits to be killed."""
    code = "import time\nfrom toolkit.lab import Lab\nlab = Lab()\n" + textwrap.dedent(body) + "\ntime.sleep(60)\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        try:
            assert owner.stdout is not None
            yield owner, [int(word) for word in owner.stdout.readline().split()]
        finally:
            owner.kill()


def test_what_it_is(lab: Lab) -> None:
    for namespace, name, mac in ((lab.near, lab.interface, lab.mac), (lab.far, lab.peer, lab.peer_mac)):
        text = namespace.run(["ip", "-d", "link", "show", name], capture_output=True, text=True).stdout
        assert "mtu 2000" in text
        assert mac in text
        assert "numtxqueues 2" in text
        with namespace.entered():
            assert ethtool.queues(name) == (2, 2)
        assert "UP,LOWER_UP" in namespace.run(["ip", "link", "show", "lo"], capture_output=True, text=True).stdout
    assert lab.ip in repr(lab)
    assert lab.interface in lab._repr_html_()


def test_offloads(lab: Lab) -> None:
    def features() -> dict[str, str]:
        text = lab.far.run(["ethtool", "-k", lab.peer], capture_output=True, text=True).stdout
        return dict(line.strip().split(": ") for line in text.splitlines()[1:])

    for name in ("tx-checksumming", "generic-segmentation-offload", "tx-vlan-offload", "rx-vlan-offload"):
        assert features()[name] == "off", name
    with Lab(offloads=True) as lab:
        assert features()["tx-checksumming"] == "on"


def test_silence(lab: Lab) -> None:
    """No packet crosses the pair by itself, in the time in which IPv6 likes to talk."""
    time.sleep(1.5)
    counters = lab.counters()
    assert (counters["rx_packets"], counters["tx_packets"]) == (0, 0)


def test_neighbours_are_asked_for_when_not_given() -> None:
    with Lab(neighbours=False) as lab, lab.capture() as capture:
        assert lab.ping().received == 1
        assert b"\x08\x06" in [frame[12:14] for frame in capture.frames(timeout=0)]


def test_inside_an_event_loop() -> None:
    """A notebook runs one, and pyroute2 stands on another."""

    async def make() -> int:
        with Lab() as lab:
            return lab.ping().received

    assert asyncio.run(make()) == 1


def test_down_and_up(lab: Lab) -> None:
    lab.set_down()
    assert lab.ping(wait=0.1).received == 0
    lab.set_up()
    assert lab.ping().received == 1
    assert lab.ping(ipv6=True).received == 1


def test_delete_interface(lab: Lab) -> None:
    lab.delete_interface()
    lab.delete_interface()
    assert not has_interface(lab.near.fileno(), lab.interface)
    assert not has_interface(lab.far.fileno(), lab.peer)
    with pytest.raises(SystemCallError, match=r"veth0.*No such device"):
        lab.capture()


@pytest.mark.parametrize(("queues", "mtu"), [(0, 1500), (5000, 1500), (1, 67), (1, 70000)])
def test_bad_sizes(queues: int, mtu: int) -> None:
    with pytest.raises(ArgumentError):
        Lab(queues=queues, mtu=mtu)


@pytest.mark.parametrize("mtu", [68, 576, 1279, 1280])
def test_a_small_mtu(mtu: int) -> None:
    """The kernel has no IPv6 on an interface whose MTU is below 1280 bytes; IPv4 works down to 68."""
    with Lab(mtu=mtu) as lab:
        assert lab.ping(size=mtu - 28).received == 1
        lab.set_down()
        lab.set_up()
        assert lab.ping(size=8).received == 1
        if mtu < 1280:
            assert (lab.ip6, lab.peer_ip6) == ("", "")
            for send in (lab.ping, lab.udp):
                with pytest.raises(ArgumentError, match=f"no IPv6: its MTU of {mtu}.*1280"):
                    send(ipv6=True)
        else:
            assert lab.ping(ipv6=True).received == 1
        assert f"mtu {mtu}" in repr(lab)
        assert "table" in lab._repr_html_()


def test_ipv6_of_an_interface_that_begins_without() -> None:
    """As where sysctl has net.ipv6.conf.default.disable_ipv6 = 1, which a new namespace may inherit."""
    with Lab() as lab:
        disable = ["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"]
        for namespace in (lab.netns, lab.far):
            namespace.run(disable, check=True)
        lab.delete_interface()
        connect(*lab._ends, queues=1, mtu=1500, neighbours=True, offloads=False)
        assert lab.ping(ipv6=True).received == 1


def test_a_refusal_leaves_nothing() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SystemCallError, match="veth pair"):
        Lab(interface="a-name-that-is-too-long", peer="x")
    assert os.listdir("/proc/self/fd") == before


def test_close(lab: Lab) -> None:
    with Lab() as other:
        fd = os.dup(other.near.fileno())
        sleeper = other.far.popen(["sleep", "60"])
        assert has_interface(fd, other.interface)
    other.close()
    assert sleeper.returncode == -signal.SIGKILL
    with pytest.raises(ClosedError):
        other.netns.fileno()
    # The far namespace is gone when its veth took its peer along, in the near one, which `fd` still holds.
    assert eventually(lambda: not has_interface(fd, other.interface))
    os.close(fd)
    assert lab.ping().received == 1


def test_garbage_collection() -> None:
    lab = Lab()
    fd = os.dup(lab.near.fileno())
    del lab
    gc.collect()  # newer Pythons keep what a finished frame held for a while
    assert eventually(lambda: not has_interface(fd, "veth0"), 20)  # the kernel takes namespaces down one by one
    os.close(fd)


def test_entered_is_for_this_thread_only() -> None:
    """A thread started before stays where it was; one started inside would be inside."""
    inodes: list[int] = []
    inside = threading.Event()

    def note() -> None:
        inodes.append(os.stat("/proc/thread-self/ns/net").st_ino)

    def note_later() -> None:
        assert inside.wait(10)
        note()

    thread = threading.Thread(target=note_later)
    thread.start()
    note()
    with Namespace() as namespace, namespace.entered():
        note()
        inside.set()
        thread.join()
    note()
    assert inodes == [inodes[0], namespace.inode, inodes[0], inodes[0]]


def test_starting_a_program_from_inside_holds_nothing() -> None:
    """The thread that starts programs lasts; the namespace that it was first asked from must not last with it."""
    body = """
    import os
    with lab.far.entered():
        lab.far.run(["true"])
    keep = os.dup(lab.near.fileno())
    lab.close()
    print(keep, flush=True)
    """
    with owner_process(body) as (owner, (near,)):
        fd = os.open(f"/proc/{owner.pid}/fd/{near}", os.O_RDONLY)
        try:
            assert eventually(lambda: not has_interface(fd, "veth0"))
        finally:
            os.close(fd)


def test_nothing_is_named() -> None:
    with Lab() as lab:
        ours = {lab.netns.inode, lab.far.inode}
        named = [os.stat(one.path).st_ino for one in os.scandir("/run/netns")] if os.path.isdir("/run/netns") else []
        assert not ours & set(named)


def test_kill_of_the_owner() -> None:
    """Namespaces, veths and the programs inside go with the owner, also on SIGKILL."""
    body = 'child = lab.far.popen(["sleep", "60"]); print(lab.near.fileno(), child.pid, flush=True)'
    with owner_process(body) as (owner, (near, sleeper)):
        fd = os.open(f"/proc/{owner.pid}/fd/{near}", os.O_RDONLY)
        assert has_interface(fd, "veth0")
        assert alive(sleeper)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert eventually(lambda: not alive(sleeper))
        assert eventually(lambda: not has_interface(fd, "veth0"))
        os.close(fd)


def test_a_program_outlives_the_thread_that_asked_for_it(lab: Lab) -> None:
    """The kernel's parent-death signal follows threads; the promise is about processes."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(lab.far.popen(["sleep", "60"]))
        # Only the program itself, no longer the guard in front of it, has the signal armed for sure.
        assert eventually(lambda: Path(f"/proc/{started[0].pid}/comm").read_text() == "sleep\n")

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.1)  # for what must not happen
    assert started[0].poll() is None


def test_run(lab: Lab) -> None:
    done = lab.far.run(
        ["sh", "-c", "readlink /proc/self/ns/net; cat; exit 3"], input="in", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (3, f"net:[{lab.far.inode}]\nin")
    with pytest.raises(subprocess.CalledProcessError):
        lab.far.run(["false"], check=True)
    with pytest.raises(FileNotFoundError):
        lab.far.run(["no-such-program"])
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        lab.far.run(["sleep", "60"], timeout=0.1)
    assert time.monotonic() - start < 30


def test_a_program_that_failed_is_named_as_it_was_asked_for(lab: Lab) -> None:
    """Not by what starts it: setpriv, a shell, an interpreter that resets its signals."""
    asked = ["sleep", "60"]
    with pytest.raises(subprocess.TimeoutExpired) as late:
        lab.far.run(asked, timeout=0.1)
    assert late.value.cmd == asked
    assert str(late.value).startswith("Command '['sleep', '60']' timed out")
    with pytest.raises(subprocess.CalledProcessError, match=r"Command '\['false', '-x'\]' returned"):
        lab.far.run(["false", "-x"], check=True)
    child = lab.far.popen(["false", "-x"])
    assert child.args == ["false", "-x"]
    with pytest.raises(subprocess.TimeoutExpired, match=r"^Command '\['sleep', '60'\]'"):
        lab.far.popen(asked).wait(timeout=0.05)


def test_fork(lab: Lab) -> None:
    """In a forked child the lab is dead; in the parent nothing has changed."""
    sleeper = lab.far.popen(["sleep", "60"])

    def work() -> None:
        with pytest.raises(ClosedError):
            lab.far.fileno()
        lab.close()

    assert in_child(work) == 0
    assert sleeper.poll() is None
    assert lab.ping().received == 1
