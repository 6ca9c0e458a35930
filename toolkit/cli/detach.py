# SPDX-License-Identifier: Apache-2.0
"""`xsk detach`: takes an XDP program off an interface, after showing what it is; repairs what a killed process left.

What nobody uses any more goes at once: a program that was attached by netlink and that no process holds. What somebody
may rely on needs --force: a program held by a link, or one whose descriptor a process holds, or xdp-tools' dispatcher,
which stays on purpose.
"""

from __future__ import annotations

import ctypes
import os

from toolkit.abi import libbpf as abi
from toolkit.cli import output
from toolkit.cli.options import namespace
from toolkit.device import describe
from toolkit.errors import ToolkitError, kernel_error
from toolkit.netns import entered
from toolkit.program import Attached, attached
from toolkit.status import Holder, collect

__all__ = ["run"]

_FLAGS = {"native": abi.XDP_FLAGS_DRV_MODE, "generic": abi.XDP_FLAGS_SKB_MODE, "offload": 1 << 3}
_DISPATCHER = "xdp_dispatcher"  # what libxdp attaches for several programs at once, and pins


def run(interface: str, *, force: bool, netns: str | None, as_json: bool) -> int:
    """Detach, say what was done; 1 when it was refused."""
    with entered(namespace(netns)):
        ifindex = describe(interface).ifindex
        repaired = _repair()
        found = attached(ifindex)
        report: dict[str, object] = {"interface": interface, "detached": [], "repaired": repaired, "refused": None}
        if found is not None:
            report.update(_detach(interface, found, force=force))
    if as_json:
        output.print_json(report)
    else:
        _tell(interface, report)
    return 1 if report["refused"] else 0


def _detach(interface: str, found: Attached, *, force: bool) -> dict[str, object]:
    """Take off what is there, mode by mode: {"detached": what} or {"refused": why}."""
    gone: list[str] = []
    while True:
        holders = _holders(interface)
        why = "" if force and found.link_ids is not None else _in_use(found, holders)
        if why:
            return {"detached": gone, "refused": why}
        if found.link_ids:
            _detach_link(interface, found)
        else:
            _detach_netlink(interface, found)
        gone.append(str(found))
        left = attached(found.ifindex)
        if left is None:
            return {"detached": gone, "refused": None}
        if str(left) == str(found):
            raise ToolkitError(f"the kernel detached {found} from {interface}, and it is there still")
        found = left


def _holders(interface: str) -> tuple[Holder, ...]:
    return next((one.holders for one in collect().interfaces if one.interface == interface), ())


def _in_use(found: Attached, holders: tuple[Holder, ...]) -> str:
    """Why it should stay, unless told otherwise; "" when nobody uses it any more."""
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
            "Next step: `xdp-loader unload NAME --all`, which also cleans up; or --force."
        )
    return ""


def _detach_link(interface: str, found: Attached) -> None:
    links = found.link_ids or ()
    if len(links) > 1:
        raise ToolkitError(
            f"cannot detach {found} from {interface}: the kernel does not say which of these links is this "
            "interface's, the others are on interfaces of the same number in other network namespaces. "
            "Next step: end the process that holds it (`xsk status`)."
        )
    fd = abi.libbpf().bpf_link_get_fd_by_id(links[0])
    if fd < 0:
        raise kernel_error("link_get_fd_by_id", fd, f"cannot detach {found} from {interface}")
    try:
        result = abi.libbpf().bpf_link_detach(fd)
    finally:
        os.close(fd)
    if result < 0:
        raise kernel_error("link_detach", result, f"cannot detach {found} from {interface}")


def _detach_netlink(interface: str, found: Attached) -> None:
    """Only what was shown: if another program took its place meanwhile, the kernel refuses (EEXIST)."""
    tried = f"cannot detach {found} from {interface}"
    fd = abi.libbpf().bpf_prog_get_fd_by_id(found.program.id)
    if fd < 0:
        raise kernel_error("prog_get_fd_by_id", fd, tried)
    try:
        options = abi.XdpAttachOpts(
            sz=ctypes.sizeof(abi.XdpAttachOpts), old_prog_fd=fd
        )  # libbpf adds XDP_FLAGS_REPLACE
        result = abi.libbpf().bpf_xdp_detach(found.ifindex, _FLAGS.get(found.mode, 0), ctypes.byref(options))
    finally:
        os.close(fd)
    if result < 0:
        raise kernel_error("xdp_detach", result, tried, cause="another program took its place meanwhile")


def _repair() -> list[str]:
    """Give back the interrupts that a busy-polling process deferred and, killed, did not restore."""
    from toolkit.napi import as_text, repair

    return [f"{as_text(record)}: {outcome}" for record, outcome in repair()]


def _tell(interface: str, report: dict[str, object]) -> None:
    import click

    repaired, gone = report["repaired"], report["detached"]
    assert isinstance(repaired, list)
    assert isinstance(gone, list)
    for one in repaired:
        click.echo(f"repaired: {one}")
    for one in gone:
        click.echo(f"{interface}: detached {one}")
    if report["refused"]:
        click.echo(f"xsk: {interface}: {report['refused']}", err=True)
    elif not gone:
        click.echo(f"{interface}: no XDP program is attached")
