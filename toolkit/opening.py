# SPDX-License-Identifier: Apache-2.0
"""`toolkit.open()`: from the name of an interface to an Interface that receives; all of it, or nothing."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterable
from mmap import PAGESIZE
from typing import Literal, NamedTuple

from toolkit.abi.if_xdp import XDP_PACKET_HEADROOM
from toolkit.coalesce import LONGEST_REST
from toolkit.device import Device, await_carrier, describe, queue_numbers
from toolkit.errors import ArgumentError, kernel_error
from toolkit.interface import Interface
from toolkit.napi import Deferral
from toolkit.netns import NetNS, entered
from toolkit.program import Program, attached
from toolkit.umem import UMEM, check_ring_size
from toolkit.uninterrupted import uninterrupted
from toolkit.wait import WaitMode, check_wait_mode
from toolkit.xsk import Socket

__all__ = ["open"]

_LINK_HEADERS = 14 + 2 * 4  # Ethernet and two VLAN tags, on top of the MTU
_ENTRIES = 32768  # of all RX rings together, at most, unless the rings would be smaller than _SMALLEST
_LARGEST, _SMALLEST = 8192, 64  # entries of one ring


class _Wanted(NamedTuple):
    """What the caller asked for: see open()."""

    filter: str | None
    program: Program | None
    queues: Iterable[int] | Literal["all"]
    mode: Literal["auto", "native", "generic"]
    zero_copy: bool | Literal["auto"]
    replace: bool
    umem: UMEM | None
    ring_size: int | None
    frames: int | None
    frame_size: int | None
    need_wakeup: bool
    tx: bool
    poison: bool
    wait: WaitMode
    coalesce: float


def open(
    interface: str,
    *,
    filter: str | None = None,
    program: Program | None = None,
    queues: Iterable[int] | Literal["all"] = "all",
    mode: Literal["auto", "native", "generic"] = "auto",
    zero_copy: bool | Literal["auto"] = "auto",
    replace: bool = False,
    umem: UMEM | None = None,
    ring_size: int | None = None,
    frames: int | None = None,
    frame_size: int | None = None,
    need_wakeup: bool = True,
    tx: bool = True,
    poison: bool = False,
    wait: WaitMode = "poll",
    coalesce: float = LONGEST_REST,
    netns: NetNS = None,
) -> Interface:
    """Open `interface` for receiving: compile (or find) the program, bind a Socket to every queue, attach.

    filter: what to take, a tcpdump expression; everything else goes on to the kernel. "all" takes everything, the
    SSH session that you may be using included.
    program: a Program of your own with an XSKMAP, instead of a filter; it is not closed with the Interface.
    queues: numbers of receive queues; packets of other queues go on to the kernel.
    mode: "auto" attaches natively where the driver can, else generically; `Interface.mode` says which came about.
    zero_copy: True demands it, False forbids it. replace: take the place of a program that is attached already.
    umem: one that several Interfaces share, so that packets can go from one to the other without a copy; it is not
    closed with the Interface, and the next three arguments are its own.
    ring_size: entries of each ring, a power of two; by default 8192 (20 MB a queue) for up to
    4 queues, then less, so that 64 queues do not cost a gigabyte.
    frames: per queue; by default a quarter more than the ring, so that sending cannot starve.
    frame_size: 2048 or 4096 bytes; by default the smaller one that holds the MTU. poison: see UMEM.
    wait: "poll" sleeps until packets come. "spin" and "busy-poll" never sleep, and take a core for the lowest latency;
    the latter has the driver look for packets instead of waiting for its interrupts, and defers those until close()
    (napi_defer_hard_irqs, gro_flush_timeout: see toolkit.napi). `info()["busy_polling"]` says whether it works.
    coalesce: with "poll", seconds that packets may wait so that more come at once; this saves most of the CPU time at
    medium rates, and happens only while 10 000 packets/s or more come steadily (see toolkit.coalesce). 0: never.
    netns: the interface's network namespace: a pid, a path, a name of `ip netns`, or an object with fileno().

    Everything is undone when it fails, when the Interface is closed, and when the process ends, however it ends.
    """
    if (filter is None) == (program is None):
        raise ArgumentError(
            f"say what to take from {interface}: filter= with a tcpdump expression such as 'udp port 53', or 'all' for "
            "everything (it cuts off the SSH session that comes in there), or program= with one of your own; not both."
        )
    if umem is not None and (ring_size, frames, frame_size, poison) != (None, None, None, False):
        raise ArgumentError("ring_size, frames, frame_size and poison belong to the UMEM: give them to UMEM(...).")
    wanted = _Wanted(
        filter,
        program,
        queues,
        mode,
        zero_copy,
        replace,
        umem,
        ring_size,
        frames,
        frame_size,
        need_wakeup,
        tx,
        poison,
        check_wait_mode(wait),
        _checked_rest(coalesce),
    )

    def work() -> Interface:
        with entered(netns), contextlib.ExitStack() as undo:
            opened = _open(interface, wanted, undo)
            undo.pop_all()
            return opened

    # In one piece: an interrupt in the middle could leave a program attached that no object stands for.
    return uninterrupted(work, dispose=Interface.close)


def _open(interface: str, wanted: _Wanted, undo: contextlib.ExitStack) -> Interface:
    """Do it, in the calling thread's network namespace; each step tells `undo` how it is taken back."""
    device = describe(interface)
    if not device.up:
        raise kernel_error(
            "bind",
            errno.ENETDOWN,
            f"cannot receive on {interface}",
            remedy=f"bring it up: `ip link set dev {interface} up`",
        )
    numbers = queue_numbers(device, wanted.queues)
    umem = wanted.umem or undo.enter_context(_umem(device, len(numbers), wanted))
    program = wanted.program
    if program is None:
        program = Program.build(filter=wanted.filter or "", map_entries={"xsks_map": max(64, max(numbers) + 1)})
        undo.callback(program.close)

    def bind() -> list[Socket]:
        return [undo.enter_context(_socket(interface, queue, umem, len(numbers), wanted)) for queue in numbers]

    # What is there already is taken off only when the queues are ours: else its owner would lose it for nothing.
    sockets = bind() if wanted.replace and attached(device.ifindex) is not None else []
    # Attached while the map is still empty (everything passes): zero-copy drivers want the program before the bind.
    link = undo.enter_context(program.attach(interface, mode=wanted.mode, replace=wanted.replace))
    await_carrier(device)
    sockets = sockets or bind()
    deferral = undo.enter_context(Deferral(interface)) if wanted.wait == "busy-poll" else None
    for sock in sockets:
        program.register(sock)
    return Interface(
        device,
        program,
        link,
        umem,
        sockets,
        own_program=wanted.program is None,
        own_umem=wanted.umem is None,
        filter=wanted.filter,
        wait=wanted.wait,
        coalesce=wanted.coalesce,
        deferral=deferral,
    )


def _socket(interface: str, queue: int, umem: UMEM, sharing: int, wanted: _Wanted) -> Socket:
    """Bind a Socket that holds its share of the UMEM's frames for receiving, and fill it before the bind."""
    size = umem.fill_size
    if wanted.umem is None:
        rx_limit = min(size, max(umem.frames // sharing * 4 // 5, 1))
    else:  # nobody knows how many will share it: leave room for as many again
        rx_limit = min(size, max(umem.frames // sharing // 4, 1))
    sock = Socket(
        interface,
        queue,
        umem,
        rx_size=size,
        tx_size=size,
        zero_copy=wanted.zero_copy,
        need_wakeup=wanted.need_wakeup,
        tx=wanted.tx,
        prefill=rx_limit,
        wait=wanted.wait,
    )
    sock.rx_limit = rx_limit
    return sock


def _checked_rest(seconds: float) -> float:
    if not 0 <= seconds <= 0.1:
        raise ArgumentError(f"coalesce is a time in seconds from 0 to 0.1, not {seconds!r}")
    return seconds


def _umem(device: Device, queues: int, wanted: _Wanted) -> UMEM:
    """Make the memory that the Sockets of an Interface share."""
    size = check_ring_size("ring_size", _ring_size(queues) if wanted.ring_size is None else wanted.ring_size)
    per_queue = wanted.frames if wanted.frames is not None else max(size + size // 4, 2)
    frame_size = wanted.frame_size or _frame_size(device)
    total = per_queue * queues
    if wanted.frames is None:
        total += -total % (PAGESIZE // frame_size)  # whole pages
    return UMEM(total, frame_size, fill_size=size, comp_size=size, poison=wanted.poison)


def _ring_size(queues: int) -> int:
    """Return the default size. The kernel keeps some 150 bytes for each frame of a UMEM in each queue that shares it:
    with rings of one size, 64 queues would cost gigabytes.
    """
    share = max(_ENTRIES // queues, _SMALLEST)
    return min(1 << (share.bit_length() - 1), _LARGEST)


def _frame_size(device: Device) -> int:
    longest = device.mtu + _LINK_HEADERS
    if longest <= 2048 - XDP_PACKET_HEADROOM:
        return 2048
    if longest > 4096 - XDP_PACKET_HEADROOM:
        warnings.warn(
            f"{device.name} has an MTU of {device.mtu}: packets longer than {4096 - XDP_PACKET_HEADROOM} bytes do not "
            "fit a frame and will be dropped (rx_dropped counts them).",
            stacklevel=3,
        )
    return 4096
