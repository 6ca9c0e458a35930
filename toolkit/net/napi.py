# SPDX-License-Identifier: Apache-2.0
"""NAPI settings: defer an interface's interrupts while a process busy-polls, and restore the settings afterwards.

napi_defer_hard_irqs and gro_flush_timeout belong to the interface, not to a socket: the kernel does not restore them
when a process ends. So the first process that sets them writes a record in /run/afxdp-toolkit, with the earlier values,
and the last one restores these. After a killed process, the next Deferral on that interface takes over its record;
leftovers() and repair() find it too, each in its own network namespace.

Settings of single NAPI instances (netdev netlink, Linux 6.13) are overwritten by those of the interface, and are not
restored.
"""

from __future__ import annotations

import errno
import socket

from toolkit._base import fork
from toolkit._base.records import Guard, Record, Records, netns_here
from toolkit._base.uninterrupted import uninterrupted
from toolkit.errors import SystemCallError, kernel_error
from toolkit.net.sysfs import InterfaceDirectory

__all__ = ["DEFERRAL", "Deferral", "as_text", "leftovers", "repair"]

_KIND = "napi"  # of its records

# What the kernel's documentation of AF_XDP busy polling uses: after two polls that found nothing, or 200 us without
# anybody polling, the interrupts come back.
DEFERRAL = {"napi_defer_hard_irqs": 2, "gro_flush_timeout": 200_000}  # counts of polls; ns

_guard = Guard(_KIND)


class Deferral:
    """One holder of an interface's NAPI deferral: set when it is made, restored when the last holder calls restore().

    Thread-safe. A setting that was changed by others meanwhile is not restored.
    """

    def __init__(self, interface: str) -> None:
        """Defer the interrupts of `interface`, in the calling thread's network namespace.

        SystemCallError: no such interface (ENODEV), no privilege (EPERM, EACCES, EROFS).
        """
        self._record: Record | None = None  # while it is held
        self._directory = InterfaceDirectory(interface)
        fork.track(self)
        try:
            with _guard.locked() as records:
                self._take(interface, records)
        except OSError as refused:
            self._directory.close()
            if isinstance(refused, SystemCallError):
                raise
            raise _refused(refused, interface) from None
        except BaseException:
            self._directory.close()
            raise

    def _take(self, interface: str, records: Records) -> None:
        now = {name: self._directory.read(name) for name in DEFERRAL}
        netns, cookie = netns_here()
        record = records.new(interface, socket.if_nametoindex(interface), netns, cookie, now, dict(DEFERRAL))
        others = [other for other in records.all() if other.same_interface(record)]
        held = [other for other in others if other.alive or other.wanted == now]
        if held:  # what was there before the first of us
            record = record._replace(before=held[0].before)
        records.write(record)  # before the change: killed in between, there is a record too many, not one too few
        self._record = record
        try:
            for name, value in DEFERRAL.items():
                self._directory.write(name, value)
        except BaseException:
            _put_back(self._directory, record, records)
            self._record = None
            raise
        for other in others:
            if not other.alive:
                records.remove(other)

    def restore(self) -> None:
        """End this holder; the last one restores the interface. Repeatable. SystemCallError when the kernel refuses."""
        with _guard.locked() as records:
            self._let_go(records)

    def finalize(self) -> None:
        """Do restore() for an owner that was garbage-collected: later, if this thread is inside a lock already."""
        _guard.finalize(self._let_go)

    def _let_go(self, records: Records) -> None:
        record = self._record
        if record is None:
            return
        try:
            _put_back(self._directory, record, records)
        except OSError as refused:
            raise _refused(refused, record.interface) from None
        self._record = None
        self._directory.close()

    def __enter__(self) -> Deferral:
        """Restore at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore."""
        self.restore()

    def _after_fork_in_child(self) -> None:
        _guard.renew()
        self._record = None
        self._directory.close()


def _put_back(directory: InterfaceDirectory, record: Record, records: Records) -> str:
    """Restore one record's interface unless another process holds it still, and remove the record; what came of it."""
    others = [other for other in records.all() if other.same_interface(record) and other.name != record.name]
    others = [other for other in others if other.alive]
    outcome = "held by another process"
    try:
        if not others:
            outcome = _write_back(directory, record)
    except OSError as refused:
        if refused.errno not in (errno.ENODEV, errno.ENOENT):
            raise
        outcome = "gone"
    records.remove(record)
    return outcome


def _write_back(directory: InterfaceDirectory, record: Record) -> str:
    outcome = "restored"
    for name, wanted in record.wanted.items():
        now = directory.read(name)
        if now == wanted:
            directory.write(name, record.before[name])
        elif now != record.before[name]:
            outcome = "changed by somebody else meanwhile, and left as it is"
    return outcome


def _refused(refused: OSError, interface: str) -> SystemCallError:
    return kernel_error(
        "napi",
        refused.errno or errno.EIO,
        f"cannot change the NAPI deferral of {interface} (napi_defer_hard_irqs, gro_flush_timeout in sysfs)",
        cause="that needs root; in a container /sys may be read-only"
        if refused.errno in (errno.EPERM, errno.EACCES, errno.EROFS)
        else "",
        remedy='run as root (sudo), or take `wait="spin"` or `wait="poll"`',
    )


def leftovers() -> list[Record]:
    """Return the settings that ended processes have left on interfaces of the calling thread's network namespace.

    Changes nothing. Without root the list is empty.
    """
    return [record for record in _orphans(Records(_KIND)) if _name_of(record)]


def repair() -> list[tuple[Record, str]]:
    """Restore what processes that are gone have left set in the calling thread's network namespace.

    (record, what came of it) for each: "restored", "held by another process" or "changed by somebody else meanwhile,
    and left as it is". PrivilegeError without root. Records of interfaces and of namespaces that are gone are removed
    without a word; other namespaces are left alone.
    """
    return uninterrupted(_repair) if Records(_KIND).all() else []


def as_text(record: Record) -> str:
    """Return as text what was left behind."""
    values = ", ".join(f"{name} {record.wanted[name]} instead of {was}" for name, was in record.before.items())
    return f"{record.interface}: {values}, set by process {record.pid}"


def _orphans(records: Records) -> list[Record]:
    _, here = netns_here()
    return [record for record in records.all() if record.cookie == here and not record.alive]


def _repair() -> list[tuple[Record, str]]:
    done: list[tuple[Record, str]] = []
    with _guard.locked() as records:
        records.forget_namespaces()
        for record in _orphans(records):
            name = _name_of(record)
            outcome = _repair_one(record, records, name) if name else "gone"
            records.remove(record)
            if outcome != "gone":
                done.append((record, outcome))
    return done


def _repair_one(record: Record, records: Records, interface: str) -> str:
    try:
        directory = InterfaceDirectory(interface)
    except OSError as refused:
        if refused.errno in (errno.ENODEV, errno.ENOENT):
            return "gone"  # just now
        raise
    try:
        return _put_back(directory, record, records)
    except OSError as refused:
        raise _refused(refused, interface) from None
    finally:
        directory.close()


def _name_of(record: Record) -> str:
    """The interface's name of today, "" where it is gone. In the record's network namespace."""
    try:
        return socket.if_indextoname(record.ifindex)
    except OSError:
        return ""
