# SPDX-License-Identifier: Apache-2.0
"""Folder: write files as root where other users may interfere: by descriptor, and never through their symbolic links.

A name that was checked may refer to another file a moment later. So a directory is opened once and held, and a file in
it is new (O_EXCL), or is checked through the descriptor that is then used. An existing file is never opened for
writing; where that is allowed, a new file replaces it. Users who may write in the directory can still rename and remove
files there, but they cannot read them, and nothing outside of the directory is touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from toolkit._base import fork
from toolkit._base.access import Access
from toolkit.errors import kernel_error, write_error

__all__ = ["Folder", "is_directory", "own_descriptor", "replace_text"]

_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40  # symbolic links that are followed in one path, as in the kernel

Allowed = Callable[[os.stat_result], bool]


def is_directory(path: str) -> bool:
    """Return whether a path can only be that of a directory: it ends in a slash."""
    return path.endswith(("/", "/.", "/.."))


def own_descriptor(path: str) -> int | None:
    """Return the descriptor of this process that a path such as /dev/stdout or /dev/fd/63 names; None for others."""
    named = re.fullmatch(r"/dev/(?:stdout|stderr)|(?:/dev|/proc/self)/fd/([0-9]{1,9})", path)
    if named is None:
        return None
    return int(named[1]) if named[1] else 1 if path.endswith("out") else 2


class Folder:
    """A directory to make files in, held by a descriptor, so that renaming it has no effect. Dead in a forked child."""

    def __init__(self, path: str | os.PathLike[str], *, make: Access | None = None) -> None:
        """Open the directory. make: create missing directories, for these readers.

        A symbolic link in the path is followed if it belongs to root, to this user, or to the user who called sudo.
        That of another user could lead anywhere: SystemCallError, as for all other failures.
        """
        self.path = Path(path)
        try:
            self._fd = _walk(os.fspath(path), make)
        except OSError as refused:
            raise write_error(refused, str(path), "write in") from None
        fork.track(self)

    @classmethod
    def of(cls, file: Path) -> Folder:
        """Open the directory of a file, which need not exist."""
        try:
            return cls(file.parent)
        except OSError as refused:
            if refused.errno in (errno.ENOENT, errno.ENOTDIR):
                raise kernel_error("write", refused.errno, f"cannot create {file}") from None
            raise

    def copy(self) -> Folder:
        """Return the same directory, with a descriptor of its own."""
        other = Folder.__new__(Folder)
        try:
            other.path, other._fd = self.path, os.dup(self._fd)
        except OSError as refused:
            raise write_error(refused, str(self.path), "write in") from None
        fork.track(other)
        return other

    def below(self, name: str, access: Access) -> Folder:
        """Open a directory in this one, or make it. No symbolic link is followed. SystemCallError."""
        inner = Folder.__new__(Folder)
        inner.path = self.path / name
        try:
            inner._fd = _enter(self._fd, name, access)
            if not stat.S_ISDIR(os.fstat(inner._fd).st_mode):
                inner.close()
                _refuse(inner.path, os.stat(name, dir_fd=self._fd, follow_symlinks=False), "write in")
        except OSError as refused:
            raise write_error(refused, str(inner.path), "write in") from None
        fork.track(inner)
        return inner

    def look(self, name: str) -> os.stat_result | None:
        """Return the status of what has the name now, of a symbolic link itself. None: nothing has."""
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def check(self, name: str, *, force: bool) -> None:
        """Raise what create() or stream() would raise, as far as that can be known beforehand. Creates nothing."""
        path = self.path / name
        try:
            found = self.look(name) if name else os.fstat(self._fd)
        except OSError as refused:
            raise write_error(refused, str(path), "create") from None
        if found is None or stat.S_ISREG(found.st_mode):
            if found is not None and not force:
                raise kernel_error("write", errno.EEXIST, f"cannot create {path}")
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=self._fd, effective_ids=True):
                raise kernel_error("write", errno.EACCES, f"cannot create {path}")
        else:
            _check_stream(path, found)

    def stream(self, name: str) -> int | None:
        """Open a FIFO or character device for writing. None where there is a regular file, or nothing.

        SystemCallError for anything else; ENXIO for a FIFO without a reader.
        """
        path = self.path / name
        try:
            handle = os.open(name or ".", _HANDLE, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as refused:
            raise write_error(refused, str(path), "create") from None
        try:
            found = os.fstat(handle)
            if stat.S_ISREG(found.st_mode):
                return None
            _check_stream(path, found)
            # Through the handle, so that it is what was checked. O_NONBLOCK: a FIFO without a reader would block here
            # for ever, while the interface's packets are taken from the kernel.
            fd = os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            if not os.path.samestat(os.fstat(fd), found):  # /proc is not a real one
                os.close(fd)
                raise OSError(errno.ESTALE, "")
            os.set_blocking(fd, True)
            return fd
        except OSError as refused:
            raise write_error(refused, str(path), "create") from None
        finally:
            os.close(handle)

    def create(self, name: str, access: Access, *, allowed: Allowed | None = None) -> int:
        """Create a file; return its descriptor, for reading and writing. SystemCallError; EEXIST if the name is taken.

        allowed: called with the status of a regular file that has the name; returns whether it may be replaced. The old
        file is not written to: the new one takes its name, and other hard links and readers keep the old contents.
        """
        path = self.path / name
        try:
            with contextlib.suppress(FileExistsError):
                return self._new(name, access)
            found = self.look(name)
            if found is not None and not (stat.S_ISREG(found.st_mode) and allowed is not None and allowed(found)):
                _refuse(path, found, "create")
            return self._replace(name, access)
        except OSError as refused:
            raise write_error(refused, str(path), "create") from None

    def rename(self, name: str, to: str, fd: int) -> bool:
        """Rename our file `name`, open as `fd`, to `to`. False when the name no longer refers to that file."""
        if not self._is(name, fd):
            return False
        os.rename(name, to, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        return self._is(to, fd)

    def remove(self, name: str, fd: int) -> None:
        """Remove the name of our file that is open as `fd`, if the name still refers to it. OSError."""
        if self._is(name, fd):
            os.unlink(name, dir_fd=self._fd)

    def close(self) -> None:
        """Close the directory. Repeatable."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _after_fork_in_child(self) -> None:
        self.close()

    def __enter__(self) -> Folder:
        """Close the directory at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the directory."""
        self.close()

    def _is(self, name: str, fd: int) -> bool:
        found = self.look(name)
        return found is not None and os.path.samestat(found, os.fstat(fd))

    def _new(self, name: str, access: Access) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            access.apply(fd, access.bits)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove(name, fd)
            os.close(fd)
            raise
        return fd

    def _replace(self, name: str, access: Access) -> int:
        draft = _draft()
        fd = self._new(draft, access)
        try:
            if not self.rename(draft, name, fd):
                raise OSError(errno.ESTALE, "")
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove(draft, fd)
            os.close(fd)
            raise
        return fd


def replace_text(path: Path, text: str, access: Access) -> None:
    """Write a text file, whole or not at all; it replaces a file of that name. SystemCallError."""
    with Folder.of(path) as folder:
        folder.check(path.name, force=True)
        draft = _draft()
        fd = folder.create(draft, access)
        try:
            with open(fd, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)
            if not folder.rename(draft, path.name, fd):
                raise OSError(errno.ESTALE, "")
        except OSError as refused:
            with contextlib.suppress(OSError):
                folder.remove(draft, fd)
            raise write_error(refused, str(path)) from None
        finally:
            os.close(fd)


def _draft() -> str:
    return f".afxdp-{os.getpid()}-{os.urandom(6).hex()}"


def _walk(path: str, make: Access | None) -> int:
    """Open the directory `path`, component by component."""
    at = os.open("/" if path.startswith("/") else ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    todo = [name for name in reversed(path.split("/")) if name]
    links, proc = 0, _device_of_proc()
    try:
        while todo:
            name = todo.pop()
            step = _enter(at, name, make)
            try:
                if not stat.S_ISLNK(os.fstat(step).st_mode):
                    at, step = step, at
                    continue
                links += 1
                if links > _LINKS:
                    raise OSError(errno.ELOOP, "")
                _check_link(path, name, os.fstat(step))
                if os.fstat(at).st_dev == proc:  # links such as /proc/PID/root: only the kernel can follow them
                    at, step = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=at), at
                    continue
                target = os.readlink("", dir_fd=step)  # of the link that was checked
                todo += [part for part in reversed(target.split("/")) if part]
                if target.startswith("/"):
                    at, step = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), at
            finally:
                os.close(step)
        if not stat.S_ISDIR(os.fstat(at).st_mode):
            raise OSError(errno.ENOTDIR, "")
    except BaseException:
        os.close(at)
        raise
    return at


def _device_of_proc() -> int:
    try:
        return os.stat("/proc/self/fd").st_dev
    except OSError:
        return -1


def _enter(at: int, name: str, make: Access | None) -> int:
    """Open what has the name in the directory `at` (a link itself, not its target); make a directory if nothing has."""
    try:
        return os.open(name, _HANDLE, dir_fd=at)
    except FileNotFoundError:
        if make is None:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=at)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            make.apply(fd, make.directory_bits)
        finally:
            os.close(fd)
    return os.open(name, _HANDLE, dir_fd=at)


def _trusted() -> set[int]:
    """Return the users (uid) whose links and FIFOs are trusted: root, this user, and the one who called sudo."""
    caller = os.environ.get("SUDO_UID", "")
    return {0, os.geteuid(), *([int(caller)] if caller.isascii() and caller.isdecimal() else [])}


def _check_link(path: str, name: str, status: os.stat_result) -> None:
    if status.st_uid not in _trusted():
        raise kernel_error(
            "write",
            errno.ELOOP,
            f"cannot write to {path}",
            cause=f"{name} in it is a symbolic link of user {status.st_uid}, who can lead it anywhere",
            remedy="name the place that it leads to",
        )


def _check_stream(path: Path, found: os.stat_result) -> None:
    """Raise SystemCallError unless it is a FIFO of a trusted user, or a character device."""
    if stat.S_ISFIFO(found.st_mode) and found.st_uid not in _trusted():
        raise kernel_error(
            "write",
            errno.EACCES,
            f"cannot write to {path}",
            cause=f"it is a FIFO of user {found.st_uid}, who would read what is written",
            remedy="make the FIFO yourself (mkfifo, chown, chmod), or write to another program: `-w - | …`",
        )
    if not (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)):
        _refuse(path, found, "create")


def _refuse(path: Path, found: os.stat_result, tried: str) -> NoReturn:
    """Raise the SystemCallError that says why this file or directory is not written to."""
    number, cause, remedy = errno.EEXIST, "", ""
    if stat.S_ISLNK(found.st_mode):
        number, cause = errno.ELOOP, "it is a symbolic link, and what is written never goes through one"
        remedy = "name the place that it leads to"
    elif stat.S_ISDIR(found.st_mode):
        number = errno.EISDIR
    elif stat.S_ISBLK(found.st_mode):
        number, cause = errno.EINVAL, "it is a block device: what is on the disk would be destroyed"
        remedy = "name a file, or a pipe"
    elif stat.S_ISSOCK(found.st_mode):
        number = errno.ENXIO
    raise kernel_error("write", number, f"cannot {tried} {path}", cause=cause, remedy=remedy)
