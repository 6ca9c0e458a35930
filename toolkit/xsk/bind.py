# SPDX-License-Identifier: Apache-2.0
"""bind(): create an AF_XDP socket on a queue, with the retry on EBUSY.

The kernel frees the queue of a closed socket asynchronously; until then a bind fails with EBUSY. It takes about 26 ms,
and longer while others change interfaces (containers that come and go), or while the driver restarts the device because
a program was taken off (igb: up to 3 s): the kernel does it under the rtnl lock.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable, Sequence

from toolkit._base.uninterrupted import interrupted
from toolkit.abi.libxdp import XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD, XskRing, XskSocketConfig, libxdp
from toolkit.errors import SystemCallError, kernel_error
from toolkit.xsk.options import SocketOptions

__all__ = ["EBUSY_TIMEOUT", "bind", "not_bound"]

EBUSY_TIMEOUT = 5.0  # seconds to retry for


def bind(
    handle: ctypes.c_void_p,
    interface: str,
    queue: int,
    umem: ctypes.c_void_p,
    rings: Sequence[XskRing],
    options: SocketOptions,
    *,
    on_busy: Callable[[], None],
) -> int:
    """Call xsk_socket__create_shared() until it does not fail with EBUSY, for 5 s or until a signal; return errno or 0.

    handle: receives the struct xsk_socket. umem: the struct xsk_umem. rings: rx, tx, fill and completion, to be filled
    in. on_busy: called before each retry.
    """
    rx, tx, fill, comp = (ctypes.byref(ring) for ring in rings)
    config = XskSocketConfig(
        options.rx_size, options.tx_size, XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD, 0, options.bind_flags
    )
    deadline = time.monotonic() + EBUSY_TIMEOUT
    while True:
        number: int = abs(
            libxdp().xsk_socket__create_shared(
                ctypes.byref(handle),
                interface.encode(),
                queue,
                umem,
                rx if options.rx else None,
                tx if options.tx else None,
                fill,
                comp,
                ctypes.byref(config),
            )
        )
        if number == errno.ENOENT and _out_of_descriptors():  # libxdp returns ENOENT then
            return errno.EMFILE
        if number != errno.EBUSY or time.monotonic() > deadline or interrupted():
            return number
        on_busy()
        time.sleep(0.005)


def not_bound(number: int, where: str, interface: str) -> SystemCallError:
    """Build the error for a bind that failed with errno `number`."""
    remedy = "`xsk status` names the sockets in use; close that one, or take another queue"
    return kernel_error(
        "bind",
        number,
        f"cannot bind to {where}",
        remedy=remedy if number == errno.EBUSY else "",
        interface=interface,
    )


def _out_of_descriptors() -> bool:
    try:
        os.close(os.eventfd(0, os.EFD_CLOEXEC))
    except OSError as refused:
        return refused.errno in (errno.EMFILE, errno.ENFILE)
    return False
