# SPDX-License-Identifier: Apache-2.0
"""Link: a program attached by a bpf_link: it ends with its descriptor, so with the process.

Others cannot replace it.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import os
import platform
import time
import weakref
from typing import Any, Literal, get_args

from toolkit._base.arguments import one_of
from toolkit._base.descriptor import Descriptor
from toolkit._base.netns import Home, NetNS, entered
from toolkit.abi import libbpf as abi
from toolkit.abi.libc import syscall
from toolkit.errors import ClosedError, SystemCallError, kernel_error
from toolkit.net.device import await_carrier, check_ethernet, describe, index_of
from toolkit.program import loss, query
from toolkit.program.loss import Location, Loss
from toolkit.program.replaced import Replace, Replaced, check_replace, put_back_after, take_place

__all__ = ["MODES", "Link", "Mode", "Replace", "attach", "wait_for_readers"]

Mode = Literal["auto", "native", "generic"]
MODES = get_args(Mode)

_FLAGS: dict[str, int] = {"native": abi.XDP_FLAGS_DRV_MODE, "generic": abi.XDP_FLAGS_SKB_MODE}

# Errors for which generic mode is not tried: it would fail as well, or hide what the user has to know.
_NO_FALLBACK = frozenset({errno.EBUSY, errno.EEXIST, errno.EPERM, errno.EACCES, errno.ENODEV, errno.EBADF})

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1  # linux/membarrier.h
_IN_FLIGHT = 0.1  # seconds to wait without membarrier(2): every driver's poll loop has ended by then


class Link:
    """An XDP program on an interface, while this object is open, and no other program or user detaches it: see loss().

    mode: "native" or "generic". fallback_reason: why it is generic although native was tried first, else None.
    """

    _replaced: Replaced | None = None

    def __init__(
        self,
        fd: int,
        interface: str,
        location: Location,
        mode: str,
        fallback_reason: str | None,
        program: str,
        replaced: Replaced | None = None,
    ) -> None:
        """Take over `fd`, a bpf_link that runs the program named `program` at `location`.

        replaced: the program to restore at its end.
        """
        self.interface = interface
        self.location = location
        self.mode = mode
        self.fallback_reason = fallback_reason
        self._program = program
        self._descriptor = Descriptor(fd, f"the link of {interface}")
        self._ending = False
        if replaced is not None:
            self._replaced = replaced
            weakref.finalize(self, _end, self._descriptor, replaced)
        info = query.link_info(fd)
        self.id = info.id if info else 0
        """The kernel's number of the link."""
        self.program_id = info.program_id if info else 0
        """The kernel's id of the program that should run here; to be written by code that updates the link."""
        self._asked = 0.0  # CLOCK_MONOTONIC, seconds: time of the last question to the kernel
        self._severed: query.XdpLink | None = None  # the kernel's answer when the link was lost; never reset
        self._loss: Loss | None = None  # the same, explained

    @property
    def ifindex(self) -> int:
        """The number of the interface."""
        return self.location.ifindex

    @property
    def fd(self) -> int:
        """The file descriptor. Raises ClosedError after close."""
        return self._descriptor.fd

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._descriptor.closed

    @property
    def attached(self) -> bool:
        """Whether the program is attached. Asks the kernel."""
        return not self.closed and self.loss() is None

    def loss(self, within: float = 0.0) -> Loss | None:
        """Return why the program is not attached any more, if not by close(); None while it is.

        Asks the kernel (3 us), unless that was done in the last `within` seconds: there is no event for it. A loss is
        final. When it is first reported, every packet that the program redirected has arrived.
        """
        if self._severed is None and (now := time.monotonic()) >= self._asked + within:
            self._asked = now
            self._ask()
        if self._severed is None:
            return None
        if self._loss is None:
            self._loss = self._explained(self._severed)
            wait_for_readers()
        return self._loss

    def _ask(self) -> None:
        """Ask the kernel whether the link is intact; not after close() has begun."""
        with contextlib.suppress(ClosedError, OSError):
            info = query.link_info(self._descriptor.fd)
            if info is not None and (info.ifindex == 0 or info.program_id != self.program_id) and not self._ending:
                self._severed = info

    def _explained(self, found: query.XdpLink) -> Loss:
        if found.ifindex == 0:
            return loss.detached(self.location, self._program, f"its link {self.id} was detached")
        return loss.replaced(self._program, found.program_id)

    def close(self, *, wait: bool = False) -> None:
        """Detach the program, and restore the one that it replaced, or that others could not restore meanwhile.

        Repeatable, even if the interface is gone. The result of restoring is logged. wait: return some 15 ms later,
        when no CPU runs the program any more, and all that it redirected has arrived.
        """
        if not self._ending:
            self._ask()  # for the last time, so that an earlier loss is known afterwards
        self._ending = True  # first, so that another thread that finds the link detached knows why
        before = self.closed
        _end(self._descriptor, self._replaced)
        if not before and self._replaced is None:
            put_back_after(self.location)
        if wait:
            wait_for_readers()

    @property
    def replaced(self) -> dict[str, Any] | None:
        """The program that this one replaced: its id, name, mode, and whether it is restored at the end."""
        if self._replaced is None:
            return None
        taken = self._replaced.taken
        return {
            "id": taken.program.id,
            "name": taken.program.name,
            "mode": taken.mode,
            "comes_back": self._replaced.comes_back,
        }

    def __enter__(self) -> Link:
        """Detach at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Detach the program."""
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.state}, link {self.id}"
        return f"<Link {self.interface}: {state}>"

    @property
    def state(self) -> str:
        """The state: "native" or "generic" while attached, else "detached", "replaced" or "deleted"."""
        found = self.loss()
        return self.mode if found is None else found.kind


def wait_for_readers() -> None:
    """Wait for an RCU grace period, some 15 ms: every driver's poll loop that was running has ended then.

    membarrier(MEMBARRIER_CMD_GLOBAL) does that, and programs run inside of an RCU read section.
    """
    number = _SYS_MEMBARRIER.get(platform.machine())
    if number is not None:
        with contextlib.suppress(OSError):
            syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0)
            return
    time.sleep(_IN_FLIGHT)


def _end(descriptor: Descriptor, replaced: Replaced | None) -> None:
    with contextlib.suppress(ClosedError):
        if replaced is not None:
            with contextlib.suppress(OSError):
                replaced.follow(query.link_info(descriptor.fd))
        # Closing is not enough: a forked child that has not run yet has a descriptor of the link too.
        abi.libbpf().bpf_link_detach(descriptor.fd)
    descriptor.close()
    if replaced is not None:
        replaced.put_back()


def _create(program_fd: int, ifindex: int, mode: str) -> int:
    options = abi.LinkCreateOpts(sz=ct.sizeof(abi.LinkCreateOpts), flags=_FLAGS[mode])
    fd: int = abi.libbpf().bpf_link_create(program_fd, ifindex, abi.BPF_XDP, ct.byref(options))
    return fd


def _first_that_works(program_fd: int, ifindex: int, mode: str) -> tuple[int, str, str | None]:
    """Attach in the first mode that works; return (fd or -errno, mode, fallback_reason)."""
    if mode != "auto":
        return _create(program_fd, ifindex, mode), mode, None
    fd = _create(program_fd, ifindex, "native")
    if fd >= 0 or -fd in _NO_FALLBACK:
        return fd, "native", None
    refused = f"native mode: {os.strerror(-fd)} ({errno.errorcode.get(-fd, -fd)})"
    generic = _create(program_fd, ifindex, "generic")
    # Both failed: the driver's error is more specific than that of generic mode.
    return (generic, "generic", refused) if generic >= 0 else (fd, "native", None)


def _refusal(number: int, name: str, interface: str, ifindex: int, mode: str) -> SystemCallError:
    tried = f"cannot attach the XDP program {name} to {interface} ({mode})"
    if abs(number) not in (errno.EBUSY, errno.EEXIST):
        return kernel_error("attach", number, tried, interface=interface)
    present = None
    with contextlib.suppress(OSError):
        present = query.attached(ifindex)
    if present is None:
        return kernel_error("attach", number, tried, interface=interface)
    cause = f"another one is attached there: {present}"
    if query.held_here(present.link_ids or ()):
        # In a notebook, a cell that was run before.
        remedy = "close() the Interface, Tee or Link that this process opened before"
        return kernel_error("attach", number, tried, cause=f"{cause}, which this process holds", remedy=remedy)
    if present.link_ids:
        remedy = 'end its process (`xsk status` names it), or take its place for good: `replace="link"`'
        return kernel_error("attach", number, tried, cause=cause, remedy=remedy)
    remedy = "detach it (`xsk status` names it), or take its place until the end: `replace=True`"
    return kernel_error("attach", number, tried, cause=cause, remedy=remedy)


def attach(
    program_fd: int, name: str, interface: str, mode: Mode, replace: Replace, netns: NetNS, *, filters: bool = False
) -> Link:
    """Attach a program to an interface: see Program.attach(). filters: whether it has rules, which need Ethernet."""
    one_of("mode", mode, *MODES)
    check_replace(replace)
    with entered(netns):
        try:
            ifindex = index_of(interface)
        except OSError as refused:
            number = refused.errno if refused.errno in (errno.EMFILE, errno.ENFILE) else errno.ENODEV
            raise kernel_error("attach", number, f"cannot attach the XDP program {name} to {interface!r}") from None
        location = Location(Home(netns), ifindex)  # first, so that a failure leaves nothing attached
        device = describe(interface)
        if filters:
            check_ethernet(device)
        replaced = take_place(interface, ifindex, replace)
        try:
            fd, actual, reason = _first_that_works(program_fd, ifindex, mode)
            if fd < 0:
                raise _refusal(fd, name, interface, ifindex, mode)
        except BaseException:
            if replaced is not None:
                replaced.put_back()
            raise
        link = Link(fd, interface, location, actual, reason, name, replaced)
        if actual == "native":
            with contextlib.suppress(SystemCallError):  # it is gone, which whoever receives gets reported
                await_carrier(device)
    return link
