# SPDX-License-Identifier: Apache-2.0
"""Detach an XDP program from an interface, whoever attached it: exactly the one that was found before, and no other."""

from __future__ import annotations

import ctypes as ct
import errno
import os

from toolkit.abi import libbpf as abi
from toolkit.errors import ArgumentError, kernel_error
from toolkit.program.query import Attached

__all__ = ["mode_flags", "take_off"]

_FLAGS = {"native": abi.XDP_FLAGS_DRV_MODE, "generic": abi.XDP_FLAGS_SKB_MODE, "offload": abi.XDP_FLAGS_HW_MODE}


def mode_flags(mode: str) -> int:
    """Return the flag that a netlink request needs for a program in this mode."""
    return _FLAGS.get(mode, 0)


def take_off(interface: str, present: Attached) -> None:
    """Detach it, in the calling thread's network namespace. OSError when another has replaced it meanwhile."""
    if present.link_ids:
        _detach_link(interface, present)
    else:
        _detach_netlink(interface, present)


def _detach_link(interface: str, present: Attached) -> None:
    links, tried = present.link_ids or (), f"cannot take {present} off {interface}"
    if len(links) > 1:
        raise ArgumentError(
            f"{tried}: the kernel does not say which of these links is this interface's, the others are on interfaces "
            "of the same number in other network namespaces. Next step: end the process that holds it (`xsk status`)."
        )
    fd = abi.libbpf().bpf_link_get_fd_by_id(links[0])
    if fd == -errno.ENOENT:
        return  # it has ended by itself
    if fd < 0:
        raise kernel_error("link_get_fd_by_id", fd, tried)
    try:
        result = abi.libbpf().bpf_link_detach(fd)
    finally:
        os.close(fd)
    if result < 0:
        raise kernel_error("link_detach", result, tried)


def _detach_netlink(interface: str, present: Attached) -> None:
    """Detach by netlink. The kernel refuses (EEXIST) if another program has replaced it meanwhile."""
    tried = f"cannot take {present} off {interface}"
    fd = abi.libbpf().bpf_prog_get_fd_by_id(present.program.id)
    if fd < 0:
        raise kernel_error("prog_get_fd_by_id", fd, tried)
    try:
        # libbpf adds XDP_FLAGS_REPLACE
        options = abi.XdpAttachOpts(sz=ct.sizeof(abi.XdpAttachOpts), old_prog_fd=fd)
        result = abi.libbpf().bpf_xdp_detach(present.ifindex, mode_flags(present.mode), ct.byref(options))
    finally:
        os.close(fd)
    if result < 0:
        raise kernel_error("xdp_detach", result, tried, cause="another program took its place meanwhile")
