# SPDX-License-Identifier: Apache-2.0
"""toolkit.open(): open an Interface that receives from a network interface; undo everything if a step fails."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import warnings
from collections.abc import Iterable
from mmap import PAGESIZE
from typing import Literal

from toolkit._base.netns import NetNS, entered
from toolkit._base.uninterrupted import uninterrupted
from toolkit.errors import SystemCallError, VerifierError, explained, kernel_error
from toolkit.interface.interface import Interface
from toolkit.interface.nic import Nic
from toolkit.interface.opening import Opening
from toolkit.net.device import Device, check_ethernet, describe, queue_numbers
from toolkit.net.napi import Deferral
from toolkit.program import Action, Link, Program, Replace, Rule, attached
from toolkit.program.query import runs_natively
from toolkit.umem.umem import LONGEST_PACKET, UMEM, frame_size_for
from toolkit.wait.coalesce import LONGEST_DELAY
from toolkit.wait.waiter import WaitMode
from toolkit.xsk.refused import with_mtu
from toolkit.xsk.socket import Socket

__all__ = ["open", "open_as", "wants_frags"]

_SURELY_LINEAR = (
    3072  # bytes: for packets up to this size drivers have room in one page; veth's limit is some hundred bytes more
)
_ENTRIES = 32768  # most entries of all RX rings together, unless the rings would be smaller than _SMALLEST
_LARGEST, _SMALLEST = 8192, 64  # entries of one ring


def open(
    interface: str,
    *,
    filter: str | None = None,
    rules: Iterable[Rule] | None = None,
    on_match: Action = "redirect",
    sample: float = 1,
    snaplen: int | None = None,
    program: Program | None = None,
    queues: Iterable[int] | Literal["all"] = "all",
    mode: Literal["auto", "native", "generic"] = "auto",
    zero_copy: bool | Literal["auto"] = "auto",
    replace: Replace = False,
    promisc: bool = False,
    umem: UMEM | None = None,
    ring_size: int | None = None,
    frames: int | None = None,
    frame_size: int | None = None,
    need_wakeup: bool | Literal["auto"] = "auto",
    tx: bool = True,
    poison: bool = False,
    wait: WaitMode = "poll",
    coalesce: float = LONGEST_DELAY,
    frags: bool | Literal["auto"] = "auto",
    timestamps: bool = True,
    netns: NetNS = None,
) -> Interface:
    """TAKE packets from `interface`: compile (or find) the program, bind a Socket to every queue, attach.

    Packets that match the filter do NOT reach this host's kernel while the Interface is open: its services, connections
    and neighbours do not get them. There is no question first (the command `xsk` asks). toolkit.tee() gets copies
    instead.

    filter: the packets to take, a tcpdump expression; all others go on to the kernel. "all" takes everything, including
    ARP and the SSH session that you may be using.
    on_match: the action for matching packets: "redirect" to this process, "drop" in the driver, or "count" and pass on.
    sample: act on one of N matching packets, at random (100, or 1/100); the others go on to the kernel.
    snaplen: deliver at most this many bytes of each packet; Batch.wire_lengths has the original length.
    rules: several filters, each with its own action, sample and snaplen, instead of these four; the first that matches
    applies (see Rule). Batch.rule_numbers has the rule of each packet, Interface.rule_counters() their counts.
    program: a Program of your own with an XSKMAP, instead of a filter; it is not closed with the Interface.
    queues: numbers of receive queues; packets of other queues go on to the kernel.
    mode: "auto" attaches natively if the driver can, else generically; `Interface.mode` has the result.
    zero_copy: True demands it, False forbids it, "auto" has it where the driver can and runs the program natively.
    replace: True replaces a program that was attached by netlink (a firewall, say), and restores it at the end; after a
    crash, the next `xsk` or the next open() of this interface restores it. This needs root, and a mounted BPF file
    system. "link" also replaces a program that another process holds by a link, which cannot be restored.
    info()["replaced"] names it.
    promisc: True has the NIC bring packets to all addresses, as a bridge needs them, until close() or the end of the
    process. By default it brings those to its own address, to all (broadcast), and to groups that this host is in.
    umem: a UMEM that several Interfaces share, so that packets can be forwarded without a copy; it is not closed with
    the Interface. Give ring_size, frames, frame_size and poison to UMEM(...) then. Each Interface is bound as it asks,
    whatever the others have: one in zero-copy mode and one in copy mode forward to each other.
    ring_size: entries of each ring, a power of two; by default 8192 (20 MB a queue) for up to
    4 queues, then less, so that 64 queues do not cost a gigabyte, and less where a cgroup or a limit leaves little.
    frames: a queue; by default a quarter more than the ring, so that there are always frames for sending.
    frame_size: 2048 or 4096 bytes; by default the smaller that has room for the MTU in every mode. poison: see UMEM.
    wait: "poll" sleeps until packets come. "spin" and "busy-poll" never sleep, and take a core for the lowest latency;
    the latter makes the driver poll its NIC queues instead of waiting for interrupts, which are deferred until close()
    (napi_defer_hard_irqs, gro_flush_timeout; toolkit.net.repair() restores them after a crash).
    `info()["busy_polling"]` says whether it works.
    coalesce: with "poll", seconds that packets may wait so that more come at once. This saves most of the CPU time at
    medium rates, and is done only while 10 000 packets/s or more come steadily. 0: never.
    frags: whether packets may come in several frames, as jumbo frames do (XDP_USE_SG, Linux 6.6, and a program that is
    loaded for it); a Batch has them in one piece, and is then a copy. "auto": if the MTU needs it and the kernel can.
    For an Interface that forwards or answers use False; packets longer than a frame are then dropped.
    timestamps: False leaves out arrival times, Batch.rule_numbers, and the original length of packets cut by snaplen:
    the program then writes nothing in front of the packets, which makes the kernel some 15 % quicker at high rates.
    netns: the interface's network namespace: a pid, a path, a name of `ip netns`, or an object with fileno().

    Everything is undone when this fails, when the Interface is closed, and when the process ends in any way.
    """
    return open_as(interface, Opening.of(**locals()))


def open_as(interface: str, wanted: Opening) -> Interface:
    """Open in the network namespace of the interface; all of it, or nothing. See open()."""

    def work() -> Interface:
        with explained(f"cannot open {interface}"), entered(wanted.netns), contextlib.ExitStack() as undo:
            try:
                opened = _open_fitting(interface, wanted, undo)
            except SystemCallError as refused:
                raise _because_of_the_mtu(refused, interface, wanted) from None
            undo.pop_all()
            return opened

    # Uninterrupted: otherwise an interrupt could leave a program attached without an object that detaches it.
    return uninterrupted(work, dispose=Interface.close)


def _because_of_the_mtu(refused: SystemCallError, interface: str, wanted: Opening) -> SystemCallError:
    """Return the error for zero-copy that was demanded: the MTU may be why the driver took not even the program."""
    if wanted.zero_copy is not True or refused.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
        return refused
    device = describe(interface)
    frame_size = wanted.umem.frame_size if wanted.umem else wanted.frame_size or frame_size_for(device.longest)
    headroom = wanted.umem.headroom if wanted.umem else 0
    tried = f"cannot open {interface} zero-copy"
    return with_mtu(refused, device, tried, frame_size=frame_size, headroom=headroom, sg=wanted.frags is not False)


def _open_fitting(interface: str, wanted: Opening, undo: contextlib.ExitStack) -> Interface:
    """Do open() in the calling thread's network namespace, with frags="auto" tried first with and then without."""
    device = describe(interface)
    check_ethernet(device)
    if wanted.frags is True:
        return _open(device, wanted, undo)
    reason = ""
    if wanted.frags == "auto" and wanted.program is None and wants_frags(device):
        try:
            with contextlib.ExitStack() as attempt:
                opened = _open(device, dataclasses.replace(wanted, frags=True), attempt)
                undo.push(attempt.pop_all())
                return opened
        except (VerifierError, SystemCallError) as refused:
            if refused.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.E2BIG):
                raise
            reason = f" Packets of several frames cannot be had: {refused}"
    if device.longest > LONGEST_PACKET:
        warnings.warn(
            f"{device.name} has an MTU of {device.mtu}: packets longer than {LONGEST_PACKET} bytes do not fit a frame "
            f"and will be dropped (rx_dropped counts them).{reason}",
            stacklevel=3,
        )
    return _open(device, wanted, undo)


def wants_frags(device: Device) -> bool:
    """Return whether packets of this MTU may come in several frames, or drivers need a program for that."""
    return device.longest > _SURELY_LINEAR


def _open(device: Device, wanted: Opening, undo: contextlib.ExitStack) -> Interface:
    """Open as wanted; each step registers its reverse with `undo`."""
    interface = device.name
    if not device.up:
        raise kernel_error("bind", errno.ENETDOWN, f"cannot receive on {interface}", interface=interface)
    numbers = queue_numbers(device, wanted.queues)
    umem = wanted.umem or undo.enter_context(_umem(device, len(numbers), wanted))
    program = wanted.program
    if program is None:
        wanted.check_rules(device, numbers)
        program = wanted.build(wanted.frags is True, numbers)
        undo.callback(program.close)

    def bind() -> list[Socket]:
        return [undo.enter_context(_socket(interface, queue, umem, len(numbers), wanted)) for queue in numbers]

    # Another program is replaced only when the queues are bound: otherwise its owner would lose it for nothing.
    ran_natively = runs_natively(device.ifindex)
    sockets = bind() if wanted.replace and attached(device.ifindex) is not None else []
    # Attached while the map is empty, when all packets pass: zero-copy drivers need the program before the bind.
    link = undo.enter_context(program.attach(interface, mode=wanted.mode, replace=wanted.replace, netns=wanted.netns))
    if wanted.zero_copy is True:
        _check_native(link)
    if sockets and wanted.zero_copy is not False and ran_natively != (link.mode == "native"):
        for sock in sockets:  # zero-copy or not was decided by the program that was there
            sock.close()
        sockets = []
    sockets = sockets or bind()
    deferral = undo.enter_context(Deferral(interface)) if wanted.wait == "busy-poll" else None
    for sock in sockets:
        program.register(sock)
    nic = undo.enter_context(Nic(device, link.location.home, promisc=wanted.promisc))
    return Interface(
        device,
        program,
        link,
        umem,
        sockets,
        own_program=wanted.program is None,
        own_umem=wanted.umem is None,
        filter=None if wanted.filtering is None else str(wanted.filtering),
        wait=wanted.wait,
        coalesce=wanted.coalesce,
        nic=nic,
        deferral=deferral,
    )


def _check_native(link: Link) -> None:
    """Raise NotSupportedError where a program came about in generic mode, and zero-copy was demanded."""
    if link.mode != "native":
        raise kernel_error(
            "bind",
            errno.EOPNOTSUPP,
            f"cannot open {link.interface} zero-copy",
            cause=f"a driver has zero-copy only where it runs the program: this one does not ({link.fallback_reason})",
        )


def _socket(interface: str, queue: int, umem: UMEM, sharing: int, wanted: Opening) -> Socket:
    """Bind a Socket with its share of the UMEM's frames for receiving; they are posted before the bind."""
    size = umem.fill_size
    if wanted.umem is None:
        rx_limit = min(size, max(umem.frames // sharing * 4 // 5, 1))
    else:  # how many will share it is not known: leave room for as many again
        rx_limit = min(size, max(umem.frames // sharing // 4, 1))
    sock = Socket(
        interface,
        queue,
        umem,
        rx_size=size,
        tx_size=size,
        zero_copy=wanted.zero_copy,
        need_wakeup=wanted.need_wakeup,
        sg=wanted.frags,
        tx=wanted.tx,
        prefill=rx_limit,
        wait=wanted.wait,
        netns=wanted.netns,
    )
    sock.rx_limit = rx_limit
    return sock


def _umem(device: Device, queues: int, wanted: Opening) -> UMEM:
    """Make the memory that the Sockets of an Interface share."""
    frame_size = wanted.frame_size or frame_size_for(device.room)
    size = wanted.ring_size or _ring_size(queues, frame_size)
    per_queue = wanted.frames if wanted.frames is not None else max(size + size // 4, 2)
    total = per_queue * queues
    if wanted.frames is None:
        total += -total % (PAGESIZE // frame_size)  # whole pages
    return UMEM(total, frame_size, fill_size=size, comp_size=size, poison=wanted.poison)


def _ring_size(queues: int, frame_size: int) -> int:
    """Return the default ring size, smaller for many queues and when memory is short.

    The kernel needs some 150 bytes for each frame of a UMEM in each queue that shares it: with rings of one size, 64
    queues would cost gigabytes.
    """
    from toolkit._base.memory import affordable

    share = max(_ENTRIES // queues, _SMALLEST)
    size = min(1 << (share.bit_length() - 1), _LARGEST)
    entry = queues * frame_size * 5 // 4  # bytes of the UMEM
    entries = affordable(size * entry, _SMALLEST * entry) // entry
    return min(size, 1 << (entries.bit_length() - 1))
