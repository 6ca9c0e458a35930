# SPDX-License-Identifier: Apache-2.0
"""tcpdump, writing to /dev/null: libpcap's ring, and no Python anywhere."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time

from benchmarks.consumer import Counts, PeerError
from benchmarks.isolation import Cores, child_prefix, cpu_ns
from toolkit.lab import Lab

__all__ = ["Tcpdump"]


class Tcpdump:
    """A running tcpdump, which prints its counts on SIGUSR1."""

    name = "tcpdump"

    def __init__(self, lab: Lab, where: Cores) -> None:
        """Start it on the lab's near end."""
        self._child: subprocess.Popen[bytes] = lab.netns.popen(
            # -Z root: otherwise it changes the owner of the file that it writes, the machine's /dev/null.
            [
                *(*child_prefix(where.consumer), "tcpdump", "-n", "-Z", "root", "-i", lab.interface),
                *("-B", "65536", "-w", "/dev/null"),
            ],
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._read(r"listening on")

    def start(self) -> None:
        """Do nothing: it is capturing already."""

    def counts(self) -> Counts:
        """Return its counts."""
        self._child.send_signal(signal.SIGUSR1)
        text = self._read(r"dropped by kernel")
        numbers = {kind: int(number) for number, kind in re.findall(r"(\d+) packets? (captured|dropped)", text)}
        return Counts(numbers["captured"], dropped=numbers["dropped"])

    def cpu_ns(self) -> int:
        """Nanoseconds of CPU used so far."""
        return cpu_ns(self._child.pid)

    def close(self) -> None:
        """End it. May be called again."""
        self._child.terminate()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stderr is not None:
            self._child.stderr.close()

    def _read(self, until: str) -> str:
        assert self._child.stderr is not None
        text, fd, deadline = "", self._child.stderr.fileno(), time.monotonic() + 5
        while not re.search(until, text):
            if not select.select([fd], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise PeerError(f"tcpdump does not answer: {text}")
            piece = os.read(fd, 4096)
            if not piece:
                raise PeerError(f"tcpdump ended: {text}")
            text += piece.decode(errors="replace")
        return text

    def __enter__(self) -> Tcpdump:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
