# SPDX-License-Identifier: Apache-2.0
"""The options of a Socket: checked, and as flags of bind()."""

from __future__ import annotations

from typing import Literal, NamedTuple

from toolkit._base.arguments import one_of
from toolkit.abi.if_xdp import XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_ZEROCOPY
from toolkit.abi.libxdp import XSK_RING_CONS__DEFAULT_NUM_DESCS, XSK_RING_PROD__DEFAULT_NUM_DESCS
from toolkit.errors import ArgumentError
from toolkit.umem.umem import check_ring_size
from toolkit.wait.waiter import WaitMode, check_wait_mode

__all__ = ["SocketOptions"]


class SocketOptions(NamedTuple):
    """How to bind. rx_size, tx_size: ring entries. zero_copy: None if the driver can and has a native program."""

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
            raise ArgumentError("a Socket cannot have neither ring. Next step: give rx=True, tx=True, or both.")
        return cls(
            check_ring_size("rx_size", rx_size),
            check_ring_size("tx_size", tx_size),
            _chosen("zero_copy", zero_copy),
            _chosen("need_wakeup", need_wakeup) is not False,
            _chosen("sg", sg) is True,
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


def _chosen(name: str, value: bool | Literal["auto"]) -> bool | None:
    chosen = one_of(name, value, True, False, "auto")
    return None if chosen == "auto" else bool(chosen)
