# SPDX-License-Identifier: Apache-2.0
"""toolkit.tee(): open a Tee that receives copies of an interface's packets; undo everything if a step fails."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Iterable
from typing import Any, Literal

from toolkit._base.memory import affordable
from toolkit._base.netns import NetNS, entered
from toolkit._base.uninterrupted import uninterrupted
from toolkit.abi.tee_slot import slot_size
from toolkit.errors import ArgumentError, SystemCallError, VerifierError, explained, kernel_error
from toolkit.interface.nic import Nic
from toolkit.interface.opening import Opening
from toolkit.interface.ringbuf import ring_bytes
from toolkit.interface.tee import Tee
from toolkit.net.device import LINK_HEADERS, Device, check_ethernet, describe, queue_numbers
from toolkit.program import Action, Program, Replace, Rule
from toolkit.program.rules import as_line
from toolkit.wait.coalesce import LONGEST_DELAY

__all__ = ["Tee", "tee", "tee_as"]

_LONGEST = 65535 + LINK_HEADERS
_SLOTS = (
    16384  # for each queue, up to _QUEUES of them: enough while the kernel's work for each packet delays the reader
)
_QUEUES = 4
_RING = 64 << 20  # most bytes of the ring, unless the caller wants more
_LARGEST = 1 << 31
_ONE_BUFFER = 3072  # bytes: for packets up to this size any driver has room in a page, with what the kernel keeps there


def tee(
    interface: str,
    *,
    filter: str | None = None,
    rules: Iterable[Rule] | None = None,
    on_match: Action = "redirect",
    sample: float = 1,
    snaplen: int | None = None,
    queues: Iterable[int] | Literal["all"] = "all",
    mode: Literal["auto", "native", "generic"] = "auto",
    replace: Replace = False,
    promisc: bool = False,
    slots: int | None = None,
    coalesce: float = LONGEST_DELAY,
    netns: NetNS = None,
) -> Tee:
    """Receive copies of the packets that arrive at `interface`; the kernel gets all of them as well, unchanged.

    filter, rules, on_match, sample, queues, mode, replace, promisc, coalesce, netns: as for toolkit.open(), where
    "redirect" means: copy. A rule that drops does drop.
    snaplen: copy at most this many bytes of each packet; by default as many as the MTU lets arrive (with rules, as many
    as the largest of theirs). The receiving host
    may join segments to packets longer than that before a program in generic mode sees them: these are cut,
    Batch.wire_lengths tells how long they were.
    slots: how many copies find room, rounded up; by default 16384 for each queue, up to 4 queues, in 64 MB at most,
    and in less where a cgroup or a limit leaves little memory.

    Everything is undone when this fails, when the Tee is closed, and when the process ends in any way.
    Raises what toolkit.open() does.
    """
    return tee_as(interface, Opening.of(**locals()))


def tee_as(interface: str, wanted: Opening) -> Tee:
    """Open in the network namespace of the interface; all of it, or nothing. See tee()."""

    def work() -> Tee:
        with explained(f"cannot open {interface}"), entered(wanted.netns), contextlib.ExitStack() as undo:
            device = describe(interface)
            check_ethernet(device)
            if not device.up:
                raise kernel_error("bind", errno.ENETDOWN, f"cannot receive on {interface}", interface=interface)
            numbers = queue_numbers(device, wanted.queues)
            wanted.check_rules(device, numbers)
            rules, longest = _cut(wanted.rules, min(device.longest, _LONGEST))
            size = _size(len(numbers), wanted.slots, slot_size(longest))
            program = _build(device, rules, longest, size, None if wanted.queues == "all" else numbers)
            undo.callback(program.close)
            link = undo.enter_context(
                program.attach(interface, mode=wanted.mode, replace=wanted.replace, netns=wanted.netns)
            )
            nic = undo.enter_context(Nic(device, link.location.home, promisc=wanted.promisc))
            made = Tee(
                device,
                program,
                link,
                snaplen=longest,
                queues=numbers,
                filter=as_line(rules),
                nic=nic,
                coalesce=wanted.coalesce,
            )
            undo.pop_all()
            return made

    # Uninterrupted: otherwise an interrupt could leave a program attached without an object that detaches it.
    return uninterrupted(work, dispose=Tee.close)


def _cut(rules: tuple[Rule, ...], longest: int) -> tuple[tuple[Rule, ...], int]:
    """Return the rules, and the bytes of a packet that a slot holds: the largest snaplen where all that copy have one.

    A rule whose snaplen the slots keep by themselves needs none in the program. `longest`: of a packet, by the MTU.
    """
    lengths = [rule.snaplen for rule in rules if rule.action == "redirect"]
    if lengths and None not in lengths:
        longest = min(max(length for length in lengths if length is not None), _LONGEST)
    kept = tuple(
        dataclasses.replace(rule, snaplen=None) if rule.snaplen is not None and rule.snaplen >= longest else rule
        for rule in rules
    )
    return kept, longest


def _size(queues: int, slots: int | None, record: int) -> int:
    """Return the bytes of the ring."""
    if slots is not None:
        size = ring_bytes(slots, record)
        if size > _LARGEST:
            raise ArgumentError(
                f"{slots} slots of {record} bytes make a ring of {size >> 20} MB, and the kernel has them up to "
                f"{_LARGEST >> 20} MB. Next step: fewer slots, or a snaplen."
            )
        return size
    least = ring_bytes(1, record)
    size = min(ring_bytes(_SLOTS * min(queues, _QUEUES), record), max(_RING, least))
    return max(least, 1 << (affordable(size, least).bit_length() - 1))  # powers of two


def _build(device: Device, rules: tuple[Rule, ...], longest: int, size: int, queues: list[int] | None) -> Program:
    """Compile and load the program: for packets of several buffers if the MTU needs that and the kernel can."""
    defines: dict[str, str | int] = {"TEE_SNAPLEN": longest}
    if queues is not None:
        defines["TEE_QUEUES"] = " || ".join(f"queue == {number}" for number in queues)

    def build(**how: Any) -> Program:
        macros = {**defines, **how.pop("defines", {})}
        return Program.build("xsk_tee.c", rules=rules, defines=macros, map_entries={"copies": size}, **how)

    if device.longest > _ONE_BUFFER:
        with contextlib.suppress(VerifierError):  # Linux before 5.18: such interfaces have generic mode only
            return build(frags=True)
    try:
        return build()
    except SystemCallError as refused:  # perhaps without CAP_PERFMON, or in a locked-down kernel
        with contextlib.suppress(SystemCallError):
            return build(defines={"TEE_HELPERS": 1})
        raise refused
