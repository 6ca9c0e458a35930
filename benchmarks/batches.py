# SPDX-License-Identifier: Apache-2.0
"""The cost of a packet by the size of its batch: rings are filled first, then the time to empty them is measured.

Beside it is the floor: what a loop in C on libxdp's inline calls pays for the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import toolkit
from benchmarks.floor import Floor, MissingFloorError
from benchmarks.isolation import Cores, undisturbed
from toolkit.lab import Lab
from toolkit.packets import frames as lab_frames

__all__ = ["SIZES", "costs"]

_READ = "receive, head(64), lengths"

SIZES = tuple(1 << power for power in range(12))  # 1 … 2048
_RING = 8192
_MOST = 1024  # most batches of one measurement: enough for small batches

Costs = dict[str, dict[int, float]]


def costs(where: Cores, rounds: int) -> tuple[Costs, str]:
    """Return ns a packet by batch size, for each kind of work, medians of `rounds`; and why there is no floor."""
    kinds: dict[str, Callable[[toolkit.Interface, int], tuple[int, float]]] = {
        "receive": _receive,
        _READ: _receive_and_read,
        "send": _send,
    }
    missing = ""
    try:
        kinds |= _floors(Floor())
    except MissingFloorError as reason:
        missing = str(reason)
    found: dict[str, dict[int, list[float]]] = {kind: {size: [] for size in SIZES} for kind in kinds}
    with Lab() as lab, toolkit.open(lab.interface, filter="udp", ring_size=_RING, netns=lab.netns) as interface:
        for _ in range(rounds):
            for kind, work in kinds.items():
                for size in SIZES:
                    if kind != "send":
                        with lab.generator(count=_RING // 2, cpu=where.generator) as generator:
                            generator.wait(10)
                    with undisturbed(where.consumer):
                        packets, seconds = work(interface, size)
                    found[kind][size].append(seconds * 1e9 / packets)
                    while interface.receive(timeout=0):
                        pass
                    interface.flush(5)
    return {kind: {size: statistics.median(ns) for size, ns in by.items()} for kind, by in found.items()}, missing


def _floors(floor: Floor) -> dict[str, Callable[[toolkit.Interface, int], tuple[int, float]]]:
    def receive(interface: toolkit.Interface, size: int) -> tuple[int, float]:
        return floor.receive(interface, size, _batches(size), read=False)

    def receive_and_read(interface: toolkit.Interface, size: int) -> tuple[int, float]:
        return floor.receive(interface, size, _batches(size), read=True)

    return {"C: receive": receive, f"C: {_READ}": receive_and_read}


def _batches(size: int) -> int:
    return min(_MOST, _RING // 2 // size)


def _receive(interface: toolkit.Interface, size: int) -> tuple[int, float]:
    received, receive, batches = 0, interface.receive, _batches(size)
    began = time.perf_counter()
    for _ in range(batches):
        received += len(receive(0, size))
    return received, time.perf_counter() - began


def _receive_and_read(interface: toolkit.Interface, size: int) -> tuple[int, float]:
    received, receive, batches = 0, interface.receive, _batches(size)
    began = time.perf_counter()
    for _ in range(batches):
        batch = receive(0, size)
        batch.head(64)
        received += len(batch.lengths)
    return received, time.perf_counter() - began


def _send(interface: toolkit.Interface, size: int) -> tuple[int, float]:
    import numpy as np

    frame = lab_frames.udp_frame(bytes(18), size=64)
    packets = np.tile(np.frombuffer(frame, np.uint8), (size, 1))
    sent, batches = 0, _batches(size)
    began = time.perf_counter()
    for _ in range(batches):
        sent += interface.send(packets)
    interface.flush(5)
    return sent, time.perf_counter() - began
