# SPDX-License-Identifier: Apache-2.0
"""Records: what this toolkit changed on interfaces and has to restore, one file each in a directory of root.

A file is written before the change and removed after it was undone, so that another process can restore it if this one
is killed. /run is empty after a boot, when the kernel's settings are the defaults again.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from toolkit._base.netns import identity
from toolkit.errors import PrivilegeError, ToolkitError

__all__ = ["DIRECTORY", "Guard", "Record", "Records", "namespaces", "netns_gone", "netns_here"]

DIRECTORY = "/run/afxdp-toolkit"

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14
_FIRST_PID_SPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of include/linux/proc_ns.h: the machine's first pid namespace
_LOCK_TIMEOUT = 5.0  # seconds that another process may hold the lock
_serial = itertools.count()


class Record(NamedTuple):
    """One process's change of one interface."""

    name: str  # of the file
    interface: str  # its name when it was changed
    ifindex: int
    netns: int  # inode of the network namespace, as in /proc/PID/ns/net; may be reused
    cookie: int  # of the network namespace; never reused
    pid: int
    started: int  # when the process began, clock ticks since boot, because a pid may be reused
    before: dict[str, Any]  # the settings before the first process of this toolkit changed them
    wanted: dict[str, Any]  # the settings that this process made
    pid_space: int = 0  # inode of the process's pid namespace, in which alone the pid is valid

    def same_interface(self, other: Record) -> bool:
        """Return whether both are of the same interface."""
        return (self.cookie, self.ifindex) == (other.cookie, other.ifindex)

    @property
    def alive(self) -> bool:
        """Whether the process still exists, or may exist: not every pid namespace is visible from here."""
        if self.pid_space == _pid_space():
            return _started(self.pid) == self.started
        return _may_be_in(self.pid_space, self.started)


class Records:
    """The records of one kind ("napi", "program") on this machine. Lock before writing: see locked()."""

    def __init__(self, kind: str, directory: str | None = None) -> None:
        self._kind = kind
        self._directory = DIRECTORY if directory is None else directory

    @contextlib.contextmanager
    def locked(self) -> Iterator[Records]:
        """Lock out other processes during the block; make the directory if it is missing.

        PrivilegeError without permission, or when others may write there. Between threads, use a lock of your own.
        """
        fd = self._lock_file()
        try:
            deadline = time.monotonic() + _LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ToolkitError(
                            f"{self._directory}/lock is held by another process for {_LOCK_TIMEOUT:.0f} s. "
                            f"Next step: see who that is with `fuser {self._directory}/lock`."
                        ) from None
                    time.sleep(0.002)
            yield self
        finally:
            os.close(fd)

    def _lock_file(self) -> int:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._directory, 0o700)
            found = os.lstat(self._directory)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise PermissionError(1, "Operation not permitted")
            return os.open(f"{self._directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as refused:
            raise PrivilegeError(
                refused.errno or 1,
                f"cannot keep a record of what to restore in {self._directory}: {os.strerror(refused.errno or 1)}. "
                "Likely cause: it takes root, in a directory that nobody else may write to. "
                "Next step: run as root (sudo); if the directory is not root's, remove it.",
            ) from None

    def new(
        self, interface: str, ifindex: int, netns: int, cookie: int, before: dict[str, Any], wanted: dict[str, Any]
    ) -> Record:
        """Return a record of this process, not yet written."""
        pid = os.getpid()
        name = f"{self._kind}-{netns}-{ifindex}-{pid}-{next(_serial)}.json"
        started = _started(pid) or 0
        return Record(name, interface, ifindex, netns, cookie, pid, started, before, wanted, _pid_space())

    def write(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        import json
        from pathlib import Path

        from toolkit._base.access import Access
        from toolkit._base.careful import replace_text

        replace_text(Path(self._directory, record.name), json.dumps(record._asdict()), Access())

    def remove(self, record: Record) -> None:
        """Remove a record. Repeatable."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._directory}/{record.name}")

    def forget_namespaces(self) -> list[Record]:
        """Remove and return the records whose process and network namespace are both gone."""
        removed: list[Record] = []
        gone: dict[int, bool] = {}
        for record in self.all():
            if not record.alive:
                if record.netns not in gone:
                    gone[record.netns] = netns_gone(record.netns)
                if gone[record.netns]:
                    self.remove(record)
                    removed.append(record)
        return removed

    def all(self) -> list[Record]:
        """Return every readable record, oldest first."""
        found: list[tuple[float, Record]] = []
        with contextlib.suppress(OSError):
            for name in os.listdir(self._directory):
                if not (name.startswith(f"{self._kind}-") and name.endswith(".json")):
                    continue
                with (
                    contextlib.suppress(OSError, ValueError, TypeError, KeyError),
                    open(f"{self._directory}/{name}", encoding="ascii") as file,
                ):
                    import json

                    fields: dict[str, Any] = json.load(file)
                    found.append((os.fstat(file.fileno()).st_mtime, Record(**{**fields, "name": name})))
        return [record for _, record in sorted(found, key=lambda pair: pair[0])]


class Guard:
    """The lock of one kind of records, between threads and processes. Finalizers may use it at any moment."""

    def __init__(self, kind: str) -> None:
        """Make an open lock. kind: see Records."""
        self._kind = kind
        self.renew()

    def renew(self) -> None:
        """Reset it, in a forked child: the parent keeps its lock, and does what is left to do."""
        self._lock = threading.Lock()
        self._owner = 0  # ident of the thread that holds the lock
        self._left: deque[Callable[[Records], object]] = deque()  # to be done by the next holder, from finalizers

    @property
    def mine(self) -> bool:
        """Whether the calling thread holds the lock: a finalizer may run while it does."""
        return self._owner == threading.get_ident()

    @contextlib.contextmanager
    def locked(self) -> Iterator[Records]:
        """Hold the lock during the block; afterwards do what finalizers left to do."""
        with self._lock:
            self._owner = threading.get_ident()
            try:
                with Records(self._kind).locked() as records:
                    try:
                        yield records
                    finally:
                        while self._left:
                            with contextlib.suppress(OSError):
                                self._left.popleft()(records)
            finally:
                self._owner = 0

    def finalize(self, work: Callable[[Records], object]) -> None:
        """Do `work` with the lock held, for a finalizer: now, or when the lock is free."""
        self._left.append(work)
        if self._lock.acquire(blocking=False):
            self._lock.release()
            with contextlib.suppress(OSError), self.locked():
                pass


def netns_here() -> tuple[int, int]:
    """Return (inode, cookie) of the calling thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        cookie = int.from_bytes(asker.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
    return identity()[1], cookie


def netns_gone(inode: int) -> bool:
    """Return whether no visible process, descriptor or mount refers to this network namespace any more.

    Only names are read, since opening a namespace would keep it alive. False also when the inode number was reused.
    """
    return next(_netns_paths(inode), None) is None


def namespaces() -> Iterator[str]:
    """Yield a path of each network namespace that a process is in, holds or has mounted, as far as we may see."""
    seen: set[str] = set()
    mounts: set[str] = set()
    for pid in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        paths = [f"/proc/{pid}/ns/net"]
        with contextlib.suppress(OSError):
            paths += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        for path in paths:
            link = ""
            with contextlib.suppress(OSError):
                link = os.readlink(path)
            if link.startswith("net:[") and link not in seen:
                seen.add(link)
                yield path
        with contextlib.suppress(OSError):
            space = os.readlink(f"/proc/{pid}/ns/mnt")
            if space not in mounts:
                mounts.add(space)
                yield from _netns_mounts(pid, "net:[")


def _netns_paths(inode: int) -> Iterator[str]:
    link = f"net:[{inode}]"
    if os.readlink("/proc/thread-self/ns/net") == link:
        yield "/proc/thread-self/ns/net"
    mounts: set[str] = set()
    for pid in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/net") == link:
                yield f"/proc/{pid}/ns/net"
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == link:
                    yield f"/proc/{pid}/fd/{fd}"
        with contextlib.suppress(OSError):
            space = os.readlink(f"/proc/{pid}/ns/mnt")
            if space not in mounts:
                mounts.add(space)
                yield from _netns_mounts(pid, link)


def _netns_mounts(pid: str, link: str) -> Iterator[str]:
    """Yield where namespaces whose link begins so are mounted in the mount namespace of `pid`, as by `ip netns add`."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            if fields[3].startswith(link):  # ID, parent, device, root, mount point
                yield f"/proc/{pid}/root" + fields[4].replace("\\040", " ")


def _pid_space() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _may_be_in(pid_space: int, started: int) -> bool:
    """Return whether another pid namespace (a container's) may have a process that began then.

    The first pid namespace shows the processes of all, under its own pids; any other shows only those inside of it.
    """
    if _pid_space() != _FIRST_PID_SPACE:
        return True
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if _started(int(pid)) == started:
            try:
                if os.stat(f"/proc/{pid}/ns/pid").st_ino == pid_space:
                    return True
            except PermissionError:
                return True  # not known
            except OSError:
                pass  # it ended just now
    return False


def _started(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None if there is none, or only a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if words[0] in (b"Z", b"X") else int(words[19])
