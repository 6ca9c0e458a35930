# SPDX-License-Identifier: Apache-2.0
"""The options of toolkit.open(), toolkit.tee(), Workers and the command: one record, checked in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from toolkit._base.arguments import cannot_be, one_of, whole
from toolkit._base.arguments import seconds as as_seconds
from toolkit._base.netns import NetNS, check_netns
from toolkit.errors import ArgumentError
from toolkit.net.device import Device, check_queues
from toolkit.program import Action, Program, Replace, Rule
from toolkit.program.link import MODES
from toolkit.program.replaced import check_replace
from toolkit.program.rules import Filtering
from toolkit.umem.umem import UMEM, check_frame_size, check_ring_size
from toolkit.wait.coalesce import LONGEST_DELAY
from toolkit.wait.waiter import WaitMode, check_wait_mode

__all__ = ["Opening"]

_MOST_COALESCE = 0.1  # seconds


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How to open an interface: see toolkit.open(), and toolkit.tee() for `slots`. ArgumentError for what cannot be.

    Whoever takes such options makes one of these first, before anything is asked, compiled or attached.
    """

    filtering: Filtering | None  # None: the program is the caller's
    program: Program | None = None
    queues: Iterable[int] | Literal["all"] = "all"
    mode: Literal["auto", "native", "generic"] = "auto"
    zero_copy: bool | Literal["auto"] = "auto"
    replace: Replace = False
    promisc: bool = False
    umem: UMEM | None = None
    ring_size: int | None = None
    frames: int | None = None
    frame_size: int | None = None
    need_wakeup: bool | Literal["auto"] = "auto"
    tx: bool = True
    poison: bool = False
    wait: WaitMode = "poll"
    coalesce: float = LONGEST_DELAY
    frags: bool | Literal["auto"] = "auto"
    timestamps: bool = True
    slots: int | None = None
    netns: NetNS = None

    @classmethod
    def of(
        cls,
        interface: str,
        *,
        filter: str | None = None,
        rules: Iterable[Rule] | None = None,
        on_match: Action = "redirect",
        sample: float = 1,
        snaplen: int | None = None,
        program: Program | None = None,
        **options: Any,
    ) -> Opening:
        """Return the record of the arguments of an entrance. ArgumentError where they do not say which packets."""
        if (filter is not None or rules is not None) == (program is not None):
            raise ArgumentError(
                f"cannot open {interface}: nothing says which packets to take, or two arguments do. Next step: give "
                "one of filter=, a tcpdump expression such as 'udp port 53', or 'all' for everything (an SSH session "
                "through this interface too); rules=, several filters; program=, a Program of yours (not with tee())."
            )
        filtering = Filtering.of(filter, rules, on_match, sample, snaplen)
        if program is None:
            return cls(filtering=filtering, **options)
        if filtering != Filtering.of():
            raise ArgumentError(
                f"on_match, sample and snaplen go into the program for {interface}, and program= is one that is "
                "finished. Next step: give them to Program.build()."
            )
        return cls(filtering=None, program=program, **options)

    def __post_init__(self) -> None:
        """Check, and bring each option into its plain form."""
        for name, kind in (("umem", UMEM), ("program", Program)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                raise cannot_be(name, given, f"a toolkit.{kind.__name__}, or None")
        self._set("queues", check_queues(self.queues))
        one_of("mode", self.mode, *MODES)
        check_replace(self.replace)
        check_wait_mode(self.wait)
        check_netns(self.netns)
        for name in ("zero_copy", "need_wakeup", "frags"):
            self._set(name, one_of(name, getattr(self, name), True, False, "auto"))
        for name in ("promisc", "tx", "poison", "timestamps"):
            self._set(name, one_of(name, getattr(self, name), True, False))
        if self.ring_size is not None:
            self._set("ring_size", check_ring_size("ring_size", self.ring_size))
        if self.frame_size is not None:
            self._set("frame_size", check_frame_size(self.frame_size))
        for name in ("frames", "slots"):
            if (number := getattr(self, name)) is not None:
                self._set(name, whole(name, number, 1))
        if self.zero_copy is True and self.mode == "generic":
            raise ArgumentError(
                '`mode="generic"` and `zero_copy=True` contradict each other: a driver has zero-copy only where it '
                'also runs the program. Next step: `mode="auto"`, or `zero_copy="auto"`.'
            )
        if self.mode == "generic" and self.zero_copy == "auto":
            self._set("zero_copy", False)  # also while a native program is there that this one replaces
        if not 0 <= as_seconds("coalesce", self.coalesce) <= _MOST_COALESCE:
            raise cannot_be("coalesce", self.coalesce, f"a time in seconds from 0 to {_MOST_COALESCE}")
        shape = (self.ring_size, self.frames, self.frame_size, self.poison)
        if self.umem is not None and shape != (None, None, None, False):
            raise ArgumentError(
                "ring_size, frames, frame_size and poison cannot be given beside umem=, which has them already. Next "
                "step: give them to UMEM(...)."
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # frozen, for everybody else

    def of_queues(self) -> dict[str, Any]:
        """Return what matters beyond the program: toolkit.open()'s arguments in a worker, beside program and queues."""
        of_all = ("filtering", "program", "queues", "mode", "replace", "promisc", "umem", "slots", "netns")
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in of_all}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that the program is made of; none where it is the caller's."""
        return () if self.filtering is None else self.filtering.rules

    def check_rules(self, device: Device, numbers: list[int]) -> None:
        """Raise ArgumentError for a rule that redirects packets of a queue that is not among those opened."""
        for rule in self.rules:
            if rule.queue is not None and rule.action == "redirect" and rule.queue not in numbers:
                raise ArgumentError(
                    f"the rule {str(rule)!r} redirects packets of queue {rule.queue} of {device.name}, which is not "
                    f"open: the queues are {', '.join(map(str, numbers))}. Next step: name one of these. A rule cannot "
                    f"move packets to another queue; `ethtool -N {device.name} flow-type …` makes the NIC do that."
                )

    def build(self, frags: bool, numbers: list[int]) -> Program:
        """Compile and load the program that redirects to AF_XDP sockets on the queues `numbers`."""
        return Program.build(
            rules=self.rules,
            frags=frags,
            defines={} if self.timestamps else {"XSK_UNTIMED": 1},
            map_entries={"xsks_map": max(64, max(numbers) + 1)},
        )
