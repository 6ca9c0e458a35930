# SPDX-License-Identifier: Apache-2.0
"""Registration: a UMEM's memory as registered with the kernel, from its first Socket to its last.

The kernel binds every socket of a registered UMEM as it bound the first one: with or without sg, need_wakeup and
zero-copy, whatever it is asked for. So the memory is registered once for each way of binding (its pages are pinned once
more, not copied), and a Socket joins the registration whose sockets are bound as it is to be: frames can then go from a
NIC in zero-copy mode to a veth in copy mode.

This also hides libxdp's lifetimes.

In libxdp the first socket's descriptor *is* the UMEM's. Deleting that socket leaves its queue bound until the UMEM is
deleted, and a UMEM whose last socket is gone cannot be used again. Here every Socket frees its queue when it closes:
when the first one (the anchor) closes before others, another socket's descriptor is duplicated over the UMEM's. The
kernel then drops the closed socket, and later sockets share the UMEM through the other one.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Protocol

from toolkit.abi.if_xdp import XDP_UMEM_TX_METADATA_LEN
from toolkit.abi.libxdp import XskRing, XskUmemConfig, XskUmemOpts, has_opts, libxdp
from toolkit.errors import NotSupportedError, kernel_error
from toolkit.net.device import Device
from toolkit.net.netdev import NETDEV_XDP_ACT_XSK_ZEROCOPY, abilities
from toolkit.program.query import runs_natively
from toolkit.umem.umem import UMEM
from toolkit.xsk.options import SocketOptions

__all__ = ["Member", "Registration", "ways"]


class Member(Protocol):
    """A socket on a UMEM, as far as Registration needs it."""

    @property
    def fd(self) -> int:
        """The socket's own open descriptor."""


class Registration:
    """One `struct xsk_umem` and the sockets on it. Not thread-safe: Core holds umem.registration_lock."""

    @classmethod
    def of(cls, umem: UMEM, options: SocketOptions) -> Registration:
        """Return the registration whose sockets are bound like that, or a new one. SystemCallError if it is refused."""
        for one in umem.registrations:
            found: Registration = one
            if found.fits(options):
                return found
        made = cls(umem, options)
        umem.registrations.append(made)
        return made

    def __init__(self, umem: UMEM, options: SocketOptions) -> None:
        """Register the UMEM's memory with the kernel. SystemCallError when it refuses."""
        self.umem = umem
        self.sg = options.sg
        self.need_wakeup = options.need_wakeup
        self.zero_copy: bool | None = None  # as the kernel bound the first socket; None before that; written by Core
        # The rings of the first socket; libxdp writes them here and keeps the addresses.
        self.fill = XskRing()
        self.comp = XskRing()
        self.opening = 0  # sockets that are being created: not deleted before they are done; written by Core
        self.first = True  # whether the rings above are still unused
        self.members: list[Member] = []
        self.anchor: Member | None = None  # the member whose kernel socket the UMEM's descriptor refers to
        self.pointer = self._create()
        self.fd: int = libxdp().xsk_umem__fd(self.pointer)
        os.set_inheritable(self.fd, False)  # libxdp does not ask for CLOEXEC

    def _create(self) -> ctypes.c_void_p:
        umem, library = self.umem, libxdp()
        tried = f"cannot register a UMEM of {umem.frames} frames of {umem.frame_size} bytes"
        config = XskUmemConfig(umem.fill_size, umem.comp_size, umem.frame_size, umem.headroom, 0)
        fill, comp = ctypes.byref(self.fill), ctypes.byref(self.comp)
        if has_opts(library):
            opts = XskUmemOpts(
                sz=ctypes.sizeof(XskUmemOpts),
                size=umem.size,
                fill_size=umem.fill_size,
                comp_size=umem.comp_size,
                frame_size=umem.frame_size,
                frame_headroom=umem.headroom,
                tx_metadata_len=umem.tx_metadata_len,
                # Linux 6.11 and later use the length only with the flag; older kernels refuse the flag.
                flags=XDP_UMEM_TX_METADATA_LEN if umem.tx_metadata_len else 0,
            )
            create = library.xsk_umem__create_opts
            pointer = ctypes.c_void_p(create(umem.address, fill, comp, ctypes.byref(opts)))
            number = 0 if pointer else ctypes.get_errno() or errno.EIO
            if number == errno.EINVAL and opts.flags:
                opts.flags = 0
                pointer = ctypes.c_void_p(create(umem.address, fill, comp, ctypes.byref(opts)))
                number = 0 if pointer else ctypes.get_errno() or errno.EIO
        elif umem.tx_metadata_len:
            raise NotSupportedError(
                errno.EOPNOTSUPP,
                f"{tried}: tx_metadata_len needs libxdp 1.5.0 or later. Next step: install that, or "
                "leave tx_metadata_len out.",
            )
        else:
            pointer = ctypes.c_void_p()
            number = library.xsk_umem__create(
                ctypes.byref(pointer), umem.address, umem.size, fill, comp, ctypes.byref(config)
            )
        if number:
            raise kernel_error("umem", number, tried)
        return pointer

    def fits(self, options: SocketOptions) -> bool:
        """Whether a socket that is to be bound like that can join. Not if the kernel is to choose zero-copy or not."""
        return (self.sg, self.need_wakeup, self.zero_copy) == (options.sg, options.need_wakeup, options.zero_copy) and (
            options.zero_copy is not None
        )

    def join(self, member: Member) -> None:
        """Record a socket that was created on this UMEM."""
        self.members.append(member)
        self.first = False
        if self.anchor is None:
            self.anchor = member

    def leave(self, member: Member) -> None:
        """Record a socket that libxdp has deleted; then the kernel can free its queue."""
        self.members.remove(member)
        if self.anchor is member:
            self.anchor = self.members[0] if self.members else None
            if self.anchor is not None:
                os.dup2(self.anchor.fd, self.fd, inheritable=False)

    def delete(self) -> None:
        """Delete the `struct xsk_umem`: every socket has left."""
        libxdp().xsk_umem__delete(self.pointer)
        self.pointer = ctypes.c_void_p()
        self.umem.registrations.remove(self)


def ways(umem: UMEM, wanted: SocketOptions, device: Device) -> list[SocketOptions]:
    """Return how to try to bind, the best first. A further one is tried when the kernel refuses the one before.

    In the network namespace of the device. NotSupportedError where zero-copy is demanded and would split packets.
    """
    ifindex, splits = device.ifindex, wanted.rx and device.splits(umem.packet_capacity)
    if wanted.zero_copy and splits:
        raise kernel_error(
            "bind",
            errno.EOPNOTSUPP,
            f"cannot bind zero-copy to {device.name}",
            cause=f"of each frame its NIC would use {umem.packet_capacity // 1024 * 1024} bytes, and split longer "
            f"packets, which an MTU of {device.mtu} allows",
            remedy="frames of 4096 bytes, an MTU that they have room for, or copy mode: `zero_copy=False`",
        )
    if wanted.zero_copy is not None:
        return [wanted]
    zero_copy, copy = (wanted._replace(zero_copy=choice) for choice in (True, False))
    if splits or not runs_natively(ifindex):
        return [copy]  # without a program a driver that has zero-copy would bind, and then refuse to send
    there = [one for one in umem.registrations if one.fits(zero_copy) or one.fits(copy)]
    if any(one.zero_copy for one in there):
        return [zero_copy, copy]
    # Only the kernel knows for sure. To ask it with bind() costs a registration of its own.
    return [copy] if there and not _may_do_zero_copy(ifindex) else [wanted]


def _may_do_zero_copy(ifindex: int) -> bool:
    """Whether the kernel says that the driver has zero-copy (Linux 6.3)."""
    able = abilities(ifindex)
    return able is not None and bool(able.features & NETDEV_XDP_ACT_XSK_ZEROCOPY)
