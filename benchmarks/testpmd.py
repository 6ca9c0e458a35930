# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd with its af_xdp driver, from Debian's packages: AF_XDP in C."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import time
from typing import NamedTuple

from benchmarks.consumer import Counts, PeerError
from benchmarks.isolation import Cores, child_prefix, cpu_ns
from toolkit.lab import Lab

__all__ = ["CHOICES", "Settings", "Testpmd"]


class Settings(NamedTuple):
    """Settings of testpmd."""

    device: str = "busy_budget=0"  # of the af_xdp device; busy polling does not reach a veth's driver
    arguments: tuple[str, ...] = ()  # of testpmd itself


# Which of these is the fastest depends on mode and machine: a full run tries all and uses the best.
CHOICES = (
    Settings(),
    Settings(""),  # with busy polling, as it is by default
    Settings("busy_budget=0", ("--rxd=512", "--txd=512")),
    Settings("busy_budget=0", ("--rxd=4096", "--txd=4096")),
    Settings("busy_budget=0", ("--burst=128",)),
    Settings("busy_budget=0,force_copy=1"),
)

FIRST = CHOICES[0]

# Patterns of the last line of a command's output; the prompt can be anywhere in it.
_PROMPT, _STARTED, _STATISTICS = r"testpmd> ", r"packets/burst=", r"Tx-pps:.*\n"
_START = 15.0  # seconds
_ANSWER = 5.0


class Testpmd:
    """A running testpmd that forwards in one mode: "rxonly", "txonly", "macswap" or "icmpecho"."""

    name = "testpmd"
    __test__ = False  # pytest takes classes with such names for tests

    def __init__(self, lab: Lab, mode: str, where: Cores, settings: Settings = FIRST) -> None:
        """Start it on the lab's near end; it forwards only after start()."""
        if shutil.which("dpdk-testpmd") is None:
            raise PeerError("there is no dpdk-testpmd here. Next step: `apt-get install dpdk-dev`.")
        # The forwarding thread alone has the consumer's CPU: the main thread, which only reads commands, could never
        # run beside one that spins at real-time priority.
        lcores = f"0@({where.consumer},{where.generator}),1@{where.consumer}"
        vdev = f"net_af_xdp0,iface={lab.interface},start_queue=0,queue_count=1" + (
            f",{settings.device}" if settings.device else ""
        )
        # stdbuf: otherwise it buffers its output to a pipe.
        prefix = child_prefix(where.consumer)[3:]  # without taskset, because testpmd pins its threads itself
        eal = ["--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "-m", "1024", "--lcores", lcores]
        own = ["--no-mlockall", f"--forward-mode={mode}", "-i", *settings.arguments]
        self.settings = settings
        self._child: subprocess.Popen[bytes] = lab.netns.popen(
            [*prefix, "stdbuf", "-oL", "dpdk-testpmd", *eal, "--vdev", vdev, "--", *own],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self._read(_PROMPT, _START)

    def start(self) -> None:
        """Begin to forward."""
        self._tell("start", _STARTED)

    def counts(self) -> Counts:
        """Return the counts of its driver."""
        text = self._tell("show port stats 0", _STATISTICS)
        numbers = {key: int(value) for key, value in re.findall(r"([RT]X-\w+): +(\d+)", text)}
        return Counts(numbers["RX-packets"], numbers["TX-packets"], numbers["RX-missed"])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU used so far."""
        return cpu_ns(self._child.pid)

    def close(self) -> None:
        """End it. May be called again."""
        child = self._child
        if child.poll() is None:
            try:
                self._send("stop")
                self._send("quit")
                child.wait(_ANSWER)
            except (OSError, subprocess.TimeoutExpired):
                child.send_signal(signal.SIGKILL)
                child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()

    def _tell(self, command: str, until: str) -> str:
        self._send(command)
        return self._read(until, _ANSWER)

    def _send(self, command: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(command.encode() + b"\n")

    def _read(self, until: str, timeout: float) -> str:
        """Return its output up to a match of `until`."""
        assert self._child.stdout is not None
        text, fd, deadline = "", self._child.stdout.fileno(), time.monotonic() + timeout
        while not re.search(until, text):
            ready = select.select([fd], [], [], max(deadline - time.monotonic(), 0))[0]
            piece = os.read(fd, 65536) if ready else b""
            if not piece:
                self._child.kill()
                raise PeerError(f"testpmd {'ended' if ready else 'does not answer'}: {text}")
            text += piece.decode(errors="replace")
        return text

    def __enter__(self) -> Testpmd:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
