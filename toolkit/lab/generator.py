# SPDX-License-Identifier: Apache-2.0
"""Several million packets a second without a NIC: frames that the kernel's XDP test run sends into a veth pair."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from toolkit._base.arguments import cannot_be
from toolkit.errors import ArgumentError, NotSupportedError, ToolkitError, kernel_error
from toolkit.lab import veth
from toolkit.lab.namespace import Namespace
from toolkit.lab.redirect import LiveRedirect, Stamp
from toolkit.packets import frames

__all__ = ["Generator", "Report"]

_FIRST_PORT = 1024  # source port of flow 0
_START_SECONDS = 10.0
_LARGEST = 3408  # a page of 4096 bytes less the headroom and what the kernel keeps in it (Linux 6.18)


@dataclass(frozen=True)
class Report:
    """What a generator did. All counts are frames, all times seconds."""

    sent: int  # redirected into the pair, counted by the program itself
    # Of these, dropped by the pair: its queue was full before any XDP program saw them, or a redirect failed after it
    # (a socket without room, which counts them too). None if the pair is gone.
    lost: int | None
    seconds: float  # from the first frame to the last, without set-up
    cpu: int  # where it ran
    calls: int  # of bpf(2); sent / calls is the mean burst
    largest_burst: int  # most frames of one call
    missed: int  # of rate * seconds, not sent: the machine is too slow for the rate, or was busy elsewhere

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.sent / self.seconds if self.seconds else 0.0


class Wire(Protocol):
    """A Lab, as far as a generator needs it."""

    interface: str
    peer: str
    queues: int
    mtu: int
    far: Namespace

    @property
    def near(self) -> Namespace:
        """The namespace of the receiving end."""


class Generator:
    """Frames from the far end of a Lab to its near end, made by the kernel, in a process of its own on one CPU.

    Made by `Lab.generator`, which says what the arguments mean. Starts with `start` or at the top of a `with` block;
    ends at its bounds, at `stop`, at the end of the block, or with this process.
    """

    def __init__(
        self,
        lab: Wire,
        *,
        rate: float | None = None,
        seconds: float | None = None,
        count: int | None = None,
        size: int = 64,
        flows: int = 1,
        ipv6: bool = False,
        frame: bytes | Sequence[bytes] | None = None,
        cpu: int | None = None,
    ) -> None:
        for name, value in (("rate", rate), ("seconds", seconds), ("count", count)):
            if value is not None and value <= 0:
                raise cannot_be(name, value, "a positive number, or None for no bound")
        allowed = os.sched_getaffinity(0)
        self.cpu = max(allowed) if cpu is None else cpu
        if self.cpu not in allowed:
            raise cannot_be("cpu", cpu, f"one of those that this process may use, {sorted(allowed)}")
        # The receive queue that everything arrives on: a veth takes the one of the CPU that sends.
        self.queue = self.cpu % lab.queues
        self.report: Report | None = None  # there after the end
        self._lab = lab
        self._child: subprocess.Popen[str] | None = None
        stamp: Stamp | None = None
        if frame is None:
            stamp, template = _numbered(size, flows, ipv6)
            self.frames = [template]
        else:
            self.frames = [frame] if isinstance(frame, bytes) else list(frame)
        _check_frames(self.frames, lab.mtu)
        try:
            with lab.far.entered():
                ifindex = socket.if_nametoindex(lab.peer)
        except OSError as gone:
            raise kernel_error("generator", errno.ENODEV, f"cannot send from {lab.peer}") from gone
        self._job = {
            "frames": [bytes(f).hex() for f in self.frames],
            "rate": rate or 0,
            "seconds": seconds or 0,
            "count": count or 0,
            "cpu": self.cpu,
        }
        self._redirect = LiveRedirect(ifindex, stamp)
        self._dropped_before = 0

    @property
    def sent(self) -> int:
        """Frames sent so far; readable while it runs."""
        return self.report.sent if self.report else self._redirect.count()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended yet."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> Generator:
        """Begin to send. Raises `ToolkitError` when nothing at the near end would take the frames."""
        if self._child is not None or self.report is not None:
            raise ToolkitError("this generator was started before. Next step: make another one")
        if not veth.takes_live_frames(self._lab.near, self._lab.interface):
            raise ToolkitError(
                f"{self._lab.interface} would drop every frame: a veth takes live frames only while an XDP program is "
                "attached to it in native mode, or with GRO. Next step: attach the program first, or Lab(gro=True)."
            )
        self._dropped_before = self._dropped()
        self._child = self._lab.far.popen(
            [sys.executable, "-I", "-S", Path(__file__).with_name("generator_process.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(self._redirect.program,),
        )
        try:
            self._tell({**self._job, "program": self._redirect.program})
            if self._hear(_START_SECONDS) != "ready\n":
                raise ToolkitError("the generator's process did not start. Next step: its standard error says why")
            self._tell("go")
        except BaseException:
            self.close()
            raise
        return self

    def wait(self, timeout: float | None = None) -> Report:
        """Wait for its bounds (`count` or `seconds`) and say what it did. Raises TimeoutError; it then goes on."""
        if self.report is None:
            line = self._hear(timeout)
            self._finish(json.loads(line) if line else None)
        assert self.report is not None
        return self.report

    def stop(self) -> Report:
        """End it now, if it has not ended, and say what it did. May be called again."""
        if self._child is not None and self.report is None:
            self._child.terminate()
        return self.wait(_START_SECONDS)

    def close(self) -> None:
        """End it and give its program back to the kernel. May be called again."""
        child = self._child
        if child is not None:
            if self.report is None and child.poll() is None:
                with contextlib.suppress(ToolkitError, OSError, ValueError):
                    self.stop()
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._redirect.close()

    def _tell(self, message: Any) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(message) + "\n")
        self._child.stdin.flush()

    def _hear(self, timeout: float | None) -> str:
        """One line of the process, "" when it ended without one."""
        if self._child is None or self._child.stdout is None:
            raise ToolkitError("this generator was not started. Next step: call start(), or use it in a `with` block")
        if not select.select([self._child.stdout], [], [], timeout)[0]:
            raise TimeoutError(f"the generator has not ended within {timeout} s. Next step: wait longer, or stop() it")
        return self._child.stdout.readline()

    def _finish(self, answer: dict[str, Any] | None) -> None:
        assert self._child is not None
        self._child.wait()
        if answer is None:
            raise ToolkitError(
                f"the generator's process ended too early (status {self._child.returncode}). "
                "Next step: its standard error says why"
            )
        error = answer.pop("error")
        if error:
            raise _refused(error, len(self.frames[0]))
        lost: int | None = None
        with contextlib.suppress(OSError):  # the interface was deleted meanwhile
            lost = self._dropped() - self._dropped_before
        self.report = Report(sent=self._redirect.count(), lost=lost, cpu=self.cpu, **answer)

    def _dropped(self) -> int:
        return veth.counters(self._lab.near, self._lab.interface)["rx_dropped"]

    def __enter__(self) -> Generator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __repr__(self) -> str:
        state = "running" if self.running else repr(self.report) if self.report else "not running"
        rate = f"{self._job['rate']:,} frames/s" if self._job["rate"] else "full speed"
        return f"<Generator {len(self.frames[0])} B, {rate}, CPU {self.cpu}, {state}>"


def _numbered(size: int, flows: int, ipv6: bool) -> tuple[Stamp, bytes]:
    """The stamp and the frame that carries it."""
    if not 1 <= flows <= 65536 - _FIRST_PORT:
        raise cannot_be("flows", flows, f"a number from 1 to {65536 - _FIRST_PORT:,}: they differ in their source port")
    stamp = Stamp(14 + (40 if ipv6 else 20), flows, _FIRST_PORT)
    least = stamp.payload + stamp.SIZE
    if size < least:
        raise cannot_be("size", size, f"{least} bytes or more, or a frame of yours: `frame=`")
    address = frames.NEAR_IP6 if ipv6 else frames.NEAR_IP
    return stamp, frames.udp_frame(stamp.template(), size=size, source_port=_FIRST_PORT, destination_ip=address)


def _check_frames(templates: Sequence[bytes], mtu: int) -> None:
    """Refuse what the kernel would refuse, or drop without a word."""
    if not templates:
        raise ArgumentError("frames cannot be empty. Next step: give one frame at least.")
    most = min(_LARGEST, mtu + 18)  # the pair takes an Ethernet header and one VLAN tag above its MTU
    for frame in templates:
        if not 14 <= len(frame) <= most:
            raise ArgumentError(
                f"a live frame cannot have {len(frame)} bytes. Next step: give 14 to {most} bytes, or Lab a larger MTU."
            )


def _refused(number: int, size: int) -> Exception:
    tried = f"cannot send live frames of {size} bytes"
    if number in (errno.EINVAL, errno.EOPNOTSUPP):
        return NotSupportedError(
            number,
            f"{tried}: {os.strerror(number)}. Likely cause: the kernel is older than 5.18, which brought XDP test runs "
            "with live frames, or the frame is larger than it takes. Next step: a newer kernel, or `Lab.send_frames`.",
        )
    return kernel_error("test_run", number, tried)
