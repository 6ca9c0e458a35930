# SPDX-License-Identifier: Apache-2.0
"""Nic: what an open object holds of its device beside program and sockets: promiscuous mode, and the NIC's counters."""

from __future__ import annotations

from toolkit._base.descriptor import Descriptor
from toolkit._base.netns import Home
from toolkit.net.device import Device
from toolkit.net.nic_counters import NicCounters
from toolkit.net.promiscuity import promiscuous
from toolkit.xsk.statistics import Statistics

__all__ = ["Nic"]


class Nic:
    """One device, while something is open on it. Ends with close(), with garbage collection, and with the process."""

    def __init__(self, device: Device, home: Home, *, promisc: bool = False) -> None:
        """Begin to count; promisc: have packets to all addresses come. In the device's network namespace, `home`."""
        self._membership: Descriptor | None = promiscuous(device.name, device.ifindex) if promisc else None
        self._counters = NicCounters(device.name, home)

    @property
    def promisc(self) -> bool:
        """Whether this has packets to all addresses come."""
        return self._membership is not None and not self._membership.closed

    def with_missed(self, counted: Statistics, *, starved: bool) -> Statistics:
        """Return the sockets' counters with what the NIC had no room for since the beginning; None: not known.

        starved: whether a fill ring was empty in zero-copy mode: what arrives meanwhile is lost in the NIC. Where no
        counter says so, nobody knows how much that was.
        """
        missed = self._counters.missed()
        return counted._replace(missed=None if starved and not missed else missed)

    def counters(self) -> dict[str, int]:
        """Return the NIC's and its driver's counters of losses that have moved since the beginning."""
        return self._counters.moved()

    def close(self) -> None:
        """End it. Repeatable."""
        if self._membership is not None:
            self._membership.close()
        self._counters.close()

    def __enter__(self) -> Nic:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
