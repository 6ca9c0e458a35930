# SPDX-License-Identifier: Apache-2.0
"""How a Socket is to be bound: what was asked for, checked, and the flags of bind() that say so."""

from __future__ import annotations

from typing import Literal, NamedTuple

from toolkit.abi.if_xdp import XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_ZEROCOPY
from toolkit.errors import ArgumentError
from toolkit.umem import check_ring_size
from toolkit.wait import WaitMode, check_wait_mode

__all__ = ["SocketOptions"]


class SocketOptions(NamedTuple):
    """How to bind. zero_copy: None lets the driver decide."""

    rx_size: int
    tx_size: int
    zero_copy: bool | None
    need_wakeup: bool
    sg: bool
    rx: bool
    tx: bool
    wait: WaitMode = "poll"

    @classmethod
    def checked(
        cls,
        *,
        rx_size: int,
        tx_size: int,
        zero_copy: bool | Literal["auto"],
        need_wakeup: bool,
        sg: bool,
        rx: bool,
        tx: bool,
        wait: WaitMode,
    ) -> SocketOptions:
        """Take the arguments of Socket(). ArgumentError for what no kernel would accept."""
        if not (rx or tx):
            raise ArgumentError("a Socket needs an RX ring, a TX ring, or both")
        if zero_copy not in (True, False, "auto"):
            raise ArgumentError(f'zero_copy is True, False or "auto", not {zero_copy!r}')
        return cls(
            check_ring_size("rx_size", rx_size),
            check_ring_size("tx_size", tx_size),
            None if zero_copy == "auto" else bool(zero_copy),
            need_wakeup,
            sg,
            rx,
            tx,
            check_wait_mode(wait),
        )

    @property
    def bind_flags(self) -> int:
        """sxdp_flags of bind()."""
        flags = XDP_USE_NEED_WAKEUP if self.need_wakeup else 0
        if self.sg:
            flags |= XDP_USE_SG
        if self.zero_copy is not None:
            flags |= XDP_ZEROCOPY if self.zero_copy else XDP_COPY
        return flags
