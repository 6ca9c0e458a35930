# SPDX-License-Identifier: Apache-2.0
"""The options of a Socket: checked, merged with what its UMEM's sockets share, and as flags of bind()."""

from __future__ import annotations

from typing import Literal, NamedTuple

from toolkit._base.arguments import one_of
from toolkit.abi.if_xdp import XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_ZEROCOPY
from toolkit.abi.libxdp import XSK_RING_CONS__DEFAULT_NUM_DESCS, XSK_RING_PROD__DEFAULT_NUM_DESCS
from toolkit.errors import ArgumentError
from toolkit.umem.umem import check_ring_size
from toolkit.wait.waiter import WaitMode, check_wait_mode

__all__ = ["Shared", "SocketOptions"]


class Shared(NamedTuple):
    """What all sockets of a UMEM have in common: the kernel gives each what the first one got, whatever it asks for."""

    sg: bool
    need_wakeup: bool
    zero_copy: bool


class SocketOptions(NamedTuple):
    """How to bind. rx_size, tx_size: ring entries.

    None: as the UMEM's other sockets. On a new UMEM: zero-copy if the driver can, with need_wakeup, without sg.
    """

    rx_size: int
    tx_size: int
    zero_copy: bool | None
    need_wakeup: bool | None
    sg: bool | None
    rx: bool
    tx: bool
    wait: WaitMode = "poll"

    @classmethod
    def checked(
        cls,
        *,
        rx_size: int = XSK_RING_CONS__DEFAULT_NUM_DESCS,
        tx_size: int = XSK_RING_PROD__DEFAULT_NUM_DESCS,
        zero_copy: bool | Literal["auto"],
        need_wakeup: bool | Literal["auto"],
        sg: bool | Literal["auto"],
        rx: bool = True,
        tx: bool = True,
        wait: WaitMode = "poll",
    ) -> SocketOptions:
        """Check the arguments of Socket(). ArgumentError for what no kernel would accept."""
        if not (rx or tx):
            raise ArgumentError("a Socket needs an RX ring, a TX ring, or both")
        return cls(
            check_ring_size("rx_size", rx_size),
            check_ring_size("tx_size", tx_size),
            _chosen("zero_copy", zero_copy),
            _chosen("need_wakeup", need_wakeup),
            _chosen("sg", sg),
            rx,
            tx,
            check_wait_mode(wait),
        )

    def on(self, shared: Shared | None, where: str) -> SocketOptions:
        """Return the options as they will be on a UMEM whose sockets have `shared` in common (None: no socket yet).

        ArgumentError when the options ask for something else.
        """
        if shared is None:
            return self._replace(need_wakeup=self.need_wakeup is not False, sg=self.sg is True)
        for name, theirs in shared._asdict().items():
            mine = getattr(self, name)
            if mine is not None and mine != theirs:
                raise ArgumentError(
                    f"cannot bind to {where} with {name}={mine}: the sockets of this UMEM have {name}={theirs}, and "
                    f"the kernel gives a further one the same, whatever it asks for. Next step: leave {name} out, "
                    "make all sockets of this UMEM alike, or use another UMEM."
                    + (" (toolkit.open() calls sg of a Socket frags.)" if name == "sg" else "")
                )
        return self._replace(**shared._asdict())

    @property
    def bind_flags(self) -> int:
        """sxdp_flags of bind()."""
        flags = XDP_USE_NEED_WAKEUP if self.need_wakeup else 0
        if self.sg:
            flags |= XDP_USE_SG
        if self.zero_copy is not None:
            flags |= XDP_ZEROCOPY if self.zero_copy else XDP_COPY
        return flags


def _chosen(name: str, value: bool | Literal["auto"]) -> bool | None:
    chosen = one_of(name, value, True, False, "auto")
    return None if chosen == "auto" else bool(chosen)
