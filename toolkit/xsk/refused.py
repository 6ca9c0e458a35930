# SPDX-License-Identifier: Apache-2.0
"""Why zero-copy was refused, where the kernel's errno does not say that it is the MTU."""

from __future__ import annotations

import errno

from toolkit.errors import SystemCallError, kernel_error
from toolkit.net import netdev
from toolkit.net.device import Device
from toolkit.umem.umem import LARGEST_FRAME, zero_copy_mtu

__all__ = ["with_mtu"]


def with_mtu(
    refused: SystemCallError, device: Device, tried: str, *, frame_size: int, headroom: int, sg: bool
) -> SystemCallError:
    """Return the error for zero-copy that was demanded and refused: with the MTU as its cause, if that can be it.

    The kernel and the drivers say EINVAL or EOPNOTSUPP, as for much else. sg: whether packets may come in several
    frames. In the device's network namespace.
    """
    if refused.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
        return refused
    able = netdev.abilities(device.ifindex)
    if able is not None and not able.features & netdev.NETDEV_XDP_ACT_XSK_ZEROCOPY:
        return refused
    buffers = able.zc_max_segs if able is not None and sg else 1
    if device.mtu <= zero_copy_mtu(frame_size, headroom, buffers=buffers):
        return refused
    most = zero_copy_mtu(LARGEST_FRAME, headroom, buffers=buffers)
    larger = f"frames of {LARGEST_FRAME} bytes; or " if device.mtu <= most and frame_size < LARGEST_FRAME else ""
    return kernel_error(
        "bind",
        refused.errno,
        tried,
        cause=f"{device.name} has an MTU of {device.mtu}, and packets of that length do not fit a frame of "
        f"{frame_size} bytes, as they must in zero-copy mode",
        remedy=f"{larger}copy mode: `zero_copy=False`; or a smaller MTU: `ip link set dev {device.name} mtu {most}`",
    )
