# SPDX-License-Identifier: Apache-2.0
"""Ask the kernel which XDP program is attached to an interface, and by which links, whoever attached it."""

from __future__ import annotations

import ctypes as ct
import dataclasses
import errno
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from toolkit._base.netns import NetNS, entered
from toolkit._base.proc import descriptors, fdinfo, number_in, pids
from toolkit.abi import libbpf as abi
from toolkit.errors import kernel_error

__all__ = [
    "Attached",
    "ProgramInfo",
    "XdpLink",
    "attached",
    "attached_ids",
    "held_here",
    "link_info",
    "program_by_id",
    "program_info",
    "runs_natively",
    "xdp_links",
]

_MODES = {1: "native", 2: "generic", 3: "offload", 4: "several"}


@dataclasses.dataclass(frozen=True)
class ProgramInfo:
    """A loaded program. `load_time` is ns since boot, `map_count` the number of maps it uses."""

    id: int
    name: str
    load_time: int
    map_count: int


@dataclasses.dataclass(frozen=True)
class XdpLink:
    """A bpf_link of type XDP. ifindex: in its own network namespace; 0 once the device is gone."""

    id: int
    program_id: int
    ifindex: int


@dataclasses.dataclass(frozen=True)
class Attached:
    """The program that is attached to an interface.

    mode: "native", "generic", "offload" or "several". link_ids: the links that may hold it; empty if it was attached by
    netlink (then it outlives its process); None without permission to ask (CAP_SYS_ADMIN). Several mean that the same
    program is also attached to interfaces of the same index in other network namespaces.
    """

    ifindex: int
    program: ProgramInfo
    mode: str
    link_ids: tuple[int, ...] | None

    def __str__(self) -> str:
        if self.link_ids is None:
            held = "a link or netlink: only root can tell"
        elif self.link_ids:
            held = "link " + " or ".join(str(i) for i in self.link_ids)
        else:
            held = "netlink"
        return f"program {self.program.id} ({self.program.name or 'no name'}), {self.mode}, held by {held}"


def _info(fd: int, info: Any) -> None:
    size = ct.c_uint32(ct.sizeof(info))
    result = abi.libbpf().bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size))
    if result < 0:
        raise kernel_error("obj_get_info", result, f"cannot ask about file descriptor {fd}")


def program_info(fd: int) -> ProgramInfo:
    """Describe the program behind a file descriptor."""
    info = abi.ProgInfo()
    _info(fd, info)
    return ProgramInfo(info.id, info.name.decode(errors="replace"), info.load_time, info.nr_map_ids)


def link_info(fd: int) -> XdpLink | None:
    """Describe the link behind a file descriptor; None if it is not one of XDP."""
    info = abi.LinkInfo()
    _info(fd, info)
    return XdpLink(info.id, info.prog_id, info.ifindex) if info.type == abi.BPF_LINK_TYPE_XDP else None


def _link_ids() -> Iterator[int]:
    last = ct.c_uint32(0)
    while True:
        result = abi.libbpf().bpf_link_get_next_id(last.value, ct.byref(last))
        if result == -errno.ENOENT:
            return
        if result < 0:
            raise kernel_error("link_get_next_id", result, "cannot list the BPF links")
        yield last.value


def xdp_links(known: Mapping[int, XdpLink | None] | None = None) -> list[XdpLink]:
    """Return every XDP link of the machine, in all network namespaces. PrivilegeError without CAP_SYS_ADMIN.

    known: links that are known already, by id (None: of another type); only the others are opened.
    """
    known = known or {}
    found = [known[number] if number in known else _link_by_id(number) for number in _link_ids()]
    return [link for link in found if link is not None]


def _link_by_id(number: int) -> XdpLink | None:
    """Read a link and close it at once, because an open descriptor would make it outlive its owner."""
    fd = abi.libbpf().bpf_link_get_fd_by_id(number)
    if fd < 0:
        return None  # it has ended since it was listed
    try:
        return link_info(fd)
    finally:
        os.close(fd)


def attached(ifindex: int, netns: NetNS = None, *, links: Collection[XdpLink] | None = None) -> Attached | None:
    """Return the XDP program on an interface, ours or another; None if there is none. links: xdp_links(), if known."""
    with entered(netns):
        options = _asked(ifindex)
    if not options.attach_mode:
        return None
    number = options.prog_id or options.drv_prog_id or options.skb_prog_id or options.hw_prog_id
    return Attached(
        ifindex, program_by_id(number), _MODES.get(options.attach_mode, "unknown"), _holders(ifindex, number, links)
    )


def attached_ids(ifindex: int) -> set[int]:
    """Return the ids of the XDP programs on an interface of this thread's namespace, in any mode (one netlink call)."""
    options = _asked(ifindex)
    return {options.prog_id, options.drv_prog_id, options.skb_prog_id, options.hw_prog_id} - {0}


def runs_natively(ifindex: int) -> bool:
    """Whether the driver of an interface of this thread's namespace runs an XDP program (one netlink call)."""
    options = _asked(ifindex)
    return bool(options.drv_prog_id or options.hw_prog_id)


def _asked(ifindex: int) -> abi.XdpQueryOpts:
    options = abi.XdpQueryOpts(sz=ct.sizeof(abi.XdpQueryOpts))
    result = abi.libbpf().bpf_xdp_query(ifindex, 0, ct.byref(options))
    if result < 0:
        raise kernel_error("xdp_query", result, f"cannot ask which XDP program runs on interface {ifindex}")
    return options


def program_by_id(number: int) -> ProgramInfo:
    """Describe the program of that id; only with its id if the kernel does not permit more."""
    fd = abi.libbpf().bpf_prog_get_fd_by_id(number)
    if fd < 0:  # without privilege, or unloaded meanwhile
        return ProgramInfo(number, "", 0, 0)
    try:
        return program_info(fd)
    finally:
        os.close(fd)


def link_in(info: Mapping[str, str]) -> dict[int, XdpLink | None]:
    """What fdinfo() says of a BPF link, by its number; None for one of another type, nothing where it does not say."""
    if "link_type" not in info:
        return {}
    number = number_in(info, "link_id")
    link = XdpLink(number, number_in(info, "prog_id"), number_in(info, "ifindex"))
    return {number: link if info["link_type"] == "xdp" else None}


def links_seen() -> dict[int, XdpLink | None]:
    """The BPF links that processes hold, as far as /proc shows them: known without a descriptor, see xdp_links()."""
    found: dict[int, XdpLink | None] = {}
    for pid in pids():
        for fd, target in descriptors(pid):
            if target == "anon_inode:bpf_link":
                found |= link_in(fdinfo(pid, fd))
    return found


def _holders(ifindex: int, program: int, links: Collection[XdpLink] | None) -> tuple[int, ...] | None:
    try:
        links = xdp_links(links_seen()) if links is None else links
        return tuple(link.id for link in links if (link.ifindex, link.program_id) == (ifindex, program))
    except OSError:
        return None


def held_here(links: Collection[int]) -> bool:
    """Whether a descriptor of this process is one of these links."""
    pid = os.getpid()
    return any(
        number_in(fdinfo(pid, fd), "link_id") in links
        for fd, target in descriptors(pid)
        if target == "anon_inode:bpf_link"
    )
