# SPDX-License-Identifier: Apache-2.0
"""Replace a program that is attached, and restore it at the end.

A program that was attached by netlink (`ip link set dev NAME xdp`, xdp-tools: a firewall perhaps) would be lost,
because nothing attaches it again. So before it is detached it is pinned, with a record of where it was, and it is
restored when our program ends. If a process is killed, the next one that attaches to that interface restores it, or
repair() does.

A program that another process holds by a link is lost for good, because a link cannot be restored. That is done only
with replace="link".
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import socket
from typing import Literal

from toolkit._base import fork
from toolkit._base.arguments import one_of
from toolkit._base.netns import entered, open_own
from toolkit._base.records import Guard, Record, Records, namespaces, netns_here
from toolkit._base.uninterrupted import afterwards, uninterrupted
from toolkit.abi import libbpf as abi
from toolkit.errors import ToolkitError, kernel_error
from toolkit.net.device import describe
from toolkit.program import pins, query
from toolkit.program.loss import Location
from toolkit.program.removal import mode_flags, take_off

__all__ = ["Replace", "Replaced", "as_text", "check_replace", "left", "put_back_after", "repair", "take_place"]

# False: refuse if a program is attached. True: replace one that can be restored. "link": also one that a link holds.
Replace = bool | Literal["link"]

_KIND = "program"  # of the records
_RELEASED = -1  # instead of the process's start: it has ended, and could not yet restore the program

_guard = Guard(_KIND)


def check_replace(replace: Replace) -> None:
    """Raise ArgumentError for a value that is not allowed."""
    one_of("replace", replace, True, False, "link")


class Replaced:
    """A program that was detached for one of ours. comes_back: whether put_back() can restore it."""

    def __init__(self, interface: str, taken: query.Attached, record: Record | None, program: int = -1) -> None:
        """Make it, in the network namespace of the interface. record: of a program that comes back; program: its fd.

        The descriptor is kept, because others may remove the pin, or unmount the file system.
        """
        self.interface = interface
        self.taken = taken
        self.comes_back = record is not None
        self._record = record
        self._program = program
        self._netns = open_own()  # -1 when it is done
        fork.track(self)

    def fileno(self) -> int:
        """Return a descriptor of the interface's network namespace, for entered()."""
        return self._netns

    def follow(self, link: query.XdpLink | None) -> None:
        """Go to where the interface is now, if somebody moved it into another network namespace. Before `link` ends.

        The program that `link` runs there tells it from any other interface.
        """
        if self._record is None or self._netns < 0 or link is None or not link.ifindex:
            return
        with contextlib.suppress(ToolkitError, OSError):
            with entered(self):
                if self._runs(link):
                    return
            for path in namespaces():
                with contextlib.suppress(ToolkitError, OSError), entered(path):
                    if self._runs(link):
                        self._move(link.ifindex)
                        return

    def _runs(self, link: query.XdpLink) -> bool:
        """Whether that interface of this namespace runs the link's program, and is the one that we know."""
        with contextlib.suppress(OSError):
            mac = describe(socket.if_indextoname(link.ifindex)).mac.hex()
            known = self._record is not None and self._record.before["mac"] == mac
            return known and link.program_id in query.attached_ids(link.ifindex)
        return False

    def _move(self, ifindex: int) -> None:
        """Put back in this namespace, on interface `ifindex`, from now on; the record says the same."""
        assert self._record is not None
        netns, cookie = netns_here()
        name = socket.if_indextoname(ifindex)
        before, self._netns = self._netns, open_own()
        os.close(before)
        self.interface, self.taken = name, dataclasses.replace(self.taken, ifindex=ifindex)
        self._record = self._record._replace(interface=name, ifindex=ifindex, netns=netns, cookie=cookie)

    def put_back(self) -> None:
        """Restore the program, and those that earlier processes left; log the result. Ours is detached. Repeatable."""
        if self._netns < 0:
            return
        if _guard.mine:  # a finalizer that runs inside of this very function
            _guard.finalize(self._put_back)
        else:

            def work() -> None:
                with _guard.locked() as records:
                    self._put_back(records)

            uninterrupted(work)

    def _put_back(self, records: Records) -> None:
        if self._netns < 0:
            return
        try:
            with entered(self):
                _say(*_outcomes(_repair(records, self.taken.ifindex, self._record, self._program)))
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Forget the program: there is nothing to restore any more."""
        netns, program, self._netns, self._program = self._netns, self._program, -1, -1
        for fd in (netns, program):
            if fd >= 0:
                os.close(fd)

    def _after_fork_in_child(self) -> None:
        _guard.renew()
        self.let_go()


def take_place(interface: str, ifindex: int, replace: Replace) -> Replaced | None:
    """Detach the program of `interface` in this network namespace, and log that; None if there is none.

    First the program that a killed process detached there is restored. On OSError, ArgumentError nothing has changed.
    """
    _put_back_left(ifindex)
    if not replace:
        return None
    present = query.attached(ifindex)
    if present is None:
        return None
    tried = f"cannot take the place of {present} on {interface}"
    if present.link_ids is None:
        raise kernel_error("attach", errno.EPERM, tried)
    if not present.link_ids:
        with _guard.locked() as records:
            return _take_netlink(interface, present, records)
    if replace != "link" and query.held_here(present.link_ids):
        remedy = "close() the Interface, Tee or Link that this process opened before"
        raise kernel_error("attach", errno.EBUSY, tried, cause="this process holds it", remedy=remedy)
    if replace != "link":
        raise kernel_error(
            "attach",
            errno.EBUSY,
            tried,
            cause="a link holds it, and what a link held cannot be put back afterwards",
            remedy="end the process that holds it (`xsk status` names it); or take its place for good with "
            '`replace="link"`',
        )
    take_off(interface, present)
    _say(f"{interface}: took off {present}, for good: a link's program cannot be put back")
    return Replaced(interface, present, None)


def _take_netlink(interface: str, present: query.Attached, records: Records) -> Replaced:
    tried = f"cannot take the place of {present} on {interface} and keep it for the end"
    netns, cookie = netns_here()
    before = {
        "id": present.program.id,
        "name": present.program.name,
        "mode": present.mode,
        "mac": describe(interface).mac.hex(),
    }
    record = records.new(interface, present.ifindex, netns, cookie, before, {})
    fd = abi.libbpf().bpf_prog_get_fd_by_id(present.program.id)
    if fd < 0:
        raise kernel_error("prog_get_fd_by_id", fd, tried)
    try:
        replaced = Replaced(interface, present, record, fd)
    except BaseException:
        os.close(fd)
        raise
    try:
        records.write(record)  # before the change: if the process is killed, a record too many is left
        pins.pin(fd, _pin(record), tried)
        take_off(interface, present)
    except BaseException:
        _forget(record, records)
        replaced.let_go()
        raise
    _say(f"{interface}: took off {present}; it is put back at the end")
    return replaced


def _pin(record: Record) -> str:
    return record.name.removesuffix(".json")


def _forget(record: Record, records: Records) -> None:
    with contextlib.suppress(OSError):
        pins.unpin(_pin(record))
    records.remove(record)


def as_text(record: Record) -> str:
    """Return the program of a record as text."""
    return f"program {record.before['id']} ({record.before['name'] or 'no name'}), {record.before['mode']},"


def left() -> list[Record]:
    """Return the programs that were detached in this network namespace and not yet restored, newest first.

    Including those of living processes, which restore them themselves (Record.alive). Changes nothing.
    """
    found = Records(_KIND).all()
    here = netns_here()[1] if found else 0
    return [record for record in reversed(found) if record.cookie == here]


def repair() -> list[tuple[Record, str]]:
    """Restore programs that killed processes detached in this network namespace: (record, result as text) for each.

    PrivilegeError without root, if there is any.
    """

    def work() -> list[tuple[Record, str]]:
        with _guard.locked() as records:
            for record in records.forget_namespaces():
                pins.unpin(_pin(record))
            return _repair(records)

    return uninterrupted(work) if Records(_KIND).all() else []


def put_back_after(location: Location) -> None:
    """Restore programs that were left, after a program of ours that was in their way is detached."""

    def work() -> None:
        with location.home.entered() as reached, contextlib.suppress(ToolkitError, OSError):
            if reached:
                _put_back_left(location.ifindex)

    # Not in a finalizer that runs inside of this very function: the next call does it.
    if not _guard.mine and Records(_KIND).all():
        uninterrupted(work)


def _put_back_left(ifindex: int) -> None:
    """Restore programs that were left on this interface, if permitted, and log the result."""
    if any(record.ifindex == ifindex and not record.alive for record in left()):
        with contextlib.suppress(ToolkitError), _guard.locked() as records:
            _say(*_outcomes(_repair(records, ifindex)))


def _say(*lines: str) -> None:
    import logging

    for line in lines:
        afterwards(functools.partial(logging.getLogger("toolkit.replaced").warning, line))


def _outcomes(done: list[tuple[Record, str]]) -> list[str]:
    return [f"{record.interface}: {as_text(record)} {outcome}" for record, outcome in done]


def _repair(
    records: Records, ifindex: int | None = None, mine: Record | None = None, program: int = -1
) -> list[tuple[Record, str]]:
    """Restore `mine`, of which `program` is a descriptor, and those without a living process, newest first."""
    found = [one for one in left() if mine is None or one.name != mine.name]
    wanted = [one for one in found if not one.alive and ifindex in (None, one.ifindex)]
    done: list[tuple[Record, str]] = []
    for record in [mine, *wanted] if mine else wanted:
        keep, outcome = _restore(record, program if record is mine else -1)
        if not keep:
            _forget(record, records)
        elif record is mine:
            records.write(record._replace(pid=0, started=_RELEASED))  # without a process from here on
        done.append((record, outcome))
    return done


def _restore(record: Record, program: int) -> tuple[bool, str]:
    """Restore one program; return (whether to keep the record, result as text). program: its descriptor, or -1."""
    name = _name_today(record)
    if not name:
        return False, (
            "is not put back: the interface is gone from this network namespace. If it was moved to another one, "
            "attach the program again there"
        )
    present = query.attached(record.ifindex)
    if present is None:
        try:
            fd = pins.pinned(_pin(record)) if program < 0 else os.dup(program)
        except OSError as refused:
            return False, f"cannot be put back: its pin is gone ({refused.strerror})"
        try:
            flags = mode_flags(record.before["mode"]) | abi.XDP_FLAGS_UPDATE_IF_NOEXIST
            result = abi.libbpf().bpf_xdp_attach(record.ifindex, fd, flags, None)
        finally:
            os.close(fd)
        if result == 0:
            return False, f"is back on {name}"
        if -result not in (errno.EBUSY, errno.EEXIST):
            return True, f"could not be put back on {name}: {os.strerror(-result)}; `xsk detach {name}` tries again"
        present = query.attached(record.ifindex)
    if present is None or present.link_ids or present.link_ids is None:
        return True, f"is not back yet: {present or 'another program'} is there; after that, `xsk detach {name}`"
    if present.program.id == record.before["id"]:
        return False, f"is on {name} already"
    return False, f"is not put back: somebody attached {present} meanwhile"


def _name_today(record: Record) -> str:
    """Return the interface's present name; "" if it is gone. Its index may have been reused for another one."""
    with contextlib.suppress(OSError):
        name = socket.if_indextoname(record.ifindex)
        if name == record.interface or describe(name).mac.hex() == record.before["mac"]:
            return name
    return ""
