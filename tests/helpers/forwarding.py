# SPDX-License-Identifier: Apache-2.0
"""Forwarders at work: in a namespace between two hosts, step by step, and what must add up afterwards."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import toolkit
from toolkit.batch.editable import EditableBatch
from toolkit.forward.forwarder import Edit, Forwarder
from toolkit.lab import Lab, Namespace
from toolkit.lab.veth import End, connect
from toolkit.umem.umem import UMEM

__all__ = ["Middle", "adds_up", "moved", "settled", "swap_macs"]


def settled(*interfaces: toolkit.Interface) -> dict[str, Any]:
    """Wait until everything has left; where the frames are then: posted for receiving, or free."""
    for interface in interfaces:
        assert interface.flush(5.0)
    audit = interfaces[0].umem.audit()
    assert audit["rx"] + audit["free"] == audit["frames"], audit
    return audit


def moved(forwarder: Forwarder, packets: int, timeout: float = 5.0) -> None:
    """Step until that many packets have come in all."""
    deadline = time.monotonic() + timeout
    while forwarder.statistics().received < packets and time.monotonic() < deadline:
        forwarder.step(0.1)
    assert forwarder.statistics().received == packets
    adds_up(forwarder)


def adds_up(forwarder: Forwarder) -> None:
    assert (
        forwarder.statistics().received
        == forwarder.statistics().forwarded + forwarder.statistics().edited_out + forwarder.statistics().no_room
    ), forwarder


def swap_macs(batch: EditableBatch) -> None:
    heads = batch.head(12)
    batch.put_head(heads[:, [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]])


class Middle:
    """A namespace in the middle with two interfaces, `left` and `right`, opened on one UMEM; hosts on both sides.

    far left, 10.11.0.2 — left, right — 10.11.0.3, far right. They ask by ARP and neighbour discovery, as hosts do.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.lab = stack.enter_context(Lab(interface="left", neighbours=False))
        self.far = stack.enter_context(Namespace())
        right = End(self.lab.netns, "right", "02:00:00:00:00:0a", "10.12.0.1", "fd12::1")
        self.end = End(self.far, "veth1", "02:00:00:00:00:03", "10.11.0.3", "fd11::3")
        connect(right, self.end, queues=1, mtu=1500, neighbours=False, offloads=False)
        self.umem = stack.enter_context(UMEM(65536, 2048, fill_size=16384, comp_size=16384))
        self.left = stack.enter_context(self.open("left"))
        self.right = stack.enter_context(self.open("right"))

    def open(self, name: str) -> toolkit.Interface:
        return toolkit.open(name, filter="all", umem=self.umem, netns=self.lab.netns)

    @contextlib.contextmanager
    def running(self, edit: Edit | None = None) -> Iterator[tuple[Forwarder, Forwarder]]:
        """Forward both ways, in a thread."""
        both = Forwarder(self.left, self.right, edit), Forwarder(self.right, self.left, edit)
        stop = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                while not stop.is_set():
                    if not both[0].step() + both[1].step():
                        both[0].step(0.0002)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield both
        finally:
            stop.set()
            thread.join()
        assert not failures
        adds_up(both[0])
        adds_up(both[1])
