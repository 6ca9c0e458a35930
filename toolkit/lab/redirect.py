# SPDX-License-Identifier: Apache-2.0
"""The generator's XDP program, its counter and its place in the kernel: three descriptors and a namespace."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from toolkit._base import fork
from toolkit.abi.libbpf import (
    BPF_MAP_TYPE_ARRAY,
    BPF_PROG_TYPE_XDP,
    BPF_XDP,
    XDP_FLAGS_SKB_MODE,
    LinkCreateOpts,
    ProgLoadOpts,
    libbpf,
)
from toolkit.errors import ClosedError, kernel_error
from toolkit.lab.assembler import Assembler, R
from toolkit.lab.namespace import Namespace

__all__ = ["LiveRedirect", "Stamp"]

XDP_MD_DATA, XDP_MD_DATA_END = 0, 4  # offsets in struct xdp_md
BPF_FUNC_REDIRECT = 23


class Stamp:
    """Where a frame carries its number, and its flow as the source port, so that a receiver can check both.

    At `payload`: the number (u64), its complement (u64), the complement of the source port (u16), all in network order.
    With the complements the sum over number and port is always the same, so the frame's UDP checksum stays right.
    """

    SIZE = 18  # bytes of payload

    def __init__(self, transport: int, flows: int, first_port: int) -> None:
        self.transport = transport  # offset of the UDP header; even, as the payload's, so that 16-bit words line up
        self.payload = transport + 8
        self.flows = flows  # 1 or more: frame number n belongs to flow n % flows
        self.first_port = first_port  # source port of flow 0; the others follow

    def template(self) -> bytes:
        """The payload of frame 0."""
        return struct.pack("!QQH", 0, 2**64 - 1, ~self.first_port & 0xFFFF)

    def assemble(self, program: Assembler) -> None:
        """Write the number in r4 and its flow's port into the frame at r6, bounded by r7. Leaves only r6 and r7."""
        program.alu("mov", R(2), R(6))
        program.alu("add", R(2), self.payload + self.SIZE)
        program.jump_if_greater(R(2), R(7), "send")
        program.alu("mov", R(5), R(4))
        program.network_order(64, R(5))
        program.store(8, R(6), self.payload, R(5))
        program.alu("xor", R(5), -1)
        program.store(8, R(6), self.payload + 8, R(5))
        program.alu("mod", R(4), self.flows)
        program.alu("add", R(4), self.first_port)
        program.network_order(16, R(4))
        program.store(2, R(6), self.transport, R(4))
        program.alu("xor", R(4), -1)
        program.store(2, R(6), self.payload + 16, R(4))
        program.label("send")


class LiveRedirect:
    """A loaded program that numbers a frame, counts it, and sends it out of an interface.

    Every test run with two or more frames puts its program into the kernel's XDP dispatcher and takes it out again,
    which waits for all CPUs twice: tens of milliseconds. A program that is attached somewhere is in it already, and a
    run then costs 15 microseconds. So this one is attached to the loopback of a namespace of its own, where no packet
    ever passes. Raises `PrivilegeError` without CAP_BPF and CAP_NET_ADMIN.
    """

    def __init__(self, ifindex: int, stamp: Stamp | None) -> None:
        self._map = self.program = self._link = -1  # descriptors; written here, by close() and in a forked child
        self._namespace = Namespace()
        fork.track(self)
        try:
            # One counter is enough: one generator runs on one CPU.
            self._map = _checked(
                libbpf().bpf_map_create(BPF_MAP_TYPE_ARRAY, b"lab_generator", 4, 8, 1, None),
                "map_create",
                "cannot make the generator's counter",
            )
            self.program = self._load(ifindex, stamp)
            self._link = self._attach()
        except BaseException:
            self.close()
            raise

    def _load(self, ifindex: int, stamp: Stamp | None) -> int:
        program = Assembler()
        program.load(4, R(6), R(1), XDP_MD_DATA)
        program.load(4, R(7), R(1), XDP_MD_DATA_END)
        program.map_pointer(R(3), self._map, value_offset=0)
        program.load(8, R(4), R(3), 0)
        program.alu("mov", R(5), R(4))
        program.alu("add", R(5), 1)
        program.store(8, R(3), 0, R(5))
        if stamp is not None:
            stamp.assemble(program)
        program.alu("mov", R(1), ifindex)
        program.alu("mov", R(2), 0)
        program.call(BPF_FUNC_REDIRECT)
        program.exit()
        options = ProgLoadOpts(sz=ctypes.sizeof(ProgLoadOpts))
        fd = libbpf().bpf_prog_load(
            BPF_PROG_TYPE_XDP, b"lab_generator", b"GPL", program.assemble(), len(program), ctypes.byref(options)
        )
        return _checked(fd, "prog_load", "cannot load the generator's program")

    def _attach(self) -> int:
        options = LinkCreateOpts(sz=ctypes.sizeof(LinkCreateOpts), flags=XDP_FLAGS_SKB_MODE)
        with self._namespace.entered():
            index = socket.if_nametoindex("lo")
            fd = libbpf().bpf_link_create(self.program, index, BPF_XDP, ctypes.byref(options))
        return _checked(fd, "attach", "cannot attach the generator's program to its own loopback")

    def count(self) -> int:
        """How many frames the program has redirected so far."""
        if self._map < 0:
            raise ClosedError(
                "this generator was closed, or belongs to the parent of a fork. Next step: make another one."
            )
        key, value = ctypes.c_uint32(0), ctypes.c_uint64(0)
        status = libbpf().bpf_map_lookup_elem(self._map, ctypes.byref(key), ctypes.byref(value))
        _checked(status, "map_lookup", "cannot read the generator's counter")
        return value.value

    def close(self) -> None:
        """Close all descriptors. Repeatable."""
        self._drop()
        self._namespace.close()

    def _drop(self) -> None:
        fds = (self._link, self.program, self._map)
        self._map = self.program = self._link = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def _after_fork_in_child(self) -> None:
        self._drop()


def _checked(status: int, call: str, tried: str) -> int:
    if status < 0:
        raise kernel_error(call, status, tried)
    return status
