# SPDX-License-Identifier: Apache-2.0
"""The demo's traffic, and its count: ping and UDP of a kernel, a flood at the rate that arrives, then a faster one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from toolkit.cli.view import output
from toolkit.errors import ToolkitError
from toolkit.lab import Lab

if TYPE_CHECKING:
    from toolkit.lab.generator import Generator, Report

__all__ = ["SentTraffic", "Traffic"]

_PING_INTERVAL = 0.05  # seconds
_UDP_RATE = 100  # datagrams/s
_UDP_FLOWS = 3
_FLOOD_FLOWS = 8
_FLOOD_FROM = 0.3  # of the whole time
_OVERLOAD = 1.0  # seconds, or a fifth of the whole time if that is less
_SLICE = 0.4  # seconds for which the flood keeps one rate
_SHORTEST = 0.1  # seconds of a slice that is worth its beginning
_FIRST = 50_000  # packets/s
_BUSY = 0.6  # of its time that the receiving thread is to be at work
_BELOW = 0.8  # of a rate at which packets were lost, that is not tried again
_SLOWER, _FASTER = 0.5, 3.0  # how much the rate may change from one slice to the next


class SentTraffic:
    """One part of the traffic: packets that were sent, and those that the veth counts as lost (also by a full "
    "socket)."""

    def __init__(self) -> None:
        self.packets = 0
        self.lost = 0


class Traffic:
    """Sends from the far host until `seconds` have passed. Pings and UDP come from its kernel, floods from a generator.

    The flood adapts its rate to what arrives: faster while nothing is lost and the receiving thread has time left. The
    last second is a flood without a rate.
    """

    def __init__(self, lab: Lab, seconds: float, *, most: float) -> None:
        """most: packets/s, whatever arrives. The thread that calls step() is the one that receives."""
        self._lab = lab
        self._seconds = seconds
        self._overload_at = seconds - min(_OVERLOAD, seconds / 5)
        self._most = most
        self._rate = min(_FIRST, most)
        self._ping: subprocess.Popen[str] | None = None
        self._flood: Generator | None = None
        self._busy = (0.0, 0.0)  # time of this thread on a CPU, and of the clock, when the slice began
        self._quiet = threading.Event()  # set when the kernel is to send no more
        self._over = False
        self._cpus = os.sched_getaffinity(0)
        self._udp_sent = 0  # written by the UDP thread, read after it has ended
        self._udp = threading.Thread(target=self._send_udp, daemon=True)
        self.paced = SentTraffic()  # until the overload: the kernel's packets too
        self.overload: SentTraffic | None = None
        self.fastest = 0.0  # packets/s of the paced flood, of which nothing was lost
        self.phase = "an ordinary kernel sends pings and UDP"

    def __enter__(self) -> Traffic:
        try:
            self._ping = self._lab.far.popen(
                ["ping", "-n", "-q", "-i", str(_PING_INTERVAL), self._lab.ip],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # a signal to all of a job would end it before it says what it sent
            )
        except FileNotFoundError as missing:
            raise ToolkitError("there is no ping here. Next step: `apt-get install iputils-ping`.") from missing
        self._udp.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._quiet.set()
        os.sched_setaffinity(0, self._cpus)
        if self._flood is not None:
            self._flood.close()
        if self._ping is not None:
            self._ping.kill()
            self._ping.wait()
            if self._ping.stdout is not None:
                self._ping.stdout.close()

    # --- the course of it -------------------------------------------------------------------------------------------

    def step(self, elapsed: float) -> bool:
        """Begin or end a part when its time has come. Return True once: when everything before the overload was "
        "sent."""
        if self._over or elapsed < self._seconds * _FLOOD_FROM:
            return False
        if elapsed >= self._seconds:
            self.stop()
        elif self.overload is not None:
            if self._flood is None:
                self._begin(self._seconds - elapsed, None)
        elif self._flood is None or not self._flood.running:
            return self._next_slice(min(self._overload_at - elapsed, _SLICE))
        return False

    def stop(self) -> None:
        """Send nothing more, and count what was sent. May be called again."""
        if not self._over:
            self._over = True
            self._end_flood()
            self._end_kernel()
            self.phase = "the senders have stopped"

    def _next_slice(self, seconds: float) -> bool:
        """Go on at the next rate, or end this part if there is no time left."""
        report = self._end_flood()
        if report is not None:
            self._adapt(report)
        if seconds >= _SHORTEST:
            self._begin(seconds, self._rate)
            self.phase = f"a flood, at the rate that arrives here: {output.count(self._rate)} packets/s"
            return False
        self._end_kernel()
        self.overload = SentTraffic()
        self.phase = "a faster flood: frames made by the kernel, as fast as one core can"
        return True

    def _adapt(self, report: Report) -> None:
        """Choose the rate of the next slice by the losses of the last."""
        cpu, began = self._busy
        busy = (time.thread_time() - cpu) / max(time.monotonic() - began, 1e-3)
        rate = report.sent / max(report.seconds, 1e-3)  # on a busy machine less than was asked for
        if report.lost:
            change, self._most = _SLOWER, min(self._most, rate * _BELOW)
        else:
            self.fastest = max(self.fastest, rate)
            change = min(max(_BUSY / max(busy, 0.01), _SLOWER), _FASTER)
        self._rate = min(rate * change, self._most)

    # --- senders ----------------------------------------------------------------------------------------------------

    def _begin(self, seconds: float, rate: float | None) -> None:
        self._flood = self._lab.generator(flows=_FLOOD_FLOWS, seconds=seconds, rate=rate).start()
        # It takes one CPU whole; the receiving thread moves out of its way.
        os.sched_setaffinity(0, self._cpus - {self._flood.cpu} or self._cpus)
        self._busy = (time.thread_time(), time.monotonic())

    def _end_flood(self) -> Report | None:
        """End it, and count what it sent."""
        if self._flood is None:
            return None
        report = self._flood.stop()
        self._flood.close()
        self._flood = None
        part = self.overload or self.paced
        part.packets += report.sent
        part.lost += report.lost or 0
        return report

    def _end_kernel(self) -> None:
        """End ping and UDP, and count what they sent."""
        if self._quiet.is_set():
            return
        self._quiet.set()
        assert self._ping is not None
        self._ping.send_signal(signal.SIGINT)
        self._udp.join()
        said, _ = self._ping.communicate()
        counted = re.search(r"(\d+) packets transmitted", said)
        self.paced.packets += self._udp_sent + (int(counted[1]) if counted else 0)

    def _send_udp(self) -> None:
        def payloads() -> Iterator[bytes]:
            number = 0
            while not self._quiet.is_set():
                yield f"hello, number {number}".encode()
                number += 1

        self._udp_sent = self._lab.udp(payloads(), rate=_UDP_RATE, flows=_UDP_FLOWS, destination_port=5353)
