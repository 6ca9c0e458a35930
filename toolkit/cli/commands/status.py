# SPDX-License-Identifier: Apache-2.0
"""`xsk status`: what is attached where, and who holds it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket

import cloup

from toolkit._base.netns import NetNS, entered
from toolkit.cli import options as opt
from toolkit.cli.command import command
from toolkit.cli.view import output
from toolkit.doctor.status import Holder, InterfaceStatus, SocketStatus, Status, collect
from toolkit.net.netdev import taken_queues
from toolkit.program.replaced import as_text, left

__all__ = ["run", "status"]

_WHO = 60  # characters of a command line that are shown


@command(
    cloup.option_group(
        "What to show",
        cloup.option("-a", "--all", "everything", is_flag=True, help="Show interfaces without a program as well."),
        opt.JSON,
    ),
    cloup.option_group("Where", opt.NETNS),
    places=(),
    examples=(("xsk status", "what is attached, and whose it is"), ("xsk status --json", "for programs")),
    matters=("--all", "--netns", "--json"),
)
def status(*, as_json: bool, everything: bool, netns: str | None) -> int:
    """Show the XDP program on every interface, which process holds it, and every AF_XDP socket with its drops.

    A program held by a link goes when its process ends; one attached by netlink (ip link, bpftool, older tools) stays
    until it is detached: `ip link set dev NAME xdp off`. The command changes nothing, and keeps no program alive.
    """
    return run(as_json=as_json, everything=everything, netns=opt.namespace(netns))


def run(*, as_json: bool, everything: bool, netns: NetNS = None) -> int:
    """Print the status of a network namespace; the exit code."""
    with entered(netns):
        found = collect()
        taken = {one.interface: _taken(one) for one in found.interfaces}
        replaced = left()
    if as_json:
        report = dataclasses.asdict(found)
        for one in report["interfaces"]:
            one["taken_queues"] = taken[one["interface"]]
        report["replaced"] = [
            {"interface": one.interface, **one.before, "pid": one.pid, "comes_back": one.alive} for one in replaced
        ]
        output.print_json(report)
        return 0
    _print_interfaces(found, everything=everything)
    for name, queues in taken.items():
        if queues and not any(one.interface == name for one in found.sockets):  # sock_diag says more
            several = "queues" if len(queues) > 1 else "queue"
            print(f"{several} {', '.join(map(str, queues))} of {name}: taken by an AF_XDP socket")
    for one in found.interfaces:
        if one.promiscuity:
            times = "" if one.promiscuity == 1 else f" ({one.promiscuity} times)"
            print(f"{one.interface} is promiscuous{times}: packets to all addresses come in")
    for record in replaced:
        then = f"put back when pid {record.pid} ends" if record.alive else f"not back: `xsk detach {record.interface}`"
        print(f"{record.interface}: {as_text(record)} was taken off by --replace, {then}")
    _print_sockets(found.sockets)
    for link in found.elsewhere:
        holders = ", ".join(f"pid {holder['pid']} ({holder['command']})" for holder in link["holders"]) or "unknown"
        print(f"link {link['link_id']} (program {link['program_id']}) in another network namespace, held by {holders}")
    if os.geteuid() != 0:
        output.say("xsk: note: not root: links, sockets and processes of others cannot be seen")
    return 0


def _taken(one: InterfaceStatus) -> list[int]:
    """Return the queues that AF_XDP sockets of any process hold. Newer kernels report them without sock_diag."""
    with contextlib.suppress(OSError):
        return taken_queues(socket.if_nametoindex(one.interface), one.queues)
    return []


def _who(holders: tuple[Holder, ...]) -> str:
    return ", ".join(f"{holder.pid} {holder.command[:_WHO]}" for holder in holders)


def _print_interfaces(found: Status, *, everything: bool) -> None:
    from rich.table import Table

    shown = [one for one in found.interfaces if everything or one.program_id is not None]
    if not shown:
        print(f"no XDP program on any of {len(found.interfaces)} interfaces")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("interface", "driver", "queues", "XDP program", "mode", "held by"):
        table.add_column(title, overflow="fold")
    for one in shown:
        driver = one.driver if one.link == "Ethernet" else f"{one.driver} (no Ethernet: {one.link})"
        table.add_row(one.interface, driver, str(one.queues), *_program_cells(one))
    output.show(table)


def _program_cells(one: InterfaceStatus) -> tuple[str, str, str]:
    if one.program_id is None:
        return "-", "-", ""
    name = f"{one.program or 'no name'} (id {one.program_id})"
    if one.outlives:
        return name, one.mode or "", f"netlink: stays until `ip link set dev {one.interface} xdp off`"
    if one.link_ids is None:
        return name, one.mode or "", "cannot be seen without root (CAP_SYS_ADMIN)"
    return name, one.mode or "", f"link {one.link_ids[0]}: {_who(one.holders) or 'pinned, or a process we cannot see'}"


def _print_sockets(sockets: list[SocketStatus]) -> None:
    for one in sockets:
        who = "a process that we cannot see"
        if one.holder is not None:
            who = f"pid {one.holder.pid} ({one.holder.command[:_WHO]})"
        print(f"AF_XDP socket of {who}: {_about(one)}")


def _about(one: SocketStatus) -> str:
    """Where it is bound and what it dropped, as far as this kernel says so."""
    where = f"queue {one.queue} of {one.interface}" if one.interface else "not said by this kernel on which queue"
    parts = [where]
    if one.zero_copy is not None:
        parts.append("zero-copy" if one.zero_copy else "copy mode")
    if one.statistics is not None:
        drops = {name: value for name, value in one.statistics.items() if value and name in output.DROP_REASONS}
        parts.append(", ".join(f"{name} {value:,}" for name, value in drops.items()) or "no drops")
    return ", ".join(parts)
