# SPDX-License-Identifier: Apache-2.0
"""`xsk forward`: from one interface to another, or back out of the same; descriptors move, bytes do not."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import click
import cloup

from toolkit._base.netns import entered
from toolkit.cli import options as opt
from toolkit.cli.binding import Binding
from toolkit.cli.command import command
from toolkit.cli.commands.forward_edits import Edits
from toolkit.cli.lossy import warn_of_generic, warn_of_losses
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine, Reading
from toolkit.cli.view.losses import drop_reasons, loss_lines, losses, now
from toolkit.cli.view.summary import introduce, outcome
from toolkit.errors import ClosedError, DeviceGoneError, kernel_error
from toolkit.forward.forwarder import Forwarder
from toolkit.interface.interface import Interface
from toolkit.net.device import queue_numbers
from toolkit.umem.umem import UMEM, frame_size_for
from toolkit.xsk.socket import Socket
from toolkit.xsk.statistics import Statistics

__all__ = ["forward", "run"]

_RING = 4096  # entries of each ring, when nothing else is asked for
_KICK_AGAIN = 0.001  # seconds after which a kernel that was busy hears again what waits in a TX ring
_FLUSH = 1.0  # seconds that the last packets have to leave


@dataclass
class Direction:
    """One direction of forwarding."""

    name: str
    source: Interface
    target: Interface | Socket
    forwarder: Forwarder

    def reading(self) -> Reading:
        """Return the figures of the live line."""
        moved = self.forwarder.statistics()
        lost = {"edited out": moved.edited_out} if moved.edited_out else {}
        others = {**lost, "no room": moved.no_room, **now(self.source.statistics())}
        return Reading(moved.forwarded, moved.octets, others=others)


@command(
    cloup.option_group("What to take", opt.FILTER, opt.YES),
    cloup.option_group(
        "Where to, and what to change",
        cloup.option("--both", is_flag=True, help="Forward from OTHER to INTERFACE as well."),
        cloup.option("--back", is_flag=True, help="Send packets back out of INTERFACE, in place of OTHER."),
        cloup.option("--mac-swap", is_flag=True, help="Exchange source and destination MAC address."),
        cloup.option(
            "--ttl", is_flag=True, help="Lower the TTL (hop limit) by one, and drop packets that have none left."
        ),
        cloup.option("--vlan-push", type=click.IntRange(0, 4094), metavar="ID", help="Add a VLAN tag."),
        cloup.option("--vlan-pop", is_flag=True, help="Remove the outer VLAN tag of packets that have one."),
        opt.LEAVE_CHECKSUMS,
    ),
    cloup.option_group("What to show", opt.NO_NAMES, opt.INTERVAL, opt.EXTRA, opt.JSON),
    cloup.option_group("When to stop", opt.SECONDS),
    opt.where(),
    opt.how_to_receive(
        opt.batch_size(),
        promisc=cloup.option(
            "--promisc/--no-promisc",
            default=None,
            help="Make the NIC let in packets to all addresses. It is the default from one interface to another, "
            "unless --mac-swap reflects them.",
        ),
    ),
    places=("interface", "other"),
    filtered=True,
    examples=(
        ("xsk forward eth0 --back --mac-swap udp port 7", "reflect packets"),
        ("xsk forward eth0 eth1 --both all", "a bridge of two ports"),
        ("xsk forward eth0 eth1 vlan 42 --vlan-pop", ""),
    ),
    matters=("--both", "--back", "--mac-swap", "--ttl", "--vlan-push", "--vlan-pop", "--seconds", "--json", "--yes"),
)
def forward(interface: str, other: str | None, **options: Any) -> int:
    """TAKE packets that match EXPRESSION, so that this host does not get them, and send them out of OTHER, or back.

    EXPRESSION is tcpdump's, or 'all' (`xsk help filters`). Before it takes what this host needs, it asks
    (`xsk help taking`).

    While it runs, the interfaces that packets come from are promiscuous: packets to hosts behind OTHER have a foreign
    MAC address, and a NIC does not let them in by itself. With --back or --mac-swap they are not, unless --promisc is
    given.

    Both interfaces share their packet memory, so that packets are not copied on the way. Hosts that send into a veth, a
    tap or a virtio NIC leave the checksums of TCP and UDP to "the hardware"; this command finishes them
    (checksums_finished in --json). Two things can get lost: VLAN tags that the driver or the sender takes out of the
    packet, and, in generic mode, TCP segments that were joined. Where that may happen, the command says so first.

    Standard output gets a line each second, standard error the account of each direction at the end: redirected =
    received + dropped, and received = forwarded + edited out (by --ttl) + no room (in the TX ring).
    """
    if other is not None and other == interface:
        raise click.UsageError(
            f"both ends are {interface}. Next step: name two; or send packets back out of the port that they came "
            f"from, `xsk forward {interface} --back EXPRESSION`."
        )
    if options["both"] and other is None:
        raise click.UsageError("--both needs two interfaces. Next step: name the other one.")
    options.pop("back")
    edits = Edits(**{name: options.pop(name) for name in ("mac_swap", "ttl", "vlan_push", "vlan_pop")})
    finish: bool | Literal["auto"] = False if options.pop("leave_checksums") else "auto"
    promisc = options.pop("promisc")
    binding = opt.binding_from(options)
    if other is not None:
        _check_other(interface, other, binding)
    between = other is not None and not edits.mac_swap
    binding = dataclasses.replace(binding, promisc=between if promisc is None else promisc)
    return run(interface, other, binding, edits=edits, finish_checksums=finish, **options)


def _check_other(interface: str, other: str, binding: Binding) -> None:
    """Refuse an OTHER that is no interface: most likely it is the first word of a filter."""
    try:
        with entered(binding.netns):
            socket.if_nametoindex(other)
    except OSError:
        raise kernel_error(
            "forward",
            errno.ENODEV,
            f"cannot forward from {interface} to {other}",
            cause=f"{other} is no interface in this network namespace",
            remedy="list the interfaces with `ip link`; or, to send packets back out of the port that they came from, "
            f"`xsk forward {interface} --back EXPRESSION`",
        ) from None


def run(
    interface: str,
    other: str | None,
    binding: Binding,
    *,
    expression: str | None,
    edits: Edits,
    both: bool,
    batch_size: int | None,
    seconds: float | None,
    interval: float,
    extra: bool,
    as_json: bool,
    finish_checksums: bool | Literal["auto"] = "auto",
) -> int:
    """Forward until a signal or `seconds`; the exit code."""
    with Stop(seconds) as stop, contextlib.ExitStack() as parts:
        warned = warn_of_losses(binding, [interface, *([other] if both and other else [])])
        wanted = functools.partial(Forwarder, edit=edits.function, finish_checksums=finish_checksums)
        directions = _open(interface, other, binding, expression, wanted, both, parts)
        warn_of_generic([way.source for way in directions], warned)
        if not as_json:
            for way in directions:
                introduce(way.source)
                output.say(f"  {way.name}: {edits}")
        began = stop.restart()  # to compile and attach is not to forward
        lines = [
            LiveLine(
                way.reading,
                interval=interval,
                name=way.name,
                statistics=way.source.statistics if extra else None,
                quiet=as_json,
            )
            for way in directions
        ]
        failure = _loop(directions, stop, lines, batch_size, binding)
        seconds_taken = time.monotonic() - began
        report = _summary(directions, edits, seconds_taken, failure)
    return output.finish(report, _conclude, as_json=as_json)


# --- opening ----------------------------------------------------------------------------------------------------------


def _open(
    interface: str,
    other: str | None,
    binding: Binding,
    expression: str | None,
    wanted: Callable[[Interface, Interface | Socket], Forwarder],
    both: bool,
    parts: contextlib.ExitStack,
) -> list[Direction]:
    """Open what is needed; `parts` closes it. Nothing is taken at one end before the question about the other is "
    "answered."""
    if both and other is not None:
        binding.ask((interface, other), expression)
        binding = dataclasses.replace(binding, yes=True)
    if other is None or other == interface:
        source = parts.enter_context(binding.open(interface, expression, frags=False, timestamps=False))
        return [Direction(f"{interface} → {interface}", source, source, wanted(source, source))]
    umem = parts.enter_context(_umem(binding, interface, other))
    first = parts.enter_context(binding.open(interface, expression, umem, frags=False, timestamps=False))
    if not both:
        target = parts.enter_context(binding.sender(other, 0, umem))
        return [Direction(f"{interface} → {other}", first, target, wanted(first, target))]
    second = parts.enter_context(binding.open(other, expression, umem, frags=False, timestamps=False))
    return [Direction(f"{a.name} → {b.name}", a, b, wanted(a, b)) for a, b in ((first, second), (second, first))]


def _umem(binding: Binding, interface: str, other: str) -> UMEM:
    """Make the UMEM that both share: for every queue frames for a full ring to receive, and as many to send."""
    devices = [binding.describe(name) for name in (interface, other)]
    queues = max(len(queue_numbers(device, binding.queues)) for device in devices)
    ring = binding.ring_size or _RING
    room = max(device.room for device in devices)
    # Each Interface posts a quarter of a shared UMEM's frames.
    return UMEM(4 * ring * queues, frame_size_for(room), fill_size=ring, comp_size=ring)


# --- work -------------------------------------------------------------------------------------------------------------


def _loop(
    directions: list[Direction], stop: Stop, lines: list[LiveLine], batch_size: int | None, binding: Binding
) -> DeviceGoneError | None:
    try:
        if len(directions) == 1:
            step, line = directions[0].forwarder.step, lines[0]
            while not stop:
                step(stop.timeout, batch_size)
                line.tick()
            return None
        there, back = (way.forwarder for way in directions)
        wait = _waiting_on_both(directions, binding)
        while not stop:
            if not there.step(0, batch_size) + back.step(0, batch_size):
                wait(stop.timeout)
            for line in lines:
                line.tick()
    except DeviceGoneError as gone:
        return gone
    return None


def _waiting_on_both(directions: list[Direction], binding: Binding) -> Callable[[float], object]:
    """Return what waits a while for packets at either end, in the way asked for."""
    if binding.wait != "poll":
        # One round over each: it drives the driver where that is meant, and does not sleep.
        return lambda seconds: any(way.source.wait(0) for way in directions)
    poll = select.poll()
    sockets = [sock for way in directions for sock in way.source.sockets]
    for sock in sockets:
        poll.register(sock.fileno(), select.POLLIN)

    def wait(seconds: float) -> object:
        if any(sock.tx.outstanding for sock in sockets):
            seconds = min(seconds, _KICK_AGAIN)
        return poll.poll(seconds * 1000)

    return wait


# --- the end ----------------------------------------------------------------------------------------------------------


def _summary(directions: list[Direction], edits: Edits, seconds: float, gone: DeviceGoneError | None) -> dict[str, Any]:
    """Detach, forward what still waits, and compare the counters of each direction.

    `gone`: what ended one of them, and so all.
    """
    for way in directions:
        with contextlib.suppress(ClosedError, DeviceGoneError):
            way.source.stop_taking()
    left = []
    for way in directions:
        waiting = True
        with contextlib.suppress(ClosedError, DeviceGoneError):
            while way.forwarder.step(0.05):
                pass
            waiting = not way.target.flush(_FLUSH)
        left.append(waiting)
    for way in directions:  # a driver that has lost its program sends no more: not before all is sent
        with contextlib.suppress(ClosedError, DeviceGoneError):
            way.source.detach()
    reports = [_report(way, gone, all_sent=not waiting) for way, waiting in zip(directions, left, strict=True)]
    return {
        "edits": str(edits),
        "seconds": round(seconds, 3),
        "whole": all(one["whole"] for one in reports),
        "error": next((one["error"] for one in reports if one["error"]), None),
        "directions": reports,
    }


def _report(way: Direction, gone: DeviceGoneError | None, *, all_sent: bool) -> dict[str, Any]:
    moved, counters, statistics = way.forwarder.statistics(), way.source.counters(), way.source.statistics()
    sending = statistics if way.target is way.source else way.target.statistics()
    return {
        **outcome(way.source, gone, statistics, moved.no_room),
        "from": way.source.name,
        "to": way.target.name if isinstance(way.target, Interface) else way.target.interface,
        "redirected": counters["redirected"],
        "received": moved.received,
        "forwarded": moved.forwarded,
        "octets": moved.octets,
        "checksums_finished": moved.finished,
        "edited_out": moved.edited_out,
        "no_room": moved.no_room,
        "all_sent": all_sent,
        **losses(way.source, statistics),
        "target_reasons": drop_reasons(sending),
        "passed": counters.get("passed"),
    }


def _conclude(report: dict[str, Any]) -> None:
    for way in report["directions"]:
        _conclude_direction(way, max(report["seconds"], 1e-9))


def _conclude_direction(report: dict[str, Any], seconds: float) -> None:
    ours = Statistics(**report["drop_reasons"])
    theirs = Statistics(**report["target_reasons"])
    # What concerns sending is counted by the sockets of the other end.
    merged = ours._replace(tx_invalid_descs=theirs.tx_invalid_descs, tx_ring_empty_descs=theirs.tx_ring_empty_descs)
    sent = {"forwarded": report["forwarded"], "edited out": report["edited_out"], "no room": report["no_room"]}
    lines = [
        f"{report['from']} → {report['to']}: {report['forwarded']:,} packets in {seconds:.1f} s "
        f"({output.count(report['forwarded'] / seconds)} packets/s, {output.bits(report['octets'] * 8 / seconds)})",
        *([f"passed on to the kernel: {report['passed']:,}"] if report["passed"] else []),
        output.equation("redirected", report["redirected"], {key: report[key] for key in ("received", "dropped")}),
        output.equation("received", report["received"], sent),
    ]
    if report["checksums_finished"]:
        lines.append(f"checksums finished that the sender had left to its device: {report['checksums_finished']:,}")
    if not report["all_sent"]:
        lines.append(f"some of them still wait in the TX ring of {report['to']}: is it up, and has it a carrier?")
    output.say(*lines, *loss_lines(report, reasons=merged, sending=True))
