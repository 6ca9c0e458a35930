# SPDX-License-Identifier: Apache-2.0
"""Registration: the libxdp side of a UMEM, from its first Socket to its last. Hides libxdp's lifetimes.

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
from toolkit.errors import NotSupportedError, SystemCallError, kernel_error
from toolkit.umem.umem import UMEM
from toolkit.xsk.options import Shared

__all__ = ["Member", "Registration"]


class Member(Protocol):
    """A socket on a UMEM, as far as Registration needs it."""

    @property
    def fd(self) -> int:
        """The socket's own open descriptor."""


class Registration:
    """One `struct xsk_umem` and the sockets on it. Not thread-safe: Core holds umem.registration_lock."""

    def __init__(self, umem: UMEM) -> None:
        """Register the UMEM's memory with the kernel. SystemCallError when it refuses."""
        self.umem = umem
        # The rings of the first socket; libxdp writes them here and keeps the addresses.
        self.fill = XskRing()
        self.comp = XskRing()
        self.opening = 0  # sockets that are being created: not deleted before they are done; written by Core
        self.first = True  # whether the rings above are still unused
        self.shared: Shared | None = None  # what its sockets have in common; None before the first; written by Core
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
            raise NotSupportedError(errno.EOPNOTSUPP, f"{tried}: tx_metadata_len needs libxdp 1.5.0 or later.")
        else:
            pointer = ctypes.c_void_p()
            number = library.xsk_umem__create(
                ctypes.byref(pointer), umem.address, umem.size, fill, comp, ctypes.byref(config)
            )
        if number:
            raise kernel_error("umem", number, tried)
        return pointer

    def not_bound(self, number: int, where: str) -> SystemCallError:
        """Build the error for a socket whose bind failed with errno `number`."""
        forced = number == errno.EOPNOTSUPP and self.shared is not None and self.shared.zero_copy
        remedy = ""
        if forced:
            remedy = "make the first one with `zero_copy=False`, or use a UMEM of its own"
        elif number == errno.EBUSY:
            remedy = "`xsk status` names the sockets in use; close that one, or take another queue"
        return kernel_error(
            "bind",
            number,
            f"cannot bind to {where}",
            cause="the other sockets of this UMEM are zero-copy, so this one must be, and its driver cannot"
            if forced
            else "",
            remedy=remedy,
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
