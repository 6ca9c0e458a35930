# SPDX-License-Identifier: Apache-2.0
"""Run a program on bytes, without an interface (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import ctypes as ct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be, whole
from toolkit.abi import libbpf as abi
from toolkit.errors import ArgumentError, kernel_error

__all__ = ["run_many", "run_once"]

SHORTEST = 14  # bytes, an Ethernet header: the kernel refuses to run XDP programs on less
ROOM = 256  # bytes that a program may put in front of the packet


MOST = 1_000_000  # runs in one call, some 0.1 s, during which Ctrl-C has no effect


def _checked(packet: bytes) -> bytes:
    """Return a bytes-like object as bytes. ArgumentError for others, and for less than an Ethernet header."""
    try:
        octets = packet if isinstance(packet, bytes) else bytes(memoryview(packet))
    except TypeError:
        raise cannot_be("packet", packet, "a packet as bytes") from None
    if len(octets) < SHORTEST:
        raise ArgumentError(
            f"a program cannot run on a packet of {len(octets)} bytes. Next step: give {SHORTEST} bytes or more: the "
            "kernel wants an Ethernet header."
        )
    return octets


def run_once(fd: int, packet: bytes, repeat: int = 1) -> tuple[int, bytes]:
    """Run program `fd` `repeat` times; return (action of the last run, packet after it)."""
    packet, repeat = _checked(packet), whole("repeat", repeat, 1, MOST)
    out = ct.create_string_buffer(len(packet) + ROOM)
    source = ct.create_string_buffer(packet, len(packet))
    options = abi.TestRunOpts(
        sz=ct.sizeof(abi.TestRunOpts),
        data_in=ct.addressof(source),
        data_size_in=len(packet),
        data_out=ct.addressof(out),
        data_size_out=len(out),
        repeat=repeat,
    )
    result = abi.libbpf().bpf_prog_test_run_opts(fd, ct.byref(options))
    if result < 0:
        raise kernel_error("test_run", result, f"cannot run the program on a packet of {len(packet)} B")
    return int(options.retval), out.raw[: options.data_size_out]


def run_many(fd: int, packets: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """Run program `fd` once on each packet; return the actions: shape (len(packets),), uint32."""
    packets = [_checked(packet) for packet in packets]
    actions = np.empty(len(packets), np.uint32)
    call = abi.libbpf().bpf_prog_test_run_opts
    options = abi.TestRunOpts(sz=ct.sizeof(abi.TestRunOpts), repeat=1)
    reference = ct.byref(options)
    for i, packet in enumerate(packets):
        options.data_in = ct.cast(ct.c_char_p(packet), ct.c_void_p)
        options.data_size_in = len(packet)
        options.data_size_out = 0  # the last run wrote its packet's length here
        result = call(fd, reference)
        if result < 0:
            raise kernel_error("test_run", result, f"cannot run the program on packet {i} of {len(packet)} B")
        actions[i] = options.retval
    return actions
