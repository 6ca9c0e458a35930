# SPDX-License-Identifier: Apache-2.0
"""Pins: programs that outlive their last process: pinned in a directory of root, in the BPF file system."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from toolkit.abi import libbpf as abi
from toolkit.errors import SystemCallError, kernel_error

__all__ = ["DIRECTORY", "pin", "pinned", "unpin"]

DIRECTORY = "/sys/fs/bpf/afxdp-toolkit"


def pin(fd: int, name: str, tried: str) -> None:
    """Pin the program `fd` as `name`. SystemCallError, with a sentence that begins with `tried`."""
    _check_directory(tried)
    result = abi.libbpf().bpf_obj_pin(fd, os.fsencode(f"{DIRECTORY}/{name}"))
    if result < 0:
        cause = f"{DIRECTORY} is in no BPF file system" if -result == errno.EPERM else ""
        remedy = "mount -t bpf bpf /sys/fs/bpf" if cause else ""
        raise kernel_error("pin", result, tried, cause=cause, remedy=remedy)


def pinned(name: str) -> int:
    """Return a new descriptor of the program pinned as `name`. OSError if there is none."""
    fd: int = abi.libbpf().bpf_obj_get(os.fsencode(f"{DIRECTORY}/{name}"))
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), f"{DIRECTORY}/{name}")
    return fd


def unpin(name: str) -> None:
    """Remove the pin. Repeatable."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{DIRECTORY}/{name}")


def _check_directory(tried: str) -> None:
    """Make the directory if it is missing; raise if other users can write to it, or replace it."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(DIRECTORY, 0o700)
        found, above = os.lstat(DIRECTORY), os.lstat(os.path.dirname(DIRECTORY))
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        if above.st_mode & 0o002 and not above.st_mode & stat.S_ISVTX:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    except OSError as refused:
        raise _refused(refused, tried) from None


def _refused(refused: OSError, tried: str) -> SystemCallError:
    number = refused.errno or errno.EIO
    if number == errno.EPERM and os.path.lexists(DIRECTORY):
        cause, remedy = f"others may write to {DIRECTORY}, or exchange it", "remove it"
    else:
        cause = f"{DIRECTORY} cannot be made: no BPF file system is mounted on {os.path.dirname(DIRECTORY)}"
        remedy = f"mount -t bpf bpf {os.path.dirname(DIRECTORY)}"
    return kernel_error("pin", number, tried, cause=cause, remedy=remedy)
