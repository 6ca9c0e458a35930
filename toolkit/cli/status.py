# SPDX-License-Identifier: Apache-2.0
"""`xsk status`: what is attached where, and who holds it."""

from __future__ import annotations

import dataclasses
import os

from toolkit.cli import output
from toolkit.status import Holder, InterfaceStatus, SocketStatus, Status, collect

__all__ = ["run"]


def run(*, as_json: bool, everything: bool) -> int:
    """Print the status; the exit code."""
    found = collect()
    if as_json:
        output.print_json(dataclasses.asdict(found))
        return 0
    _print_interfaces(found, everything=everything)
    _print_sockets(found.sockets)
    for link in found.elsewhere:
        holders = ", ".join(f"pid {holder['pid']} ({holder['command']})" for holder in link["holders"]) or "unknown"
        print(f"link {link['link_id']} (program {link['program_id']}) in another network namespace, held by {holders}")
    if os.geteuid() != 0:
        print("(not root: links, sockets and processes of others cannot be seen)")
    return 0


def _who(holders: tuple[Holder, ...]) -> str:
    return ", ".join(f"{holder.pid} {holder.command[:40]}" for holder in holders)


def _print_interfaces(found: Status, *, everything: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = [one for one in found.interfaces if everything or one.program_id is not None]
    if not shown:
        print(f"no XDP program on any of {len(found.interfaces)} interfaces")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("interface", "driver", "queues", "XDP program", "mode", "held by"):
        table.add_column(title, overflow="fold")
    for one in shown:
        table.add_row(one.interface, one.driver, str(one.queues), *_program_cells(one))
    Console(highlight=False, markup=False).print(table)


def _program_cells(one: InterfaceStatus) -> tuple[str, str, str]:
    if one.program_id is None:
        return "-", "-", ""
    name = f"{one.program or 'no name'} (id {one.program_id})"
    if one.outlives:
        return name, one.mode or "", f"netlink: stays until `ip link set dev {one.interface} xdp off`"
    if one.link_ids is None:
        return name, one.mode or "", "not told without root (CAP_SYS_ADMIN)"
    return name, one.mode or "", f"link {one.link_ids[0]}: {_who(one.holders) or 'pinned, or a process we cannot see'}"


def _print_sockets(sockets: list[SocketStatus]) -> None:
    for one in sockets:
        where = f"queue {one.queue} of {one.interface}" if one.interface else "interface not told by this kernel"
        copying = "zero-copy" if one.zero_copy else "copy mode"
        told = {name: value for name, value in one.statistics.items() if value and name in output.DROP_REASONS}
        drops = ", ".join(f"{name} {value:,}" for name, value in told.items()) or "no drops"
        print(f"AF_XDP socket of pid {one.holder.pid} ({one.holder.command[:40]}): {where}, {copying}, {drops}")
