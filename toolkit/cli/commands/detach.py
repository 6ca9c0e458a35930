# SPDX-License-Identifier: Apache-2.0
"""`xsk detach`: takes an XDP program off an interface, after showing what it is; cleans up after a killed process.

A program that was attached by netlink may be a firewall, so it is taken off only by its id or name. A program that is
in use needs --force: one that a link or a process holds, or xdp-tools' dispatcher, which stays on purpose.
"""

from __future__ import annotations

import contextlib

import click
import cloup

from toolkit._base.netns import entered
from toolkit.cli import options as opt
from toolkit.cli.command import command
from toolkit.cli.view import output
from toolkit.doctor.status import Holder, collect
from toolkit.errors import ToolkitError
from toolkit.net.device import describe
from toolkit.program import Attached, attached
from toolkit.program.removal import take_off
from toolkit.program.replaced import as_text, repair

__all__ = ["detach", "put_back", "run"]

_DISPATCHER = "xdp_dispatcher"  # what libxdp attaches for several programs at once, and pins


@command(
    cloup.option_group(
        "What to take off",
        cloup.option(
            "--program", metavar="ID", help="Take off this program, by its id or name, if no process has it open."
        ),
        cloup.option("--force", is_flag=True, help="Take off the program, even if a process still uses it."),
    ),
    cloup.option_group("What to show", opt.JSON),
    opt.where(queues=False),
    examples=(
        ("xsk detach eth0", "clean up, and say what is attached"),
        ("xsk detach eth0 --program 42", "take this program off"),
    ),
    matters=("--program", "--force", "--netns", "--json"),
)
def detach(interface: str, *, program: str | None, force: bool, netns: str | None, as_json: bool) -> int:
    """Clean up after a killed process, and take the XDP program off INTERFACE, whoever attached it.

    After a killed process of this toolkit, the program that it took off with --replace is put back, and interrupts that
    it deferred for busy-polling are restored.

    Then the program on INTERFACE is named. It stays, because it may be a firewall, unless --program or --force is
    given. --program takes off a program that was attached by netlink. --force also takes off one that a process or a
    link holds, or that xdp-tools keeps. (A program of this toolkit goes with its process, by itself.)
    """
    return run(interface, program=program, force=force, netns=netns, as_json=as_json)


def put_back() -> None:
    """Put back programs that killed processes took off interfaces of this network namespace, if we may, and say so."""
    with contextlib.suppress(ToolkitError, OSError):
        for record, outcome in repair():
            output.say(f"xsk: {record.interface}: {as_text(record)} {outcome}")


def run(interface: str, *, program: str | None, force: bool, netns: str | None, as_json: bool) -> int:
    """Detach, and say what was done. Return the exit code: 1 if it was refused."""
    with entered(opt.namespace(netns)):
        ifindex = describe(interface).ifindex
        repaired = _deferrals()
        returned = repair()
        repaired += [f"{record.interface}: {as_text(record)} {outcome}" for record, outcome in returned]
        found = attached(ifindex)
        report: dict[str, object] = {"interface": interface, "detached": [], "repaired": repaired, "refused": None}
        here = [record for record, _ in returned if record.ifindex == ifindex]
        if found is not None and (program is not None or force or not here):
            report.update(_detach(interface, found, program, force=force))
    if as_json:
        output.print_json(report)
    else:
        _say(interface, report, attached=found is not None)
    return 1 if report["refused"] else 0


def _detach(interface: str, found: Attached, program: str | None, *, force: bool) -> dict[str, object]:
    """Take off the program of each mode. Return {"detached": what, "refused": why it stopped, or None}."""
    gone: list[str] = []
    while True:
        why = _refusal(interface, found, program, force=force)
        if why:
            return {"detached": gone, "refused": why}
        take_off(interface, found)
        gone.append(str(found))
        left = attached(found.ifindex)
        if left is None:
            return {"detached": gone, "refused": None}
        if str(left) == str(found):
            raise ToolkitError(
                f"the kernel detached {found} from {interface}, and it is there still. Likely cause: another process "
                "attaches it again. Next step: `xsk status` shows whose it is."
            )
        found = left


def _refusal(interface: str, found: Attached, program: str | None, *, force: bool) -> str:
    """Return why the program stays; "" if it is to be taken off."""
    if program is not None and program not in (str(found.program.id), found.program.name):
        return f"not {program} is attached, but {found}. It stays."
    if force and found.link_ids is not None:
        return ""
    why = _in_use(interface, found, _holders(interface))
    if why or program is not None:
        return why
    return (
        f"{found} was attached by netlink, which is how a firewall is: it stays on purpose. Next step: if it may go, "
        f"`xsk detach {interface} --program {found.program.id}`."
    )


def _holders(interface: str) -> tuple[Holder, ...]:
    return next((one.holders for one in collect().interfaces if one.interface == interface), ())


def _in_use(interface: str, found: Attached, holders: tuple[Holder, ...]) -> str:
    """Return why the program should stay unless --force is given; "" if no process uses it any more."""
    if found.link_ids is None:
        return f"who holds {found} cannot be seen. Next step: run as root (sudo)."
    who = ", ".join(f"pid {holder.pid} ({holder.command[:60]})" for holder in holders)
    if who:
        return f"{found} is in use by {who}. Next step: end that process; or take it off under its feet with --force."
    if found.link_ids:
        return f"{found} is pinned, or held by a process that we cannot see. Next step: if it may go, --force."
    if found.program.name.startswith(_DISPATCHER):
        return (
            f"{found} belongs to xdp-tools, which leaves it there on purpose. "
            f"Next step: `xdp-loader unload {interface} --all`, which also cleans up; or --force."
        )
    return ""


def _deferrals() -> list[str]:
    """Restore interrupts that a killed process had deferred for busy-polling."""
    from toolkit.net import napi

    return [f"{napi.as_text(record)}: {outcome}" for record, outcome in napi.repair()]


def _say(interface: str, report: dict[str, object], *, attached: bool) -> None:
    repaired, gone = report["repaired"], report["detached"]
    assert isinstance(repaired, list)
    assert isinstance(gone, list)
    for one in repaired:
        click.echo(f"repaired: {one}")
    for one in gone:
        click.echo(f"{interface}: detached {one}")
    if report["refused"]:
        output.say(f"xsk: {interface}: {report['refused']}")
    elif not attached:
        click.echo(f"{interface}: no XDP program is attached")
