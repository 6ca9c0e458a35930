# SPDX-License-Identifier: Apache-2.0
"""Two hosts with every offload of a veth on, as containers and guests have them, and `xsk forward` between them."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import toolkit
from tests.helpers.cli import running
from tests.helpers.second_cable import second_cable
from toolkit.cli.commands.forward_edits import Edits
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab
from toolkit.lab.namespace import Namespace
from toolkit.lab.veth import End, connect
from toolkit.umem.umem import UMEM

__all__ = ["Hosts", "Tagged", "csum_errors", "iperf3", "watched"]


class Hosts:
    """left (veth1, 10.11.0.2) ══ veth0 [middle] veth2 ══ right (veth3, 10.11.0.3). Nothing is switched off anywhere."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.lab = stack.enter_context(Lab(neighbours=False, offloads=True))
        self.left = self.lab.far
        self.right = stack.enter_context(Namespace())
        second_cable(self.lab.netns, self.right, offloads=True)

    def know_each_other(self) -> None:
        """Tell left the MAC address of right, for where no ARP goes across."""
        for address, family in (("10.11.0.3", "-4"), ("fd11::3", "-6")):
            command = ["ip", family, "neigh", "replace", address, "lladdr", "02:00:00:00:00:04", "dev", "veth1"]
            self.left.run(command, check=True)

    @contextlib.contextmanager
    def bridged(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Forward between them for the length of the block."""
        command = ["forward", "veth0", "veth2", "-f", "all", "--both", "--json", *options]
        with running(self.lab, *command, ready=4) as process:
            yield process


def csum_errors(namespace: Namespace) -> dict[str, int]:
    """What the kernel counted as broken, by protocol: Tcp, Udp, Udp6 and so on."""
    read = "cat /proc/net/snmp; cat /proc/net/snmp6"
    reported = namespace.run(["sh", "-c", read], capture_output=True, text=True, check=True).stdout.splitlines()
    found = {line.split()[0]: int(line.split()[1]) for line in reported if "InCsumErrors" in line and ":" not in line}
    for names, values in itertools.pairwise(reported):
        if names.partition(":")[0] == values.partition(":")[0] and "InCsumErrors" in names:
            found[names.partition(":")[0]] = int(values.split()[names.split().index("InCsumErrors")])
    return found


def iperf3(server: Namespace, client: Namespace, address: str, *options: str, seconds: float = 60) -> dict[str, Any]:
    """Run iperf3 from `client` to `address` of `server`; its report, as it prints it with --json."""
    listening = server.popen(
        ["iperf3", "--server", "--one-off", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        _await_listener(server, listening.pid)
        done = client.run(
            ["iperf3", "--client", address, "--json", "--connect-timeout", "3000", *options],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        report: dict[str, Any] = json.loads(done.stdout)
    finally:
        listening.kill()
        listening.communicate()
    assert done.returncode == 0, report.get("error")
    return report


@contextlib.contextmanager
def watched(namespace: Namespace, interface: str, *options: str) -> Iterator[list[str]]:
    """Have tcpdump print what comes in, checksums checked; the list grows while it does, and is whole at the end."""
    command = ["tcpdump", "-i", interface, "-Q", "in", "-n", "-l", "-vv", *options]
    process = namespace.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    try:
        out, err = process.stdout, process.stderr
        assert out is not None
        assert err is not None
        assert "listening" in err.readline()

        def read() -> None:
            for line in out:
                lines.append(line)

        reader = threading.Thread(target=read)
        reader.start()
        yield lines
        process.terminate()
        reader.join(10)
    finally:
        process.kill()
        process.communicate()


def _await_listener(namespace: Namespace, pid: int, port: int = 5201) -> None:
    deadline = time.monotonic() + 10
    wanted = f":{port:04X} "
    while time.monotonic() < deadline:
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
            if any(wanted in line and " 0A " in line for line in lines):  # LISTEN
                return
        time.sleep(0.01)
    raise AssertionError("iperf3 does not listen")


class Tagged:
    """left ══ ■ ══ ■ ══ ■ ══ right: the outer two of the namespaces between put VLAN tag 42 on and take it off.

    They leave checksums as they are; only the one in the middle finishes them, in frames that have the tag.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.left, self.right = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        spaces = [self.left, *(stack.enter_context(Namespace()) for _ in range(3)), self.right]
        for number, (here, there) in enumerate(itertools.pairwise(spaces)):
            ends = []
            for side, space in enumerate((here, there)):
                name, station = ("east", "west")[side], 10 * number + side + 1
                # Only the hosts at both ends have addresses that anybody asks for.
                host = {0: 2, 31: 3}.get(station - 1, 10 + station)
                ends.append(End(space, name, f"02:00:00:00:01:{station:02x}", f"10.11.0.{host}", f"fd11::{host}"))
            connect(ends[0], ends[1], queues=1, mtu=1500, neighbours=False, offloads=True)
        self._stack = stack
        left, middle, right = (self._joined(space) for space in spaces[1:4])
        push, pop = Edits(vlan_push=42).function, Edits(vlan_pop=True).function
        self.middle = Forwarder(*middle), Forwarder(*middle[::-1])
        self._all = [
            *self.middle,
            Forwarder(*left, push, finish_checksums=False),
            Forwarder(*left[::-1], pop, finish_checksums=False),
            Forwarder(*right, pop, finish_checksums=False),
            Forwarder(*right[::-1], push, finish_checksums=False),
        ]

    def _joined(self, space: Namespace) -> tuple[toolkit.Interface, toolkit.Interface]:
        umem = self._stack.enter_context(UMEM(8192, 2048))
        west, east = (
            self._stack.enter_context(toolkit.open(name, filter="all", umem=umem, mode="native", netns=space))
            for name in ("west", "east")
        )
        return west, east

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Forward everywhere, in a thread."""
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                if not sum(one.step() for one in self._all):
                    self._all[0].step(0.0002)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
