# SPDX-License-Identifier: Apache-2.0
"""Attachment: base of Interface, Tee and Workers: a program attached to an interface, its mode, counters, and loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from toolkit._base.closing import Closable
from toolkit.errors import DeviceGoneError
from toolkit.interface.nic import Nic
from toolkit.net.device import Device
from toolkit.program import Link, Program, RuleCounters
from toolkit.xsk.statistics import Statistics

__all__ = ["Attachment"]


class Attachment(Closable):
    """Base of what is opened on an interface: one program, attached until close()."""

    device: Device
    program: Program
    link: Link
    _nic: Nic

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return the options in effect, for display and for JSON."""

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.device.name

    @property
    def mode(self) -> str:
        """How the program runs: "native" (in the driver), "generic" (behind the driver, slower), or "detached"."""
        return "detached" if self.link.closed or self.loss() is not None else self.link.mode

    def loss(self) -> DeviceGoneError | None:
        """Return the error with which receiving ends: the program was taken off or replaced, or the interface is gone.

        None while packets can come, or where detach() or close() ended that. Known after both as well.
        """
        found = self.link.loss()
        return None if found is None else found.error(f"cannot receive on {self.name} any more")

    def _about(self) -> dict[str, Any]:
        """Return what every info() has."""
        loss = self.loss()
        return {
            "interface": self.name,
            "driver": self.device.driver,
            "mode": self.mode,
            "fallback_reason": self.link.fallback_reason,
            "replaced": self.link.replaced,
            "promisc": self._nic.promisc,
            "loss": None if loss is None else loss.strerror,
        }

    def counters(self) -> dict[str, int]:
        """Return what the XDP program counted, summed over the CPUs: `redirected`, `passed`, …

        Empty where it is a program of your own that counts nothing: see Program.counters().
        """
        self._check_open()
        return self.program.counters()

    @abstractmethod
    def statistics(self) -> Statistics:
        """Return the kernel's counters of packets that were redirected and not delivered."""

    def rule_counters(self) -> tuple[RuleCounters, ...]:
        """Return the counters of each rule, in order; a plain filter is one rule.

        Batch.rule_numbers has their indices.
        """
        self._check_open()
        return self.program.rule_counters()

    def nic_counters(self) -> dict[str, int]:
        """Return what the NIC and its driver counted of packets that they lost, since this was opened: name -> packets.

        Names as the kernel (rx_missed_errors, …) and the driver have them (`ethtool -S`): what they mean differs from
        driver to driver, some count a packet twice, and all count those of every queue and process. Only those
        that have moved. Empty where nothing was lost, or nothing is counted. Some drivers refresh them only each
        second or two.
        """
        self._check_open()
        return self._nic.counters()
