# SPDX-License-Identifier: Apache-2.0
"""The ways in which somebody else ends an attachment, each as a function, and the error that must come of it."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from pyroute2 import IPRoute

from toolkit.abi.libbpf import libbpf
from toolkit.errors import DetachedError, DeviceGoneError
from toolkit.lab import Lab, Namespace
from toolkit.program import Link, Program

__all__ = ["WAYS", "Way", "detach", "move_away", "pass_program", "replace", "update"]


def _fd(link_id: int) -> int:
    fd: int = libbpf().bpf_link_get_fd_by_id(link_id)
    assert fd >= 0
    return fd


def detach(lab: Lab, link_id: int) -> None:
    """Take the program off by bpf_link_detach, as `xsk detach --force` and bpftool do."""
    fd = _fd(link_id)
    assert libbpf().bpf_link_detach(fd) == 0
    os.close(fd)


def pass_program() -> Program:
    """A program that is not ours to watch: it passes everything."""
    return Program.build("xdp_pass.c")


def update(link_id: int, program: Program) -> None:
    """Put another program into somebody's link."""
    library = libbpf()
    library.bpf_link_update.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    fd = _fd(link_id)
    assert library.bpf_link_update(fd, program.fd, None) == 0
    os.close(fd)


def replace(lab: Lab, program: Program) -> Link:
    """Attach another program in the place of what is there."""
    return program.attach(lab.interface, replace="link", netns=lab.netns)


def move_away(lab: Lab, to: Namespace) -> None:
    with lab.netns.entered():
        index = socket.if_nametoindex(lab.interface)
        with IPRoute() as netlink:
            netlink.link("set", index=index, net_ns_fd=to.fileno())


class Way(NamedTuple):
    """How it ends, and how the error looks."""

    name: str
    end: Callable[[Lab, int, Program, Namespace], object]  # of the lab, the link's number, another program, elsewhere
    kind: type[DeviceGoneError]
    text: str  # a regular expression

    def __repr__(self) -> str:
        return self.name


WAYS = (
    Way("detached", lambda lab, link, *_: detach(lab, link), DetachedError, r"veth0.*took.*xsk.*off.*nothing is att"),
    Way("updated", lambda lab, link, other, _: update(link, other), DetachedError, r"veth0.*program \d+ \(xdp_pass\)"),
    Way(
        "replaced",
        lambda lab, link, other, _: replace(lab, other),
        DetachedError,
        r"veth0.*took.*off.*attached there now: program \d+ \(xdp_pass\)",
    ),
    Way("deleted", lambda lab, *_: lab.delete_interface(), DeviceGoneError, r"veth0.*interface was deleted"),
    Way(
        "moved",
        lambda lab, link, other, elsewhere: move_away(lab, elsewhere),
        DeviceGoneError,
        r"veth0.*moved into another network namespace\.",
    ),
)
