# SPDX-License-Identifier: Apache-2.0
"""How to bind to an interface, as asked for on the command line; the same for every command that moves packets."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from toolkit._base.netns import NetNS, entered
from toolkit._base.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from toolkit.interface.interface import Interface
    from toolkit.interface.opening import Opening
    from toolkit.interface.tee import Tee
    from toolkit.net.device import Device
    from toolkit.program import Replace
    from toolkit.umem.umem import UMEM
    from toolkit.wait.waiter import WaitMode
    from toolkit.xsk.socket import Socket

__all__ = ["Binding"]

_RING = 2048  # entries of the TX ring of a socket that only sends, when nothing else is asked for


@dataclass(frozen=True)
class Binding:
    """Options that mean the same in every command."""

    queues: tuple[int, ...] | Literal["all"] = "all"
    mode: Literal["auto", "native", "generic"] = "auto"
    zero_copy: bool | Literal["auto"] = "auto"
    wait: WaitMode = "poll"
    need_wakeup: bool = True
    ring_size: int | None = None
    replace: Replace = False
    promisc: bool = False
    netns: NetNS = None
    on_match: Literal["redirect", "drop", "count"] = "redirect"
    sample: float = 1
    snaplen: int | None = None
    yes: bool = False  # the filter may take what this host needs
    tee: bool = False  # the kernel gets the packets as well

    def __post_init__(self) -> None:
        """Check the options, before anything is asked. ArgumentError, as toolkit.open() raises it."""
        self._asked("the interface", "all")

    def _asked(self, interface: str, expression: str | None, **more: Any) -> Opening:
        """Return the record of options that toolkit.open() and tee() share."""
        from toolkit.interface.opening import Opening

        options = self.open_options(expression) | more
        if self.tee:  # the ring of a tee need not be a power of two
            options |= {"ring_size": None, "slots": self.ring_size}
        return Opening.of(interface, **options)

    def open(
        self,
        interface: str,
        expression: str | None,
        umem: UMEM | None = None,
        *,
        frags: bool | Literal["auto"] = "auto",
        timestamps: bool = True,
        answered: bool = False,
    ) -> Interface:
        """Open `interface` to receive what `expression` takes; the ring size is that of `umem`, if there is one.

        Before that it asks if the filter takes what this host needs. `answered`: ARP and the like need no question.
        """
        from toolkit.interface.open_interface import open_as

        more = {} if umem is None else {"umem": umem, "ring_size": None}
        wanted = self._asked(interface, expression, frags=frags, timestamps=timestamps, **more)
        self.ask(interface, expression, answered=answered)
        return open_as(interface, wanted)

    def watch(self, interface: str, expression: str | None) -> Interface | Tee:
        """Open `interface` to receive what `expression` takes, or, with `tee`, copies of it.

        With `tee` this host misses nothing, but for what --on-match drop makes the driver drop.
        """
        if not self.tee:
            return self.open(interface, expression)
        from toolkit.interface.open_tee import tee_as

        if self.on_match == "drop":
            self.ask(interface, expression)
        return tee_as(interface, self._asked(interface, expression))

    def ask(self, interface: str | Sequence[str], expression: str | None, *, answered: bool = False) -> None:
        """Ask before the filter takes what this host needs. ArgumentError if the answer is no.

        interface: one, or all from which the same filter takes: then there is one question, and one proposal.
        """
        for name in [interface] if isinstance(interface, str) else interface:
            self.describe(name)  # an interface that cannot be opened is refused before the question
        if expression is not None and self.on_match != "count":
            from toolkit.cli.guard import ask

            ask(interface, expression, netns=self.netns, assent=self.yes, answered=answered)

    def open_options(self, expression: str | None) -> dict[str, Any]:
        """Return keyword arguments for toolkit.open(), and for Workers."""
        return {
            "filter": expression,
            "on_match": self.on_match,
            "sample": self.sample,
            "snaplen": self.snaplen,
            "queues": self.queues,
            "mode": self.mode,
            "zero_copy": self.zero_copy,
            "wait": self.wait,
            "need_wakeup": self.need_wakeup,
            "ring_size": self.ring_size,
            "replace": self.replace,
            "promisc": self.promisc,
            "netns": self.netns,
        }

    def describe(self, interface: str) -> Device:
        """Ask the kernel about `interface`, in the namespace meant. SystemCallError for one that cannot be opened."""
        from toolkit.net.device import check_ethernet, describe

        with entered(self.netns):
            device = describe(interface)
        check_ethernet(device)
        return device

    @contextlib.contextmanager
    def sender(self, interface: str, queue: int, umem: UMEM) -> Iterator[Socket]:
        """Open a Socket that only sends, on one queue. What arrives at the interface is not touched.

        Drivers send zero-copy only while they run an XDP program: with --zero-copy one that passes everything is
        attached where there is none; by default the Socket is then in copy mode.
        """
        from toolkit.net.device import await_carrier
        from toolkit.xsk.socket import Socket

        def ready() -> None:
            with entered(self.netns):
                await_carrier(self.describe(interface))

        uninterrupted(ready)  # what is sent into a link that is just coming back is lost, and nobody counts it
        with contextlib.ExitStack() as parts:
            if self.zero_copy is True and not self._runs_natively(interface):
                parts.enter_context(self._passing(interface))
            yield parts.enter_context(
                Socket(
                    interface,
                    queue,
                    umem,
                    rx=False,
                    tx_size=self.ring_size or _RING,
                    zero_copy=self.zero_copy,
                    need_wakeup=self.need_wakeup,
                    netns=self.netns,
                )
            )

    def _runs_natively(self, interface: str) -> bool:
        from toolkit.program.query import runs_natively

        with entered(self.netns):
            return runs_natively(self.describe(interface).ifindex)

    @contextlib.contextmanager
    def _passing(self, interface: str) -> Iterator[None]:
        """Attach a program that passes everything, natively, for the length of the block."""
        from toolkit.errors import SystemCallError, kernel_error
        from toolkit.program import Program

        with contextlib.ExitStack() as parts:
            program = parts.enter_context(Program.build("xdp_pass.c"))
            try:
                parts.enter_context(program.attach(interface, mode="native", netns=self.netns))
            except SystemCallError as refused:
                if refused.errno != errno.EOPNOTSUPP:
                    raise
                raise kernel_error("bind", errno.EOPNOTSUPP, f"cannot send zero-copy on {interface}") from None
            yield
