# SPDX-License-Identifier: Apache-2.0
"""The generator's own process: runs a loaded XDP program on live frames, again and again, at a given pace.

A script of the standard library alone, run isolated, so that it starts in a few milliseconds and owes nothing to the
process that started it. It reads one line of JSON from standard input, answers "ready", waits for a second line,
works until its bounds or SIGTERM, and writes one line of JSON. `toolkit.lab.generator` is its other side.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import time
from typing import Any

__all__ = ["main"]

BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1
# One call at most: long enough to hide its cost (15 us), short enough that a stop is noticed soon (12 ms). A signal
# ends a call early in any case.
CHUNK = 65536
MIXED_CHUNK = 256  # when several frames take turns
# When the process was not scheduled for a while, it makes up for it at this many times the rate, in bursts of at most
# this much time's worth, so that a receiver keeping up with the rate keeps up with that too. A backlog of more than
# FORGIVEN_SECONDS is not made up for.
CATCH_UP = 1.25
BURST_SECONDS = 0.00025
FORGIVEN_SECONDS = 0.1
GRACE_SECONDS = 0.001  # for the last frames of a run bounded by time
SLEEP_SECONDS = 0.0005  # waits longer than this sleep, shorter ones spin: a sleep may come back 0.1 ms late


class RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


class Task:
    """What is to be sent, and what came of it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.program: int = job["program"]  # fd, inherited
        self.rate: float = job["rate"]  # frames/s, 0 for as fast as it goes
        self.seconds: float = job["seconds"]  # 0 for no bound
        self.count: int = job["count"]  # 0 for no bound
        self.stopped = False  # written by the signal handler
        self.calls = self.largest = self.missed = self.error = 0
        self._run = ctypes.CDLL("libbpf.so.1").bpf_prog_test_run_opts
        self._run.argtypes = [ctypes.c_int, ctypes.POINTER(RunOptions)]
        frames = [bytes.fromhex(frame) for frame in job["frames"]]
        self._memory = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
        self._options = [
            RunOptions(
                sz=ctypes.sizeof(RunOptions),
                data_in=ctypes.addressof(memory),
                data_size_in=len(memory),
                flags=BPF_F_TEST_XDP_LIVE_FRAMES,
            )
            for memory in self._memory
        ]
        self._chunk = CHUNK if len(frames) == 1 else MIXED_CHUNK

    def send(self, frames: int) -> bool:
        """Send that many of the next frame in turn. False when the work is over."""
        options = self._options[self.calls % len(self._options)]
        options.repeat = frames
        options.data_size_out = 0  # the last call may have left a length here, and there is no room for data
        status = self._run(self.program, options)
        self.calls += 1
        self.largest = max(self.largest, frames)
        if status < 0 and status != -errno.EINTR:
            self.error = -status
            return False
        return not self.stopped

    def flood(self, start: float) -> None:
        """As fast as it goes, until a bound."""
        left = self.count or sys.maxsize
        end = start + self.seconds if self.seconds else float("inf")
        while left and not self.stopped and time.monotonic() < end:
            frames = min(left, self._chunk)
            left -= frames
            if not self.send(frames):
                break

    def pace(self, start: float) -> None:
        """At `rate`, until a bound. Every call sends what fell due since the last one; frame n is due at n / rate."""
        rate, total, end = self.rate, self.count or sys.maxsize, float("inf")
        if self.seconds:
            total = min(total, max(1, round(rate * self.seconds)))
            end = start + self.seconds + GRACE_SECONDS
        most = max(1.0, min(rate * BURST_SECONDS, self._chunk))
        sent, credit, now = 0, most, start
        while sent < total and not self.stopped and now < end:
            last, now = now, time.monotonic()
            credit = min(most, credit + (now - last) * rate * CATCH_UP)
            due = (now - start) * rate + 1 - sent
            frames = int(min(due, credit, total - sent))
            if frames < 1:
                wait = max((1 - due) / rate, (1 - credit) / rate / CATCH_UP)
                if wait > SLEEP_SECONDS:
                    time.sleep(min(wait - SLEEP_SECONDS / 2, 0.05))
                continue
            start += max(0.0, due / rate - FORGIVEN_SECONDS)
            sent, credit = sent + frames, credit - frames
            if not self.send(frames):
                return
        self.missed = total - sent if now >= end else 0


def main() -> None:
    """Speak the protocol above."""
    # The parent decides what an interrupt or a hang-up means; when it dies, so do we (parent-death signal).
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    work = Task(job := json.loads(sys.stdin.readline()))

    def stop(*_: object) -> None:
        work.stopped = True

    signal.signal(signal.SIGTERM, stop)
    if job["cpu"] >= 0:
        os.sched_setaffinity(0, {job["cpu"]})
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    start = time.monotonic()
    (work.pace if work.rate else work.flood)(start)
    seconds = time.monotonic() - start
    report = {"seconds": seconds, "calls": work.calls, "largest_burst": work.largest, "missed": work.missed}
    print(json.dumps({**report, "error": work.error}), flush=True)


if __name__ == "__main__":
    main()
