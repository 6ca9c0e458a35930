# SPDX-License-Identifier: Apache-2.0
"""The toolkit's jobs, one a process: a user's code, between two calls of Commands.answer()."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import toolkit
from benchmarks.commands import Commands
from toolkit.forward.forwarder import Forwarder
from toolkit.packets import frames

__all__ = ["main"]

INTERFACE = "veth0"
_IDLE = 0.02  # seconds without a packet after which commands of the parent are read


def receive(*, touch: bool = False, sum_lengths: bool = False, tee: bool = False, **options: Any) -> None:
    """Receive, count, drop. touch: also copy the first 64 bytes of every packet to an array. tee: receive copies."""
    received = octets = 0

    def counts() -> dict[str, int]:
        return {"received": received, **_kernel(interface)}

    with (toolkit.tee if tee else toolkit.open)(INTERFACE, filter="udp", **options) as interface:
        commands = Commands(counts)
        commands.ready(mode=interface.mode)
        while True:
            batch = interface.receive(timeout=_IDLE)
            if batch:
                received += len(batch)
                if touch:
                    batch.head(64)
                if sum_lengths:
                    octets += int(batch.lengths.sum())
            elif not commands.answer():
                return


def forward(*, finish: bool = False, **options: Any) -> None:
    """Swap the MAC addresses and send back. finish: also finish checksums that were left open."""
    from toolkit.forward.edits import swap_macs

    with toolkit.open(INTERFACE, filter="udp", **options) as interface:

        def swap(batch: Any) -> None:
            batch.put_head(swap_macs(batch.head(12)))

        forwarder = Forwarder(interface, interface, swap, finish_checksums=finish)

        def counts() -> dict[str, int]:
            interface.flush(1.0)
            return {
                "received": forwarder.statistics().received,
                "sent": forwarder.statistics().forwarded,
                **_kernel(interface),
            }

        commands = Commands(counts)
        commands.ready(mode=interface.mode)
        while True:
            if not forwarder.step(_IDLE) and not commands.answer():
                return


def send(*, batch: int = 1024, tx_size: int = 4096) -> None:
    """Send 64-byte frames from an array, as fast as possible, for the seconds that the parent sends."""
    import numpy as np

    frame = frames.udp_frame(bytes(18), size=64)
    packets = np.tile(np.frombuffer(frame, np.uint8), (batch, 1))
    sent = 0
    umem = toolkit.UMEM(frames=2 * tx_size, frame_size=2048, comp_size=tx_size)

    def run(seconds: str) -> dict[str, Any]:
        nonlocal sent
        end = time.perf_counter() + float(seconds)
        while time.perf_counter() < end:
            sent += sock.send(packets)
        sock.flush(5.0)
        return {"sent": sent}

    with toolkit.Socket(INTERFACE, 0, umem, rx=False, tx_size=tx_size) as sock:
        _serve(Commands(lambda: {"received": 0, "sent": sent}, send=run), zero_copy=sock.zero_copy)
    umem.close()


def echo(mac: str, address: str, *, spin: bool = True) -> None:
    """Answer ping."""
    from toolkit.forward.answers import Answers
    from toolkit.forward.responder import Responder

    answers = Answers(bytes.fromhex(mac.replace(":", "")), [address])
    with toolkit.open(INTERFACE, filter="icmp or arp", wait="spin" if spin else "poll") as interface:
        responder = Responder(interface, answers)
        commands = Commands(
            lambda: {
                "received": responder.statistics().received,
                "sent": responder.statistics().answered,
                **_kernel(interface),
            }
        )
        commands.ready(mode=interface.mode)
        while commands.answer():
            responder.run(0.1, spin=spin)


def one_by_one(**options: Any) -> None:
    """Receive each packet by itself through the rings, as in C and Go: peek, get, read its 64 bytes, release."""
    received = octets = 0
    with toolkit.open(INTERFACE, filter="udp", **options) as interface:
        sock, umem = interface.sockets[0], interface.umem
        rx, fill = sock.rx, sock.fill
        commands = Commands(lambda: {"received": received, **_kernel(interface)})
        commands.ready(mode=interface.mode)
        idle = time.monotonic() + _IDLE
        while True:
            n, index = rx.peek(64)
            if not n:
                if time.monotonic() > idle:
                    idle = time.monotonic() + _IDLE
                    if not commands.answer():
                        return
                continue
            for at in range(index, index + n):
                desc = rx.get(at)
                octets += len(bytes(umem.get(desc)))
                umem.free_frame(desc.addr)
            rx.release(n)
            fill.fill_all(umem, n)
            received += n


def _serve(commands: Commands, **about: Any) -> None:
    commands.ready(**about)
    while commands.answer(1.0):
        pass


def _kernel(interface: toolkit.Interface | toolkit.Tee) -> dict[str, int]:
    return {"redirected": interface.counters()["redirected"], "dropped": interface.statistics().dropped}


JOBS: dict[str, Callable[..., None]] = {
    "receive": receive,
    "forward": forward,
    "send": send,
    "echo": echo,
    "one_by_one": one_by_one,
}


def main() -> None:
    """Do the job that the command line names, with its options in JSON."""
    JOBS[sys.argv[1]](**json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
