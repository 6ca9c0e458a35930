# SPDX-License-Identifier: Apache-2.0
"""Attachment by bpf_link: it dies with its file descriptor, so with the process, and nothing replaces it unasked."""

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
from toolkit.net.device import check_ethernet, describe, index_of
from toolkit.program import loss, query
from toolkit.program.loss import Location, Loss
from toolkit.program.replaced import Replace, Replaced, check_replace, put_back_after, take_place

__all__ = ["MODES", "Link", "Mode", "Replace", "attach", "wait_for_readers"]

Mode = Literal["auto", "native", "generic"]
MODES = get_args(Mode)

_FLAGS: dict[str, int] = {"native": abi.XDP_FLAGS_DRV_MODE, "generic": abi.XDP_FLAGS_SKB_MODE}

# Where generic mode would be refused for the same reason, or would hide what the user has to know.
_NO_FALLBACK = frozenset({errno.EBUSY, errno.EEXIST, errno.EPERM, errno.EACCES, errno.ENODEV, errno.EBADF})

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1  # linux/membarrier.h
_IN_FLIGHT = 0.1  # seconds: where the kernel cannot be asked, a driver's poll loop has ended by then


class Link:
    """An XDP program on an interface, for as long as this object is open, and nobody else takes it off: see lost().

    `mode` is what came about, "native" or "generic"; `fallback_reason` says why it is generic although native was
    tried first, and is None otherwise.
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
        """Take over `fd`, a bpf_link, which runs the program called `program` at `location`.

        `replaced` is what is to be put back at its end.
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
        """The kernel's number of the program that is to run here. Whoever updates the link on purpose writes it."""
        self._asked = 0.0  # CLOCK_MONOTONIC, seconds: when the kernel was asked last
        self._severed: query.XdpLink | None = None  # what it said when it was not as it should be; never reset
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
        """Whether close() took the program off."""
        return self._descriptor.closed

    @property
    def attached(self) -> bool:
        """Whether the program runs on the interface: neither close() nor anybody else took it off. Asks the kernel."""
        return not self.closed and self.lost() is None

    def lost(self, within: float = 0.0) -> Loss | None:
        """Return why the program does not run here any more, if somebody else ended that; None while all is well.

        Asks the kernel (3 us) unless it was asked in the last `within` seconds. Nothing else tells: no event comes. A
        loss stays one. When it is first reported, every packet that the program redirected has arrived.
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
        """Ask the kernel whether the link is as it should be. Not once close() has begun: it is not, then."""
        with contextlib.suppress(ClosedError, OSError):
            info = query.link_info(self._descriptor.fd)
            if info is not None and (info.ifindex == 0 or info.program_id != self.program_id) and not self._ending:
                self._severed = info

    def _explained(self, found: query.XdpLink) -> Loss:
        if found.ifindex == 0:
            return loss.detached(self.location, self._program, f"its link {self.id} was detached")
        return loss.replaced(self._program, found.program_id)

    def close(self, *, wait: bool = False) -> None:
        """Take the program off, and put back what it took the place of, or what others could not put back meanwhile.

        Again is fine, and so is an interface that vanished meanwhile. What came of putting back is logged. With `wait`
        no CPU runs the program any more when this returns, some 15 ms later: all that it redirected has arrived.
        """
        if not self._ending:
            self._ask()  # for the last time: what somebody else ended before is known afterwards
        self._ending = True  # first: another thread that finds the link without an interface then knows why
        before = self.closed
        _end(self._descriptor, self._replaced)
        if not before and self._replaced is None:
            put_back_after(self.location)
        if wait:
            wait_for_readers()

    @property
    def replaced(self) -> dict[str, Any] | None:
        """The program that this one took the place of: its id, name, mode, and whether it comes back at the end."""
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
        """Attached for the length of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the program off."""
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.state}, link {self.id}"
        return f"<Link {self.interface}: {state}>"

    @property
    def state(self) -> str:
        """How the program runs, or what somebody did to it: "native", "generic", "detached", "replaced", "deleted"."""
        found = self.lost()
        return self.mode if found is None else found.kind


def wait_for_readers() -> None:
    """Return after an RCU grace period, in some 15 ms: every driver's poll loop that was under way has ended.

    membarrier(MEMBARRIER_CMD_GLOBAL) waits for one, and a program runs inside of an RCU read section.
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
        # Not by closing alone: a forked child that has not run yet holds a descriptor of the link too.
        abi.libbpf().bpf_link_detach(descriptor.fd)
    descriptor.close()
    if replaced is not None:
        replaced.put_back()


def _create(program_fd: int, ifindex: int, mode: str) -> int:
    options = abi.LinkCreateOpts(sz=ct.sizeof(abi.LinkCreateOpts), flags=_FLAGS[mode])
    fd: int = abi.libbpf().bpf_link_create(program_fd, ifindex, abi.BPF_XDP, ct.byref(options))
    return fd


def _first_that_works(program_fd: int, ifindex: int, mode: str) -> tuple[int, str, str | None]:
    """(fd or -errno, mode, fallback_reason)."""
    if mode != "auto":
        return _create(program_fd, ifindex, mode), mode, None
    fd = _create(program_fd, ifindex, "native")
    if fd >= 0 or -fd in _NO_FALLBACK:
        return fd, "native", None
    refused = f"native mode: {os.strerror(-fd)} ({errno.errorcode.get(-fd, -fd)})"
    generic = _create(program_fd, ifindex, "generic")
    # Both refused: the driver's own refusal tells more than that of the fall-back.
    return (generic, "generic", refused) if generic >= 0 else (fd, "native", None)


def _refusal(number: int, name: str, interface: str, ifindex: int, mode: str) -> SystemCallError:
    tried = f"cannot attach the XDP program {name} to {interface} ({mode})"
    if abs(number) not in (errno.EBUSY, errno.EEXIST):
        return kernel_error("attach", number, tried)
    present = None
    with contextlib.suppress(OSError):
        present = query.attached(ifindex)
    if present is None:
        return kernel_error("attach", number, tried)
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
    """Attach a program to an interface; see Program.attach. filters: it has rules, which begin with Ethernet."""
    one_of("mode", mode, *MODES)
    check_replace(replace)
    with entered(netns):
        try:
            ifindex = index_of(interface)
        except OSError as refused:
            number = refused.errno if refused.errno in (errno.EMFILE, errno.ENFILE) else errno.ENODEV
            raise kernel_error("attach", number, f"cannot attach the XDP program {name} to {interface!r}") from None
        location = Location(Home(netns), ifindex)  # first: what fails leaves nothing attached
        if filters:
            check_ethernet(describe(interface))
        replaced = take_place(interface, ifindex, replace)
        try:
            fd, actual, reason = _first_that_works(program_fd, ifindex, mode)
            if fd < 0:
                raise _refusal(fd, name, interface, ifindex, mode)
        except BaseException:
            if replaced is not None:
                replaced.put_back()
            raise
    return Link(fd, interface, location, actual, reason, name, replaced)
