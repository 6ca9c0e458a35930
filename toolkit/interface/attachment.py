# SPDX-License-Identifier: Apache-2.0
"""Attachment: base of Interface, Tee and Workers: a program attached to an interface, its mode, counters, and loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, TypeVar

from toolkit._base import fork
from toolkit.errors import ClosedError, DeviceGoneError
from toolkit.net.device import Device
from toolkit.program import Link, Program, RuleCounters

__all__ = ["Attachment"]

A = TypeVar("A", bound="Attachment")


class Attachment(fork.NotCopied, ABC):
    """Base of what is opened on an interface: one program, attached until close()."""

    device: Device
    program: Program
    link: Link
    _why_dead = ""  # why every call raises; written by close() and in a forked child
    _SUBJECT: ClassVar[str]  # subject of the sentence of ClosedError, with {} for the interface's name

    @abstractmethod
    def close(self) -> None:
        """Detach the program and release everything. Repeatable."""

    def __enter__(self: A) -> A:
        """Close at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.device.name

    @property
    def mode(self) -> str:
        """How the program runs: "native" (in the driver), "generic" (behind the driver, slower), or "detached"."""
        return "detached" if self.link.closed or self.loss() is not None else self.link.mode

    @property
    def lost(self) -> str | None:
        """Why no packet comes any more, as a sentence, if another program or user ended that; else None.

        Known after detach() and close() as well.
        """
        error = self.loss()
        return None if error is None else error.strerror

    def loss(self) -> DeviceGoneError | None:
        """Return the error with which receiving ends, if the program was taken off or the interface is gone."""
        found = self.link.lost()
        return None if found is None else found.error(f"cannot receive on {self.name} any more")

    @property
    def closed(self) -> bool:
        """Whether close() has begun, or this process is a fork of the owner."""
        return bool(self._why_dead)

    def counters(self) -> dict[str, int]:
        """Return what the XDP program counted, summed over the CPUs: `redirected`, `passed`, …

        Empty where it is a program of your own that counts nothing: see Program.counters().
        """
        self._check_open()
        return self.program.counters()

    def rule_counters(self) -> tuple[RuleCounters, ...]:
        """Return the counters of each rule, in order; a plain filter is one rule.

        Batch.rule_numbers has their indices.
        """
        self._check_open()
        return self.program.rule_counters()

    def _check_open(self) -> None:
        if self._why_dead:
            raise ClosedError(f"{self._SUBJECT.format(self.name)} {self._why_dead}")
