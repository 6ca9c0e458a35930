# SPDX-License-Identifier: Apache-2.0
"""Send traffic from the far end of a Lab, by the kernel: ping, UDP sockets, and given frames."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from toolkit._base.arguments import cannot_be, whole
from toolkit._base.pacer import Pacer
from toolkit.errors import ToolkitError, kernel_error
from toolkit.lab.namespace import Namespace

__all__ = ["PingResult", "ping", "send_frames", "send_udp"]

_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class PingResult:
    """What ping(8) reported."""

    sent: int
    received: int
    times_ms: tuple[float, ...]  # round trip of each answer, in order of arrival
    output: str  # all that it printed


def ping(
    namespace: Namespace,
    address: str,
    *,
    count: int = 1,
    interval: float = 0.01,
    size: int = 56,
    wait: float = 1.0,
) -> PingResult:
    """Run the system's own ping in `namespace`: `count` requests of `size` bytes of payload, `interval` seconds apart.

    Then it waits up to `wait` seconds for the last answer. Missing answers are not an error; a ping that cannot send
    is (`ToolkitError`), and so is a system without ping.
    """
    whole("count", count, 1)
    command = ["ping", "-n", "-c", count, "-i", interval, "-s", size, "-W", wait, address]
    try:
        done = namespace.run(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except FileNotFoundError as missing:
        raise ToolkitError("there is no ping here. Next step: `apt-get install iputils-ping`.") from missing
    summary = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", done.stdout)
    if summary is None:
        raise ToolkitError(
            f"ping {address} failed (status {done.returncode}): {done.stdout.strip()}. Next step: check the address, "
            "and its route: `ip route get ADDRESS`."
        )
    times = tuple(float(found) for found in re.findall(r"time=([\d.]+) ms", done.stdout))
    return PingResult(int(summary[1]), int(summary[2]), times, done.stdout)


def send_udp(
    namespace: Namespace,
    address: str,
    payloads: Iterable[bytes],
    *,
    source_port: int = 5000,
    destination_port: int = 9,
    flows: int = 1,
    rate: float | None = None,
) -> int:
    """Send each payload as one datagram from kernel sockets in `namespace`; returns how many were sent.

    `flows` sockets take turns, bound to `source_port` and the ports that follow. `rate` is in datagrams/s. No
    socket needs to listen at the other end: ICMP errors are ignored.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        senders = []
        for port in range(source_port, source_port + flows):
            with namespace.entered():
                sender = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            try:
                sender.bind(("", port))
                sender.connect((address, destination_port))
            except OSError as refused:
                tried = f"cannot send from UDP port {port} to {address}"
                raise kernel_error("udp", refused.errno or 0, tried) from refused
            senders.append(sender)
        sent = 0
        for payload in _paced(payloads, rate):
            _send(senders[sent % flows], payload, "datagram")
            sent += 1
        return sent


def send_frames(namespace: Namespace, interface: str, frames: Iterable[bytes], *, rate: float | None = None) -> int:
    """Put each frame on the wire as it is, from `interface` in `namespace`; returns how many were sent.

    `rate` is in frames/s; without it some 200,000. A frame has 14 bytes to the MTU plus its Ethernet header (and one
    VLAN tag). Raises `SystemCallError` for one that the interface refuses; those before it are sent.
    """
    with namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        try:
            wire.bind((interface, 0))
        except OSError as refused:
            tried = f"cannot send from {interface}"
            raise kernel_error("packet", refused.errno or 0, tried, interface=interface) from refused
        sent = 0
        for frame in _paced(frames, rate):
            _send(wire, frame, "frame")
            sent += 1
        return sent


def _send(wire: socket.socket, data: bytes, kind: str) -> None:
    """Send once. A full queue is waited for; a datagram refused by the other side is a matter of the one before."""
    deadline = 0.0
    while True:
        try:
            wire.send(data)
            return
        except OSError as refused:
            if refused.errno not in (errno.ENOBUFS, errno.EAGAIN, errno.ECONNREFUSED):
                raise kernel_error(
                    "send", refused.errno or 0, f"cannot send a {kind} of {len(data)} bytes"
                ) from refused
            deadline = deadline or time.monotonic() + _RETRY_SECONDS
            if time.monotonic() > deadline:
                raise kernel_error("send", refused.errno, f"cannot send a {kind}: the queue stays full") from refused
            if refused.errno != errno.ECONNREFUSED:
                time.sleep(0.0001)


def _paced(items: Iterable[bytes], rate: float | None) -> Iterator[bytes]:
    """Yield the items one by one, `rate` a second."""
    if rate is None:
        yield from items
        return
    if rate <= 0:
        raise cannot_be("rate", rate, "packets per second above 0, or None for as fast as possible")
    pacer = Pacer(rate, batch_size=1)
    for number, item in enumerate(items):
        while not pacer.due(number):
            time.sleep(pacer.pause(number))
        yield item
