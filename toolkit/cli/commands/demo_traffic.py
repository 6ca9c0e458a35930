# SPDX-License-Identifier: Apache-2.0
"""The demo's traffic: an unmodified kernel's ping and UDP, then a flood. Counts what it sent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from toolkit.errors import ToolkitError
from toolkit.lab import Lab

if TYPE_CHECKING:
    from toolkit.lab.generator import Generator

__all__ = ["Traffic"]

_PING_INTERVAL = 0.05  # seconds
_UDP_RATE = 100  # datagrams/s
_UDP_FLOWS = 3
_FLOOD_FLOWS = 8
_FLOOD_FROM = 0.35  # of the whole time


class Traffic:
    """Sends from the far host until `seconds` have passed: pings and UDP all the time, a flood in the later part."""

    def __init__(self, lab: Lab, seconds: float) -> None:
        self._lab = lab
        self._seconds = seconds
        self._ping: subprocess.Popen[str] | None = None
        self._flood: Generator | None = None
        self._over = threading.Event()  # set when sending is to end
        self._cpus = os.sched_getaffinity(0)
        self._udp_sent = 0  # written by the UDP thread, read after it has ended
        self._udp = threading.Thread(target=self._send_udp, daemon=True)
        self.phase = "an ordinary kernel sends pings and UDP"

    def __enter__(self) -> Traffic:
        try:
            self._ping = self._lab.far.popen(
                ["ping", "-n", "-q", "-i", str(_PING_INTERVAL), self._lab.ip],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # a signal to all of a job would end it without a word about what it sent
            )
        except FileNotFoundError as missing:
            raise ToolkitError("there is no ping here. Next step: `apt-get install iputils-ping`.") from missing
        self._udp.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        os.sched_setaffinity(0, self._cpus)
        if self._flood is not None:
            self._flood.close()
        if self._ping is not None:
            self._ping.kill()
            self._ping.wait()
            if self._ping.stdout is not None:
                self._ping.stdout.close()

    def step(self, elapsed: float) -> None:
        """Begin or end what is due."""
        if self._flood is None and elapsed >= self._seconds * _FLOOD_FROM:
            left = self._seconds - elapsed
            if left > 0.1 and not self._over.is_set():
                self._flood = self._lab.generator(flows=_FLOOD_FLOWS, seconds=left).start()
                # The flood takes one CPU whole; the receiving thread moves out of its way.
                os.sched_setaffinity(0, self._cpus - {self._flood.cpu} or self._cpus)
                self.phase = "… and now a flood: frames made by the kernel, as fast as one core can"
        if elapsed >= self._seconds and not self._over.is_set():
            self._over.set()
            self.phase = "the senders have stopped"

    def finish(self, meanwhile: Callable[[], None]) -> tuple[int, int]:
        """End everything; call `meanwhile` until it has ended.

        Returns how many packets were sent, and how many of them the cable (a veth) lost before any program saw them.
        """
        self._over.set()
        assert self._ping is not None
        self._ping.send_signal(signal.SIGINT)
        while self._udp.is_alive():
            meanwhile()
        told, _ = self._ping.communicate()
        counted = re.search(r"(\d+) packets transmitted", told)
        sent = self._udp_sent + (int(counted[1]) if counted else 0)
        lost = 0
        if self._flood is not None:
            report = self._flood.stop()
            sent, lost = sent + report.sent, report.lost or 0
        return sent, lost

    def _send_udp(self) -> None:
        def payloads() -> Iterator[bytes]:
            number = 0
            while not self._over.is_set():
                yield f"hello, number {number}".encode()
                number += 1

        self._udp_sent = self._lab.udp(payloads(), rate=_UDP_RATE, flows=_UDP_FLOWS, destination_port=5353)
